"""Rows in a JSON file, whichever way they were saved: one object a line, or one array of objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datamodules.image_files import read_json, read_jsonl

MARKS = b"\xef\xbb\xbf\xff\xfe\x00 \t\r\n"  # byte-order marks, UTF-16's zeros, blanks


def read_rows(path: Path) -> list[dict]:
    """The objects of a JSON-lines file or of a JSON array; each gets its number in it (from 1) as "line".

    Raises: ValueError naming the file and the place for anything else.
    """
    if not is_array(path):
        return _read_lines(path)
    rows = []
    for number, value in enumerate(read_json(path), 1):
        if not isinstance(value, dict):
            raise ValueError(f"'{path}', entry {number} is a {type(value).__name__}. Expected an object: {{...}}.")
        rows.append(value | {"line": number})
    return rows


def either_ending(path: Path) -> Path:
    """`path`, or where only that is there the same with .jsonl for .json and the other way round."""
    other = path.with_suffix({".json": ".jsonl", ".jsonl": ".json"}[path.suffix])
    return other if other.is_file() and not path.exists() else path


def is_array(path: Path) -> bool:
    """Does the file begin as a JSON array does?"""
    with open(path, "rb") as file:
        return file.read(4096).lstrip(MARKS).startswith(b"[")


def _read_lines(path: Path) -> list[dict]:
    try:
        return read_jsonl(path)
    except ValueError as error:
        lists = _lists_in(path)
        if lists is None:
            raise
        where = f" Its lists are under {', '.join(map(repr, lists))}: save one of them alone." if lists else ""
        raise ValueError(
            f"'{path}' is one JSON object over several lines. Expected an object on each line, or one array of "
            f"objects: [{{...}}, {{...}}].{where}"
        ) from error


def _lists_in(path: Path) -> list[str] | None:
    """The keys of lists where the whole file is one object; None where it is not."""
    try:
        content: Any = read_json(path)
    except ValueError:
        return None
    return [key for key, value in content.items() if isinstance(value, list)] if isinstance(content, dict) else None
