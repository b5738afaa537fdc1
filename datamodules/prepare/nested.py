"""Archives in archives: unpacked beside themselves in the scratch folder, as safely as the outer one."""

from __future__ import annotations

import shutil
from pathlib import Path

from datamodules.prepare.archives import Limits, unpack
from datamodules.prepare.content import PACKED, packed_files

ROUNDS = 3  # an archive in an archive in an archive


def open_inner(folder: Path, limits: Limits, packed: int | None = None) -> bool:
    """Replace every archive below `folder` by what it holds; False where there is none.

    img.tar.gz becomes img/: its single top folder, or a folder of its name for several entries. packed: the bytes of
    the outer archive, against which a bomb is measured.
    Raises: ValueError for one that is refused or damaged.
    """
    archives = packed_files(folder)
    for archive in archives:
        scratch = archive.with_name(f".{archive.name}.inner")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        unpack(archive, scratch, limits, packed=packed)
        archive.unlink()
        _place(scratch, archive.with_name(stem_of(archive)))
    return bool(archives)


def stem_of(archive: Path) -> str:
    """The name without its ending, which may have two parts."""
    name = archive.name
    return next(name[: -len(end)] for end in sorted(PACKED, key=len, reverse=True) if name.lower().endswith(end))


def _place(scratch: Path, place: Path) -> None:
    entries = list(scratch.iterdir())
    if len(entries) == 1 and entries[0].is_dir() and not (place.parent / entries[0].name).exists():
        entries[0].rename(place.parent / entries[0].name)
        scratch.rmdir()
        return
    while place.exists():
        place = place.with_name(f"{place.name}-2")
    scratch.rename(place)
