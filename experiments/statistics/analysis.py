"""`statistics.json` of a sweep folder: all of it is a function of the samples."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from experiments.statistics.averages import (
    difference_rows,
    direction_rows,
    method_rows,
    primary_contrast,
    shared_rows,
    source_rows,
)
from experiments.statistics.outcomes import gather
from experiments.statistics.pairs import ALPHA, cell_rows, pair_rows
from experiments.sweep.folder import latest_plan
from experiments.sweep.samples import TransferRecord, all_records
from lightning_modules.atomic import replace_file
from lightning_modules.vocabulary import CONTROLS

SCHEMA, DIGITS = 2, 6
SPEAKS_OF = {
    "low, high": "these sources, targets and data sets, with other seeds and other test images",
    "images_low, images_high": "these prompts, on other test images",
    "seeds_low, seeds_high": "other seeds, on these test images",
    "sources_low, sources_high": "other sources like these, on these targets and data sets",
}
"""What each interval generalises to."""
MISSING = ("source", "data", "method", "seed", "status", "error")


def analyse(records: Iterable[TransferRecord], *, missing: Iterable[Mapping] = (), primary: Sequence[str] = ()) -> dict:
    """All statistics of the records as plain data, numbers rounded to 6 decimals; the same for the same records.

    Args:
        records: read once, one at a time; only outcomes are kept.
        missing: what was planned and is not there: rows with source, data, method, seed, status and error.
        primary: the two methods whose difference the sweep's recipe names beforehand, see `primary_contrast`.
    """
    contrast = primary_contrast(primary)
    data = gather(tqdm(records, desc="statistics", unit="record", delay=2, leave=False, disable=None))
    pairs = pair_rows(data)
    result = {
        "schema": SCHEMA, "level": 1 - ALPHA, "alpha": ALPHA, "controls": list(CONTROLS),
        "metrics": {name: of.metric for name, of in data.items()},
        "images": {name: of.images for name, of in data.items()}, "speaks_of": SPEAKS_OF, "primary": contrast,
        "cells": cell_rows(data), "pairs": pairs, "methods": method_rows(data), "shared": shared_rows(data),
        "directions": direction_rows(data), "sources": source_rows(data),
        "differences": difference_rows(data, contrast), "alarms": alarms(pairs),
        "missing": [{key: row.get(key, "") for key in MISSING} for row in missing],
    }  # fmt: skip
    return rounded(result)


def alarms(pairs: Sequence[Mapping]) -> list[dict]:
    """Negative transfer: the pairs and controls whose alarm fires, the worst first.

    pairs: as in `analyse(...)["pairs"]`. p is the one-sided p-value of the alarm, p_holm after Holm over the matrix.
    """
    rows = [
        {key: pair[key] for key in ("source", "target", "data", "method")}
        | {"control": control, "seeds": pair["seeds"]}
        | {key: gain[key] for key in ("value", "low", "high")}
        | {"p": gain["p_worse_raw"], "p_holm": gain["p_worse"]}
        for pair in pairs
        for control, gain in pair["gains"].items()
        if pair["alarm"][control]
    ]
    return sorted(rows, key=lambda row: (row["value"], row["data"], row["method"], row["source"], row["target"]))


def write_statistics(out: Path, missing: Iterable[Mapping] | None = None) -> dict:
    """Analyse OUT/samples and write OUT/statistics.json atomically; returns what was written.

    The primary contrast is the one of the latest plan, which holds the recipe.

    missing: as for `analyse`; else the rows of OUT/matrix.csv that are not finished.
    """
    out = Path(out)
    result = analyse(
        all_records(out / "samples"),
        missing=unfinished(out / "matrix.csv") if missing is None else missing,
        primary=latest_plan(out).get("recipe", {}).get("primary", ()),
    )
    text = json.dumps(result, indent=1, allow_nan=False) + "\n"
    replace_file(out / "statistics.json", text.encode())
    return json.loads(text)


def unfinished(matrix: Path) -> list[dict]:
    """Failed and missing cells of a matrix.csv; none where there is no such file."""
    if not matrix.is_file():
        return []
    with matrix.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["status"] != "finished"]
    return [{key: row.get(key) or "" for key in MISSING} | {"seed": int(row["seed"])} for row in rows]


def rounded(value: Any) -> Any:
    """Floats to 6 decimals (no negative zero) everywhere in plain data."""
    if isinstance(value, float):
        return round(value, DIGITS) + 0.0
    if isinstance(value, Mapping):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(part) for part in value]
    return value
