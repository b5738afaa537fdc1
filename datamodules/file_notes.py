"""Remembers what was found out about image files by their size and date below `cache/images` (or TVP_CACHE)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from datamodules.images import reader_version
from datamodules.whole_files.disk import cache_root, write_file

Note = list[Any]
"""[bytes, modification time in ns, what was found]."""


def look_at(
    files: Sequence[Path], what: str, find: Callable[[Path], str], keep: Callable[[str], bool]
) -> dict[Path, str]:
    """file -> `find(file)`, asked of several files at a time, and only of those without a note or changed since.

    what: names the notes of one kind. keep: which findings are worth a note. Raises what `find` raises.
    """
    store = _store_path(files, what)
    known = _read(store)
    states = {file: _state(file) for file in files}
    noted = {file: _noted(known, file, state) for file, state in states.items()}
    todo = [file for file, finding in noted.items() if finding is None]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = dict(zip(todo, pool.map(find, todo), strict=True))
    fresh = {str(file): [*state, found[file]] for file in todo if (state := states[file]) and keep(found[file])}
    if fresh:
        _write(store, known | fresh)
    return {file: finding for file, finding in noted.items() if finding is not None} | found


def _noted(known: dict[str, Note], file: Path, state: list[int] | None) -> str | None:
    note = known.get(str(file))
    return note[2] if note and state and note[:2] == state else None


def _store_path(files: Sequence[Path], what: str) -> Path:
    common = os.path.commonpath([file.absolute() for file in files]) if files else ""
    digest = hashlib.sha256(common.encode()).hexdigest()[:16]
    return cache_root() / "images" / f"{digest}-{what}.json"


def _state(file: Path) -> list[int] | None:
    with suppress(OSError):
        stat = file.stat()
        return [stat.st_size, stat.st_mtime_ns]
    return None


def _read(path: Path) -> dict[str, Note]:
    """Empty when it is absent, damaged or of another decoder."""
    with suppress(OSError, ValueError):
        content = json.loads(path.read_text())
        if isinstance(content, dict) and content.get("reader") == reader_version():
            return {file: note for file, note in content["notes"].items() if len(note) == 3}
    return {}


def _write(path: Path, notes: dict[str, Note]) -> None:
    """Atomic; of two processes the last wins, and what the other found is looked at again. Never fatal."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, json.dumps({"reader": reader_version(), "notes": notes}).encode(), sync=False)
