"""One part of a data set, from an archive (or a copy of what it holds) to its place below the root, or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.prepare.archives import CHUNK, Limits, unpack
from datamodules.prepare.catalogue_entry import Archive, Count, Digest
from datamodules.prepare.disk import is_full, scratch_folder, sync_folder
from datamodules.prepare.manifest import Files, hash_file, mismatch


def install(found: Found, root: Path) -> Files:
    """Unpack or copy into a scratch folder beside the target, check the content, rename. Returns the files.

    Raises: ValueError for a refused archive or wrong content, OSError for a full disk: nothing is left then.
    """
    archive, target = found.archive, root / found.archive.target
    try:
        with scratch_folder(target) as scratch:
            built, files = _build(found, scratch)
            problems = content_problems(archive, built)
            if problems:
                raise ValueError(
                    "\n  ".join(
                        [f"'{found.path}' does not hold what '{archive.target}' should. Nothing of it was kept:"]
                    )
                    + "\n  "
                    + "\n  ".join(problems)
                )
            os.rename(built, target)
            sync_folder(target.parent)
    except OSError as error:
        if not is_full(error):
            raise
        raise OSError(
            error.errno,
            f"The disk is full: '{found.path.name}' cannot be unpacked into '{target}'. What was unpacked is removed "
            "and the archive is kept. Free some space and run the same command.",
        ) from error
    return files


def _build(found: Found, scratch: Path) -> tuple[Path, Files]:
    archive = found.archive
    limits = Limits(archive.max_entries, archive.max_bytes, archive.max_ratio)
    if found.unpacked or not archive.packed:
        built = scratch / Path(archive.target).name
        return built, copy_tree(found.path, built, limits, archive.only)
    inside = scratch / "in"
    inside.mkdir()
    tops = archive.top or (Path(archive.target).name,)
    written = unpack(found.path, inside, limits, lambda path: _is_wanted(path, tops, archive.only))
    top = next((top for top in tops if (inside / top).is_dir() and written), None)
    if top is None:
        raise ValueError(
            f"'{found.path}' has no folder '{tops[0]}'. Expected the published {archive.file}; nothing of it was kept."
        )
    prefix = f"{top}/" if top else ""
    return inside / top, {p.removeprefix(prefix): entry for p, entry in written.items() if p.startswith(prefix)}


def _is_wanted(path: str, tops: tuple[str, ...], only: tuple[str, ...]) -> bool:
    inner = [path.removeprefix(f"{top}/") for top in tops if not top or path.startswith(f"{top}/")]
    return any(not only or rest in only for rest in inner)


def content_problems(archive: Archive, target: Path) -> list[str]:
    """One line per published digest or count that the files at `target` do not meet."""
    lines = []
    for path, digest in archive.files.items():
        lines += _file_problem(target / path, digest)
    for count in archive.counts:
        found = count_of(target, count)
        if found != count.n:
            lines.append(f"{describe(count)}: {found:,}. Expected {count.n:,}")
    return lines


def _file_problem(path: Path, digest: Digest) -> list[str]:
    if not path.is_file():
        return [f"'{path.name}' is missing"]
    value = hash_file(path, digest.algorithm)
    return [] if value == digest.value else [mismatch(path, value, digest)]


def count_of(target: Path, count: Count) -> int:
    """Count the files (or non-empty lines in them) that `count` is about below `target`."""
    files = [path for path in (target.glob(count.pattern) if count.pattern else [target]) if path.is_file()]
    if not count.lines:
        return len(files)
    return sum(1 for path in files for line in path.read_bytes().splitlines() if line.strip())


def describe(count: Count) -> str:
    what = "lines" if count.lines else "files"
    return f"{what} in {count.pattern}" if count.pattern else what


def source_of(found: Found, digest: Digest | None) -> dict[str, Any]:
    """Describe for the manifest where a part came from."""
    size = found.path.stat().st_size if found.path.is_file() else None
    stated = {"digest": f"{digest.algorithm}:{digest.value}", "stated": digest.source} if digest else {}
    return {"file": found.archive.file, "size": size, "from": str(found.path), **stated}


class Found(NamedTuple):
    """The place of a part of a data set: an archive (or plain file) at `path`, or what it unpacks to."""

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
    """Choose by the file's name; where nothing is published to compare with, any zip will be looked into."""
    for archive in choices:
        if source.name == archive.file or (not archive.urls and source.suffix == ".zip"):
            return Found(archive, source, unpacked=False)
    return None


def _places(archive: Archive, source: Path) -> Iterator[Path]:
    """Yield where the unpacked form may be: a root like ours, the folder around the target, or the target itself."""
    parts = archive.target.split("/")
    for begin in range(len(parts)):
        yield source.joinpath(*parts[begin:])
    for top in archive.top:
        if top:
            yield source / top
    if source.name in (parts[-1], *archive.top) or _is_bare(archive, source):
        yield source


def _is_bare(archive: Archive, source: Path) -> bool:
    """Say whether the folder itself may be the target, whatever its name: where an archive may lack a top folder."""
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
