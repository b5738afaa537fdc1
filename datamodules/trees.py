"""Folders as a user has them: hashing and copying without following a link, and finding what `from=` points at."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from datamodules.archives import CHUNK, Limits
from datamodules.digests import hash_file
from datamodules.manifest import Files
from datamodules.publication import Archive


class Found(NamedTuple):
    """Where a part of a data set is: an archive (or plain file) at `path`, or what it unpacks to."""

    archive: Archive
    path: Path
    unpacked: bool


def find_source(choices: list[Archive], source: Path) -> Found | None:
    """The first of the choices in `source`: the archive itself, or a folder with archives or with what they make."""
    if source.is_file():
        return _find_file(choices, source)
    for archive in choices:
        if (source / archive.file).is_file():
            return Found(archive, source / archive.file, unpacked=False)
    for archive in choices:
        for path in _places(archive, source):
            if path.is_dir() if archive.packed else path.is_file():
                return Found(archive, path, unpacked=archive.packed)
    return None


def _find_file(choices: list[Archive], source: Path) -> Found | None:
    """By its name; where nothing is published to compare with, any zip will be looked into."""
    for archive in choices:
        if source.name == archive.file or (not archive.urls and source.suffix == ".zip"):
            return Found(archive, source, unpacked=False)
    return None


def _places(archive: Archive, source: Path) -> Iterator[Path]:
    """Where the unpacked form may be: a root like ours, the folder around the target, or the target itself."""
    parts = archive.target.split("/")
    for begin in range(len(parts)):
        yield source.joinpath(*parts[begin:])
    for top in archive.top:
        if top:
            yield source / top
    if source.name in (parts[-1], *archive.top) or _is_bare(archive, source):
        yield source


def _is_bare(archive: Archive, source: Path) -> bool:
    """May the folder's own content be the target, whatever its name? Where an archive may come without a top folder."""
    return "" in archive.top and all(any(source.glob(count.pattern)) for count in archive.counts)


def hash_tree(target: Path) -> Files:
    """Every file below `target` (or `target` itself), hashed. Raises: ValueError for a link."""
    if target.is_file():
        return {"": (target.stat().st_size, hash_file(target))}
    return {path: ((target / path).stat().st_size, hash_file(target / path)) for path in walk(target)}


def copy_tree(source: Path, into: Path, limits: Limits, only: tuple[str, ...] = ()) -> Files:
    """Copy the files of `source` into the new folder `into` (or one file to it), never a link; returns what it wrote.

    Raises: ValueError for a link, or for more entries or bytes than `limits`.
    """
    if source.is_file():
        return {"": copy_file(source, into)}
    into.mkdir()
    files: Files = {}
    total = 0
    for path in walk(source):
        if only and path not in only:
            continue
        (into / path).parent.mkdir(parents=True, exist_ok=True)
        files[path] = copy_file(source / path, into / path)
        total += files[path][0]
        if len(files) > limits.max_entries or total > limits.max_bytes:
            raise ValueError(
                f"'{source}' holds more than {limits.max_entries:,} files or {limits.max_bytes:,} bytes. Expected the "
                "unpacked data set and nothing else; nothing was kept."
            )
    return files


def copy_file(source: Path, target: Path) -> tuple[int, str]:
    """(size, sha256) of the copy."""
    digest, size = hashlib.sha256(), 0
    with open(source, "rb") as old, open(target, "xb") as new:
        while piece := old.read(CHUNK):
            digest.update(piece)
            new.write(piece)
            size += len(piece)
    return size, digest.hexdigest()


def walk(folder: Path) -> Iterator[str]:
    """Paths of all files below `folder`, with "/", sorted within each folder. Raises: ValueError for a link."""
    for place, folders, files in os.walk(folder):
        folders.sort()
        for name in (*folders, *sorted(files)):
            path = Path(place, name)
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise ValueError(
                    f"'{path}' is a link or special file, which is not followed. Expected plain files and folders; "
                    "copy them first, for example with `cp -rL`."
                )
        for name in sorted(files):
            yield Path(place, name).relative_to(folder).as_posix()
