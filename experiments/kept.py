"""The results of sweeps that are committed (experiments/results): what a person reads as it is, long tables packed."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
STATISTICS, MATRIX = "statistics.json.gz", "matrix.csv.gz"


def kept_statistics(sweep: str) -> dict[str, Any]:
    """The committed statistics of a sweep."""
    return json.loads(gzip.decompress((RESULTS / f"sweep_{sweep}" / STATISTICS).read_bytes()))


def kept_matrix(sweep: str) -> list[dict[str, str]]:
    """The lines of the committed matrix of a sweep, column -> text."""
    data = gzip.decompress((RESULTS / f"sweep_{sweep}" / MATRIX).read_bytes())
    return list(csv.DictReader(io.StringIO(data.decode())))


def packed(data: bytes) -> bytes:
    """Bytes as a .gz that holds no date: the same bytes make the same file."""
    return gzip.compress(data, mtime=0)
