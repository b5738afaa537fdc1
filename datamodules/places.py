"""Where a published data set lies below the root: under our name, its publisher's, or a folder deeper.

Archives of one set differ in their top folder (EuroSAT's was `2750` and is `EuroSAT_RGB` today), and copies from Kaggle
are often packed with one more folder around. What is in the folder decides, not what it is called.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

DEEPER = 2


def find_folder(root: str | Path, names: Sequence[str], holds: str) -> Path:
    """The first of the folders `names` below `root` that holds what fits the pattern `holds`; else root/names[0].

    Names are compared without case; "" at the end is `root` itself. Where none of them does, the same is asked of the
    folders in them, two levels down.
    Raises: ValueError where two folders inside one of them do.
    """
    default = Path(root, names[0])
    if _holds(default, holds):
        return default
    places = [place for name in names for place in _spelt(Path(root), name)]
    for place in places:
        if _holds(place, holds):
            return place
    for place in places:
        level = [place] if place != Path(root) else []  # in the root itself lie the other data sets
        for _ in range(DEEPER):
            level = [folder for around in level for folder in _folders(around)]
            found = [folder for folder in level if _holds(folder, holds)]
            if len(found) > 1:
                raise ValueError(
                    f"'{place}' holds the same data set twice, in '{found[0].relative_to(place)}' and "
                    f"'{found[1].relative_to(place)}'. Expected one of them; move the other one away."
                )
            if found:
                return found[0]
    return default


def find_inner(folder: Path) -> Path:
    """`folder`, or the folder of the same name in it: `images/images`, as some copies are packed."""
    inner = folder / folder.name
    return inner if inner.is_dir() else folder


def _holds(folder: Path, pattern: str) -> bool:
    return folder.is_dir() and next(folder.glob(pattern), None) is not None


def _spelt(root: Path, name: str) -> list[Path]:
    """The folders below `root` whose path is `name` but for case."""
    places = [root]
    for part in Path(name).parts:
        places = [f for place in places for f in _folders(place) if f.name.casefold() == part.casefold()]
    return places


def _folders(place: Path) -> list[Path]:
    if not place.is_dir():
        return []
    with os.scandir(place) as entries:
        return sorted(Path(entry.path) for entry in entries if entry.name[0] != "." and entry.is_dir())
