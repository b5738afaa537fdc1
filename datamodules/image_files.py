"""Data sets whose images are files of their own, and the JSON that lists them; every fault names file and line."""

from __future__ import annotations

import json
from abc import ABC
from pathlib import Path
from typing import Any

from torch import Tensor

from datamodules.base import ImageTextDataModule
from datamodules.images import decode_image


class ImageFiles(ImageTextDataModule, ABC):
    """`build_rows(split)` fills `self._files[split]`: for each row the path of its image below `root`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._files: dict[str, list[str]] = {}

    def image_path(self, split: str, index: int) -> Path:
        return Path(self.root, self._files[split][index])

    def load_image(self, split: str, index: int) -> Tensor:
        return decode_image(self.image_path(split, index))


def read_json(path: Path) -> Any:
    """Raises: ValueError naming the file and the place when it is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"'{path}' is not JSON: {error}. Expected a complete file; get it again from its publisher."
        ) from error


def read_jsonl(path: Path) -> list[dict]:
    """One object a line, blank lines skipped; each gets its line number (from 1) as "line".

    Raises: ValueError naming file and line for a line that is no JSON object.
    """
    rows = []
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                rows.append(_parse_line(line, path, number) | {"line": number})
    return rows


def _parse_line(line: str, path: Path, number: int) -> dict:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise ValueError(
            f"'{path}' line {number} is not JSON: {error}. Expected one object a line, like "
            '{"image": "a.jpg", ...}; repair or remove that line.'
        ) from error
    if not isinstance(value, dict):
        raise ValueError(f"'{path}' line {number} is a {type(value).__name__}. Expected an object: {{...}}.")
    return value


def take_field(row: dict, key: str, kind: type | tuple[type, ...], path: Path) -> Any:
    """row[key], checked. Raises: ValueError naming file, line and key when it is absent or of another type."""
    if not isinstance(row.get(key), kind) or isinstance(row.get(key), bool):
        names = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        found = "is missing" if key not in row else f"is {row[key]!r}"
        raise ValueError(f"'{path}' line {row['line']}: '{key}' {found}. Expected {names}.")
    return row[key]
