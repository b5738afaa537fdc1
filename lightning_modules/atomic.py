"""Files and folders that are there completely or not at all, whatever kills the writer."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from datamodules.whole_files.disk import sync_folder, write_bytes, write_file


def replace_file(path: str | Path, data: bytes, *, sync: bool = True) -> None:
    """`write_file` of datamodules/whole_files/disk.py with an error that says what to do.

    Raises:
        OSError: full disk or no permission; `path` is as it was before.
    """
    path = Path(path)
    with _explained(path, len(data)):
        write_file(path, data, sync=sync)


def replace_folder(folder: str | Path, files: Mapping[str, bytes]) -> Path:
    """Write `files` (name -> content) as `folder`, replacing a folder of the same files only once all are on disk.

    The files are written to a hidden folder beside it, which is then renamed. A writer killed at any moment leaves the
    old folder or the new one; between the two renames the old one is called `backup_of(folder)`, where
    `settled_folder` finds it. One writer per folder is assumed.

    Raises:
        FileExistsError: `folder` holds something else (it would be lost).
        OSError: full disk or no permission; what was there before is untouched.
    """
    folder = Path(folder).resolve()
    _check_replaceable(folder, files)
    staging = folder.with_name(f".{folder.name}.new-{os.getpid()}")
    with _explained(folder, sum(map(len, files.values()))):
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            for leftover in folder.parent.glob(f".{folder.name}.new-*"):  # what killed writers left half-written
                shutil.rmtree(leftover, ignore_errors=True)
            staging.mkdir()
            for name, data in files.items():
                write_bytes(staging / name, data)
            sync_folder(staging)
            _swap(staging, folder)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
    return folder


def backup_of(folder: Path) -> Path:
    """Return where the old folder waits between the two renames of `replace_folder`."""
    folder = Path(folder).resolve()
    return folder.with_name(f".{folder.name}.old")


def settled_folder(folder: str | Path) -> Path:
    """`folder`, or its backup when a writer was killed between the two renames; never writes."""
    folder = Path(folder)
    return backup_of(folder) if not folder.exists() and backup_of(folder).is_dir() else folder


def _check_replaceable(folder: Path, files: Mapping[str, bytes]) -> None:
    if folder.is_file():
        raise FileExistsError(f"'{folder}' is a file. Expected a folder to write; choose another name.")
    others = sorted(p.name for p in folder.iterdir() if p.name not in files) if folder.is_dir() else []
    if others or folder == Path(folder.anchor):
        raise FileExistsError(
            f"'{folder}' holds {len(others)} other file(s) ({', '.join(others[:3])}), which would be "
            f"lost. Expected a new or empty folder, or one with only {', '.join(files)}; choose another one."
        )


def _swap(staging: Path, folder: Path) -> None:
    backup = backup_of(folder)
    if folder.exists():
        shutil.rmtree(backup, ignore_errors=True)
        os.rename(folder, backup)
        try:
            os.rename(staging, folder)
        except BaseException:
            os.rename(backup, folder)
            raise
    else:
        os.rename(staging, folder)
    sync_folder(folder.parent)
    shutil.rmtree(backup, ignore_errors=True)


@contextmanager
def _explained(path: Path, size: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(
            error.errno,
            f"Cannot write '{path}': {error.strerror or error}. Expected a writable place with {size / 1024:.0f} KiB "
            "free; what was there before is untouched. Free some space or choose another folder.",
        ) from error
