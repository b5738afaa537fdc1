"""What a scan of a user's folder sees: the same rule for every command that looks at files it was not told by name."""

from __future__ import annotations

import os
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

# Left by file managers, network drives, archives, editors and unfinished downloads beside what people put there.
TOOL_NAMES = frozenset(
    {"__macosx", "__pycache__", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "lost+found", "$recycle.bin"}
    | {"system volume information", "#recycle", "#snapshot"}
)
TOOL_ENDINGS = ("~", ".bak", ".backup", ".old", ".orig", ".swp", ".swo", ".tmp", ".temp", ".part", ".crdownload")
SHOWN = 3


def is_tool_file(name: str) -> bool:
    """Is a file or folder of this name hidden, or made by a tool and no one's data (`._a.png`, `@eaDir`, `a.png~`)?"""
    low = name.lower()
    if low.startswith((".", "@ea", "@__", "@recycle", "@tmp")) or low in TOOL_NAMES:
        return True
    return len(low) > 1 and (low.endswith(TOOL_ENDINGS) or low.startswith("~$") or low[0] == low[-1] == "#")


def scan(folder: str | Path, pattern: str = "*") -> list[Path]:
    """The entries of `folder` that match, sorted by name, without tool files.

    Raises: OSError; ValueError naming an entry whose name is no UTF-8 (it could not be written to any record).
    """
    names = [name for name in os.listdir(folder) if fnmatchcase(name, pattern) and not is_tool_file(name)]
    for name in names:
        _check_name(Path(folder), name)
    return [Path(folder, name) for name in sorted(names)]


def scan_folders(folder: str | Path) -> list[Path]:
    """The folders (linked ones too) of `scan`."""
    return [path for path in scan(folder) if path.is_dir()]


def scan_files(folder: str | Path, pattern: str = "*") -> list[Path]:
    """Every file below `folder` that matches, also in linked folders, sorted by path, without tool files and folders.

    A link that leads nowhere counts as a file: reading it names it. A linked folder that holds a folder it is in is
    followed once. Raises: as `scan`.
    """
    return sorted(iter_files(folder, pattern), key=lambda path: path.as_posix())


def iter_files(folder: str | Path, pattern: str = "*", above: frozenset[str] = frozenset()) -> Iterator[Path]:
    """`scan_files` one by one, folder by folder. above: the real paths of the folders this one was reached by."""
    here = os.path.realpath(folder)
    if here in above:
        return
    for path in scan(folder):
        if path.is_dir():
            yield from iter_files(path, pattern, above | {here})
        elif fnmatchcase(path.name, pattern):
            yield path


def glob_data(top: Path, pattern: str) -> list[Path]:
    """`top.glob(pattern)`, sorted, without tool files and what is in tool folders."""
    found = sorted(top.glob(pattern))
    return [path for path in found if not any(map(is_tool_file, path.relative_to(top).parts))]


def left_out_text(what: str, files: Iterable[Path], top: Path) -> str:
    """How many files were not taken, by ending, with examples; "" for none."""
    kinds: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        kinds[path.suffix.lower() or "no ending"].append(path)
    lines = []
    for ending, paths in sorted(kinds.items()):
        names = ", ".join(f"'{path.relative_to(top).as_posix()}'" for path in paths[:SHOWN])
        lines.append(f"{len(paths)} x {ending}: {names}{', ...' if len(paths) > SHOWN else ''}")
    return "\n  ".join([f"Left out below '{top}', {what}:", *lines]) if lines else ""


def warn_left_out(what: str, files: Iterable[Path], top: Path) -> None:
    """Warn with `left_out_text`, where there is any."""
    if text := left_out_text(what, files, top):
        warnings.warn(text, stacklevel=3)


def _check_name(folder: Path, name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        seen = os.fsencode(name).decode("latin-1")
        raise ValueError(
            f"A file name in '{folder}' is not UTF-8: {os.fsencode(name)!r} (as Latin-1 '{seen}'). Expected UTF-8, "
            "which ids and records are written in: rename it, or a whole tree with `convmv -f latin1 -t utf8 -r`."
        ) from None
