"""Images that cannot be read: found before use, named, and left out only within an explicit threshold.

By default (`max_corrupt=0`) nothing is left out: the first such image stops the run and is named. With a threshold all
images of a split are decoded once before any is used; what was readable is remembered by (path, size, mtime), so the
next run only looks at the files' dates. The same rows are left out everywhere: in training, scoring, every rank.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import PIL

from datamodules.images import decode_image

SHOWN = 10


class LeftOut(NamedTuple):
    """A row that is not used, and what is wrong with its image."""

    id: str
    reason: str


def allowed_images(max_corrupt: int | float, total: int) -> int:
    """How many of `total` images may be left out: a number, or a fraction below 1 of them (rounded down).

    Raises: ValueError for anything else.
    """
    fraction = isinstance(max_corrupt, float) and 0 <= max_corrupt < 1
    if isinstance(max_corrupt, bool) or max_corrupt < 0 or (not fraction and max_corrupt != int(max_corrupt)):
        raise ValueError(
            f"Got max_corrupt={max_corrupt!r}. Expected how many unreadable images may be left out: 0, a whole number, "
            "or a fraction below 1."
        )
    return int(max_corrupt * total) if fraction else int(max_corrupt)


def find_unreadable(
    places: Iterable[tuple[str, int]],
    path_of: Callable[[str, int], Path | None],
    load: Callable[[str, int], Any],
) -> tuple[dict[tuple[str, int], str], int]:
    """(place -> why its image cannot be read, number of different images). Places that share a file are read once."""
    paths = {place: path_of(*place) for place in places}
    files = list(dict.fromkeys(path for path in paths.values() if path is not None))
    bad = unreadable_files(files)
    others = [place for place, path in paths.items() if path is None]
    reasons = {place: bad[path] for place, path in paths.items() if path is not None and path in bad}
    for place in others:
        reason = _reason(load, *place)
        if reason:
            reasons[place] = reason
    return reasons, len(files) + len(others)


def unreadable_files(files: Sequence[Path]) -> dict[Path, str]:
    """file -> what is wrong, for those that `decode_image` refuses."""
    store = _store_path(files)
    known = _read_store(store)
    states = {file: _state(file) for file in files}
    todo = [file for file in files if states[file] is None or known.get(str(file)) != states[file]]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = dict(zip(todo, pool.map(lambda file: _reason(decode_image, file), todo), strict=True))
    fresh = {str(file): states[file] for file in todo if not found[file]}
    if fresh:
        _write_store(store, known | fresh)
    return {file: reason for file, reason in found.items() if reason}


def too_many(lines: Sequence[str], total: int, limit: int, what: str) -> ValueError:
    """The error that names the images, a line each, up to ten of them."""
    head = (
        f"{len(lines)} of {total} images of {what} cannot be read. Expected at most {limit} (max_corrupt): restore "
        "them, or allow more."
    )
    more = [f"... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return ValueError("\n  ".join([head, *lines[:SHOWN], *more]))


def _reason(load: Callable[..., Any], *place: Any) -> str:
    try:
        load(*place)
    except (ValueError, OSError) as error:
        return str(error)
    return ""


# ---- what was readable, by size and date ----------------------------------------------------------------------------
def _store_path(files: Sequence[Path]) -> Path:
    """`cache/images/<hash of the common folder>.json`, or below TVP_CACHE."""
    common = os.path.commonpath([file.absolute() for file in files]) if files else ""
    digest = hashlib.sha256(common.encode()).hexdigest()[:16]
    return Path(os.environ.get("TVP_CACHE", "cache"), "images", f"{digest}.json")


def _state(file: Path) -> list[int] | None:
    with suppress(OSError):
        stat = file.stat()
        return [stat.st_size, stat.st_mtime_ns]
    return None


def _read_store(path: Path) -> dict[str, list[int]]:
    """Empty when it is absent, damaged or of another decoder."""
    with suppress(OSError, ValueError):
        content = json.loads(path.read_text())
        if isinstance(content, dict) and content.get("pillow") == PIL.__version__:
            return content["readable"]
    return {}


def _write_store(path: Path, readable: dict[str, list[int]]) -> None:
    """Atomic; of two processes the last wins, and what the other found is looked at again. Never fatal."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps({"pillow": PIL.__version__, "readable": readable}))
        part.replace(path)
