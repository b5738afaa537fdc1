"""Is this the published content? Digests, counts, and every picture that a list names."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules.folder_scan import glob_data
from datamodules.prepare.catalogue_entry import Archive, Count, Digest, Listed
from datamodules.prepare.manifest import hash_file, mismatch

DEPTH = 4  # folders around the published one
PACKED = (".zip", ".tar", ".tar.gz", ".tgz")


def content_problems(archive: Archive, target: Path) -> list[str]:
    """One line per published digest, count or list of pictures that the files at `target` do not meet."""
    lines = []
    for path, digest in archive.files.items():
        lines += file_problem(target / path, digest)
    for count in archive.counts:
        found = count_of(target, count)
        if found < count.n or (found > count.n and not count.more):
            lines.append(f"{describe(count)}: {found:,}. Expected {'at least ' * count.more}{count.n:,}")
    for listed in archive.listed:
        lines += missing_pictures(target, listed)
    return lines


def file_problem(path: Path, digest: Digest) -> list[str]:
    if not path.is_file():
        return [f"'{path.name}' is missing"]
    value = hash_file(path, digest.algorithm)
    return [] if value == digest.value else [mismatch(path, value, digest)]


def count_of(target: Path, count: Count) -> int:
    """Count the files (or rows in them: lines, or the entries of a JSON array) that `count` is about below `target`."""
    files = [path for path in (glob_data(target, count.pattern) if count.pattern else [target]) if path.is_file()]
    return sum(len(rows_of(path)) for path in files) if count.lines else len(files)


def describe(count: Count) -> str:
    what = "lines" if count.lines else "files"
    return f"{what} in {count.pattern}" if count.pattern else what


def rows_of(path: Path) -> list[Any]:
    """The lines of a file that are not empty or, where it is one JSON array, its entries as JSON."""
    data = path.read_bytes()
    if data.lstrip().startswith(b"["):
        try:
            return [json.dumps(entry) for entry in json.loads(data)]
        except ValueError:
            return []  # cut short: no row counts
    return [line for line in data.splitlines() if line.strip()]


def missing_pictures(target: Path, listed: Listed) -> list[str]:
    """One line for each list that names pictures which are not there."""
    lines = []
    for file in glob_data(target, listed.pattern):
        names = [name for row in rows_of(file) if (name := _value(row, listed.key))]
        gone = [name for name in names if not (target / name).is_file()]
        if gone:
            lines.append(f"{file.name} names {len(names):,} pictures, and {len(gone):,} are not there, as '{gone[0]}'")
    return lines


def _value(row: bytes | str, key: str) -> str | None:
    try:
        value = json.loads(row).get(key)
    except (ValueError, AttributeError):
        return None
    return value if isinstance(value, str) else None


def looks_like(archive: Archive, folder: Path) -> bool:
    """Is there something in `folder` for all that is stated of `archive`? False where nothing is stated.

    Forms of one part differ in the size of their pictures only: they must also have the right name.
    """
    if archive.part and folder.name != archive.target:
        return False
    patterns = [*archive.files, *(count.pattern for count in archive.counts if count.pattern)]
    return bool(patterns) and folder.is_dir() and all(next(folder.glob(p), None) is not None for p in patterns)


def find_top(inside: Path, archive: Archive) -> Path | None:
    """The folder at or below `inside` that is the published one: by its name, else by what it holds.

    One that has the name and not the content is returned where no other has; None where there is neither.
    """
    tops = archive.top or (Path(archive.target).name,)
    named = [inside / top for top in tops if (inside / top).is_dir() and any((inside / top).iterdir())]
    stated = bool(archive.files or archive.counts)
    right = [folder for folder in named if looks_like(archive, folder) or not stated]
    if right:
        return right[0]
    return next((folder for folder in folders_below(inside) if looks_like(archive, folder)), next(iter(named), None))


def folders_below(top: Path, depth: int = DEPTH) -> Iterator[Path]:
    """Yield `top` and the visible folders below it, the outer ones first."""
    level = [top]
    for _ in range(depth + 1):
        yield from level
        level = [Path(e.path) for around in level if around.is_dir() for e in _entries(around) if e.is_dir()]


def packed_files(top: Path, depth: int = DEPTH) -> list[Path]:
    """The visible archives at most `depth` folders below `top`, by their endings."""
    return [Path(entry.path) for folder in folders_below(top, depth) for entry in _entries(folder) if _is_packed(entry)]


def _is_packed(entry: os.DirEntry) -> bool:
    return entry.name.lower().endswith(PACKED) and entry.is_file(follow_symlinks=False)


def _entries(folder: Path) -> list[os.DirEntry]:
    with os.scandir(folder) as entries:
        return sorted((entry for entry in entries if entry.name[0] not in "._"), key=lambda entry: entry.name)
