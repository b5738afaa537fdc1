"""What there was to win before training, where the folder holds headroom.jsonl (`python -m experiments.headroom`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.report.numbers import TextTable
from experiments.run.headroom_text import headroom_tables, headroom_verdict, read_headroom


def headroom_section(folder: Path) -> list[dict[str, Any]]:
    """A verdict and its tables for each data set; empty without the file, or where its rows are not whole."""
    try:
        return [
            {"data": data, "verdict": headroom_verdict(rows), "tables": [TextTable(*t) for t in headroom_tables(rows)]}
            for data, rows in read_headroom(folder).items()
        ]
    except (KeyError, StopIteration, TypeError, AssertionError, OSError):
        return []
