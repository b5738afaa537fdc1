"""Images that cannot be read: found before use, named, and left out only within an explicit threshold.

By default (`max_corrupt=0`) nothing is left out: the first such image stops the run and is named. With a threshold all
images of a split are decoded once before any is used; what was readable is remembered by (path, size, mtime), so the
next run only looks at the files' dates. The same rows are left out everywhere: in training, scoring, every rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.file_notes import look_at
from datamodules.images import decode_image

SHOWN = 10


class LeftOut(NamedTuple):
    """A row that is not used, and what is wrong with its image."""

    id: str
    reason: str


def allowed_images(max_corrupt: int | float, total: int) -> int:
    """Return how many of `total` images may be left out: a number, or a fraction below 1 of them (rounded down).

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
    found = look_at(files, "readable", lambda file: _reason(decode_image, file), keep=lambda reason: not reason)
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
