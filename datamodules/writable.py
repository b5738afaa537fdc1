"""Whether a folder can be written, asked before anything is loaded; and the cache, which a run can do without."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from errno import EACCES, ENOTDIR
from pathlib import Path

from datamodules.whole_files.disk import cache_root

CACHES = {
    "controls": "scores of controls",
    "images": "notes on pictures",
    "features": "clean features",
    "decoded": "decoded pictures",
    "served": "answers of servers",
}
_said: set[Path] = set()


def write_problem(folder: str | Path) -> OSError | None:
    """Why no file can be made in `folder` (or it cannot be made itself); None where one can. Leaves nothing behind."""
    place = Path(folder)
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not place.is_dir():
        return OSError(ENOTDIR, f"'{place}' is no folder")
    if not os.access(place, os.W_OK | os.X_OK):
        return OSError(EACCES, f"'{place}' is read-only for this user")
    try:  # quotas, network file systems and full disks say it only here
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"x")
            file.flush()
    except OSError as error:
        return OSError(error.errno, f"'{place}': {error.strerror}")
    return None


def require_writable(folder: str | Path, what: str, setting: str, *, inside: bool = False) -> None:
    """Raises: OSError naming the folder, the `setting` that chooses it (`out=DIR`), and what to do.

    what: the folder in words. inside: also each folder that is in it already, as a run has that goes on.
    """
    folder = Path(folder)
    inner = sorted(path for path in folder.iterdir() if path.is_dir()) if inside and folder.is_dir() else []
    for place in (folder, *inner):
        problem = write_problem(place)
        if problem is not None:
            raise OSError(
                problem.errno,
                f"Cannot write {what} '{place}': {problem.strerror}. Nothing was loaded yet. Choose another "
                f"{setting}, or make this one writable.",
            )


def note_unwritable_caches(names: Iterable[str]) -> None:
    """Print, once for each cache folder and process, which of the caches `names` (of CACHES) cannot be written."""
    problems = {name: problem for name in names if (problem := write_problem(cache_root() / name)) is not None}
    if problems:
        what = ", ".join(CACHES[name] for name in problems)
        say_unwritable(cache_root(), next(iter(problems.values())), what)


def say_unwritable(root: Path, problem: OSError, what: str) -> None:
    """One line for each cache folder `root` and process."""
    if root.absolute() not in _said:
        _said.add(root.absolute())
        print(
            f"The cache folder '{root}' cannot be written ({problem.strerror or problem}): {what} are not kept "
            "and are made anew next time. The run goes on; TVP_CACHE=DIR chooses another folder.",
            flush=True,
        )
