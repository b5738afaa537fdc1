"""One part of a data set, from an archive (or a copy of what it holds) to its place below the root, or not at all."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.folder_scan import glob_data
from datamodules.prepare.archives import CHUNK, SMALL, Limits, declared_size, unpack
from datamodules.prepare.catalogue_entry import Archive, Digest
from datamodules.prepare.content import PACKED, content_problems, find_top, folders_below, looks_like, packed_files
from datamodules.prepare.disk import STATE, scratch_folder
from datamodules.prepare.manifest import Files, hash_file
from datamodules.prepare.nested import ROUNDS, open_inner
from datamodules.whole_files.disk import check_room, is_full, sync_folder


def install(found: Found, root: Path) -> tuple[Files, Path | None]:
    """Unpack or copy into a scratch folder beside the target, check the content, rename.

    Returns the files and, where something else had the target's name, where that is kept now.
    Raises: ValueError for a refused archive or wrong content, OSError for a full disk: nothing is changed then.
    """
    archive, target = found.archive, root / found.archive.target
    try:
        with scratch_folder(target) as scratch:
            built, files = _build(found, scratch)
            problems = content_problems(archive, built)
            if problems:
                text = f"'{found.path}' does not hold what '{archive.target}' should. Nothing of it was kept:"
                advice = "Expected the complete published files; get them again, or another copy."
                raise ValueError("\n  ".join([text, *problems, advice]))
            kept = set_aside(target, root)
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
    return files, kept


def set_aside(target: Path, root: Path) -> Path | None:
    """Move what has the target's name, perhaps the user's, to `<root>/.prepared/replaced`; None where nothing has."""
    if not os.path.lexists(target):
        return None
    name = target.relative_to(root).as_posix().replace("/", "__")
    places = (root / STATE / "replaced" / f"{name}-{i}" for i in range(1, 1000))
    place = next(place for place in places if not os.path.lexists(place))
    place.parent.mkdir(parents=True, exist_ok=True)
    os.rename(target, place)
    return place


def _build(found: Found, scratch: Path) -> tuple[Path, Files]:
    archive = found.archive
    limits = limits_of(archive)
    if not archive.packed:
        built = scratch / Path(archive.target).name
        return built, copy_tree(found.path, built, limits)
    inside, place = scratch / "in", scratch / "in" / Path(archive.target).name
    inside.mkdir()
    if found.unpacked:
        copied = copy_tree(found.path, place, limits, archive.only)
        written = {f"{place.name}/{path}": entry for path, entry in copied.items()}
    else:
        written = unpack(found.path, inside, limits, lambda path: not archive.only or Path(path).name in archive.only)
    top, opened = _find_complete(inside, archive, limits, None if found.unpacked else found.path.stat().st_size)
    if top is None:
        there = ", ".join(sorted({path.split("/")[0] for path in written})[:5]) or "nothing"
        name = next(iter(archive.top), "") or Path(archive.target).name
        raise ValueError(
            f"'{found.path}' has no folder '{name}'. Expected the published {archive.file}; nothing of it was kept "
            f"(it holds: {there})."
        )
    prefix = "" if top == inside else f"{top.relative_to(inside).as_posix()}/"
    if opened:
        return top, hash_tree(top)
    return top, {path.removeprefix(prefix): entry for path, entry in written.items() if path.startswith(prefix)}


def _find_complete(inside: Path, archive: Archive, limits: Limits, packed: int | None) -> tuple[Path | None, bool]:
    """The published folder in what came out, and whether archives in it had to be opened to complete it."""
    top, opened = find_top(inside, archive), False
    for _ in range(ROUNDS):
        if (top is not None and not content_problems(archive, top)) or not open_inner(inside, limits, packed):
            break
        top, opened = find_top(inside, archive), True
    return top, opened


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


def room_for(found: Found) -> int:
    """Bytes that installing this copy takes, about: what it has, which may be less than what is published.

    A folder and a .zip say it. What a .tar.gz holds would only be known by unpacking it: the published size is taken,
    or the most that `unpack` lets out of an archive of its size. Archives in it are not looked into.
    Raises: ValueError for a link in a folder.
    """
    archive, path = found.archive, found.path
    if path.is_dir():
        return sum((path / name).stat().st_size for name in walk(path) if not archive.only or name in archive.only)
    size = path.stat().st_size
    if not archive.packed:
        return size
    said = declared_size(path, limits_of(archive), archive.only)
    return said if said is not None else int(min(archive.unpacked, max(SMALL, archive.max_ratio * size)))


def limits_of(archive: Archive) -> Limits:
    """What its catalogue entry lets out of it."""
    return Limits(archive.max_entries, archive.max_bytes, archive.max_ratio)


def find_source(choices: list[Archive], source: Path) -> Found | None:
    """The first of the choices in `source`: the archive itself, or a folder with archives or with what they make.

    By the published names first, then by what a folder holds.
    """
    if source.is_file():
        return _find_file(choices, source)
    around = list(folders_below(source))
    for archive in choices:
        for folder in around:
            if (folder / archive.file).is_file():
                return Found(archive, folder / archive.file, unpacked=False)
    for archive in choices:
        for path in (place for folder in around for place in _places(archive, folder)):
            if _is_part(archive, path):
                return Found(archive, path, unpacked=archive.packed)
    for archive in choices:
        for path in around:
            if archive.packed and looks_like(archive, path):
                return Found(archive, path, unpacked=True)
    return None


def _is_part(archive: Archive, path: Path) -> bool:
    if not archive.packed:
        return path.is_file()
    # a folder of the name that holds something else is a folder around the one that is meant
    return path.is_dir() and (looks_like(archive, path) or not _looks_deeper(archive, path))


def _looks_deeper(archive: Archive, path: Path) -> bool:
    return any(looks_like(archive, folder) for folder in folders_below(path))


def _find_file(choices: list[Archive], source: Path) -> Found | None:
    """Choose by the file's name; where nothing is published to compare with, any zip will be looked into."""
    for archive in choices:
        if source.name == archive.file or (not archive.urls and source.suffix == ".zip"):
            return Found(archive, source, unpacked=False)
    return None


@contextmanager
def opened_source(parts: Sequence[list[Archive]], source: Path, root: Path, name: str) -> Iterator[Path]:
    """`source`, or a scratch folder with what its archives hold, where the parts are not in it under their own names.

    Any archive given as `source` is looked into; of those in a folder only the ones that are called like the data set,
    or the only one. What comes out is gone afterwards.
    """
    packed = _to_open(parts, source, name)
    if not packed or all(find_source(choices, source) for choices in parts):
        yield source
        return
    limits = Limits(max(a.max_entries for p in parts for a in p), max(a.max_bytes for p in parts for a in p))
    check_room(root, sum(declared_size(path, limits) or 0 for path in packed), f"what '{source}' unpacks to")
    with scratch_folder(root / STATE / f"opened-{name}") as scratch:
        try:
            _open_all(parts, packed, scratch, limits)
        except OSError as error:
            if not is_full(error):
                raise
            text = f"The disk is full: '{source}' cannot be unpacked below '{root}'. What was unpacked is removed. Free"
            raise OSError(error.errno, f"{text} some space and run the same command.") from error
        yield scratch if all(find_source(choices, scratch) for choices in parts) else source


def _open_all(parts: Sequence[list[Archive]], packed: list[Path], scratch: Path, limits: Limits) -> None:
    for i, path in enumerate(packed):
        into = scratch / str(i) if len(packed) > 1 else scratch
        into.mkdir(exist_ok=True)
        unpack(path, into, limits)
    size = sum(path.stat().st_size for path in packed)
    for _ in range(ROUNDS):
        if all(find_source(choices, scratch) for choices in parts) or not open_inner(scratch, limits, size):
            break


def _to_open(parts: Sequence[list[Archive]], source: Path, name: str) -> list[Path]:
    if source.is_file():
        return [source] if source.name.lower().endswith(PACKED) else []
    packed = packed_files(source, 1)
    words = {name, *(word for p in parts for a in p for word in (a.target.split("/")[0], a.file.split(".")[0]))}
    known = [path for path in packed if any(_letters(word) in _letters(path.name) for word in words if len(word) > 3)]
    return known or (packed if len(packed) == 1 else [])


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


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
    return "" in archive.top and all(any(glob_data(source, count.pattern)) for count in archive.counts)


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
