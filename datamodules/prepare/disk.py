"""What belongs to one data root while it is prepared: scratch folders, and one writer at a time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datamodules.whole_files.disk import locked

STATE = ".prepared"  # below the root: manifests, indexes, unfinished downloads, the lock


@contextmanager
def scratch_folder(target: Path) -> Iterator[Path]:
    """A new hidden folder beside `target`, gone afterwards with all that is still in it; old ones are swept first."""
    made = _make_parents(target.parent)
    for leftover in target.parent.glob(f".{target.name}.unpack-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    scratch = target.with_name(f".{target.name}.unpack-{os.getpid()}")
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        for folder in made:
            if not any(folder.iterdir()):
                folder.rmdir()


def _make_parents(folder: Path) -> list[Path]:
    """Make `folder` and return what had to be made, innermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


@contextmanager
def locked_root(root: Path) -> Iterator[None]:
    """One `prepare` per root. The lock is the system's: it is gone with its process, however that ends.

    Raises: BlockingIOError naming the process that holds it.
    """
    with locked(root / STATE / "lock", "prepare", root, "root=DIR"):
        yield
