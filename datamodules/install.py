"""One part of a data set, from an archive (or a copy of what it holds) to its place below the root, or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from datamodules.archives import Limits, unpack
from datamodules.digests import hash_file, mismatch
from datamodules.disk import is_full, scratch_folder, sync_folder
from datamodules.manifest import Files
from datamodules.publication import Archive, Count, Digest
from datamodules.trees import Found, copy_tree


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
    """How many files (or non-empty lines in them) a count finds below `target`."""
    files = [path for path in (target.glob(count.pattern) if count.pattern else [target]) if path.is_file()]
    if not count.lines:
        return len(files)
    return sum(1 for path in files for line in path.read_bytes().splitlines() if line.strip())


def describe(count: Count) -> str:
    what = "lines" if count.lines else "files"
    return f"{what} in {count.pattern}" if count.pattern else what


def source_of(found: Found, digest: Digest | None) -> dict[str, Any]:
    """What the manifest says of where a part came from."""
    size = found.path.stat().st_size if found.path.is_file() else None
    stated = {"digest": f"{digest.algorithm}:{digest.value}", "stated": digest.source} if digest else {}
    return {"file": found.archive.file, "size": size, "from": str(found.path), **stated}
