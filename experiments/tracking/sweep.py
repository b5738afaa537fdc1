"""A whole sweep as one W&B run of job type `sweep`: the matrix, heat maps, average gains, alarms, the report."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from datamodules.folder_scan import glob_data
from experiments.tracking.heat_map import heat_maps
from experiments.tracking.logger import WandbRun, closing
from experiments.tracking.run import prompt_name
from experiments.tracking.session import quiet_wandb, wandb_mode
from lightning_modules.vocabulary import CONTROLS

ENDS = {"": "value", "_low": "low", "_high": "high"}  # end of a key -> field of statistics.json
REPORT_BYTES = 50 * 2**20  # a larger page is left out: it is beside the sweep anyway


def log_sweep(out: Path, *, project: str, mode: str) -> None:
    """Log the finished sweep in OUT; logging it again after more cells continues the same W&B run.

    Needs OUT/matrix.csv and OUT/statistics.json, takes OUT/report.html where there is one. With a server the run
    consumes its cells' prompt artifacts. W&B that fails says so in one line and changes nothing else.

    Args:
        project: the W&B project of the cells' runs.
        mode: as `log.wandb`: auto, online, offline or off.
    """
    mode = wandb_mode(mode)
    if mode == "off":
        return
    out = Path(out)
    group = sweep_group(out)
    config = {"sweep": _read_json(out / "sweep.json").get("sweep", out.resolve().name)}
    run = WandbRun(out, mode=mode, project=project, group=group, tags=["sweep"], config=config, job_type="sweep")
    with closing([run]):
        run.use(lambda own: _consume_prompts(own, out))
        run.use(lambda own: own.log(sweep_row(out)))


def sweep_group(out: Path) -> str:
    """The group its cells' runs were logged under; the sweep's own name where they have none."""
    for path in glob_data(out / "cells", "*/config.yaml"):
        group = OmegaConf.select(OmegaConf.load(path), "log.group")
        if group:
            return str(group)
    return str(_read_json(out / "sweep.json").get("sweep", out.resolve().name))


def sweep_row(out: Path) -> dict[str, Any]:
    """Everything the sweep logs, by its documented key."""
    wandb = quiet_wandb()
    statistics, matrix = _read_json(out / "statistics.json"), _matrix(out / "matrix.csv")
    row: dict[str, Any] = dict(numbers(statistics, matrix))
    for key, (columns, data) in tables(statistics, matrix).items():
        row[key] = wandb.Table(columns=[*columns], data=data)
    maps = heat_maps(statistics.get("pairs", []))
    if maps:
        row["pictures/heatmap"] = [wandb.Image(picture, caption=caption) for caption, picture in maps.items()]
    report = out / "report.html"
    if report.is_file() and report.stat().st_size <= REPORT_BYTES:
        row["report/page"] = wandb.Html(report.read_text(), inject=False)
    return row


def numbers(statistics: Mapping[str, Any], matrix: list[dict[str, str]]) -> dict[str, float]:
    """Counts, average gains over targets and differences of methods, each with its bounds."""
    unfinished = [row for row in matrix if row["status"] != "finished"]
    row: dict[str, float] = {
        "sweep/cells": len({_cell(entry) for entry in matrix}),
        "sweep/missing": len({_cell(entry) for entry in unfinished}),
        "sweep/alarms": len(statistics.get("alarms", [])),
    }
    for entry in _overall(statistics.get("methods", [])):
        for end, field in ENDS.items():
            row[f"sweep/gain{end}/{entry['control']}/{entry['method']}"] = entry[field]
    for entry in _overall(statistics.get("differences", [])):
        for end, field in ENDS.items():
            row[f"sweep/difference{end}/{'-'.join(entry['methods'])}"] = entry[field]
    return {key: value for key, value in row.items() if value is not None}


def _overall(entries: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The mean over data sets and over targets other than the source."""
    return [entry for entry in entries if entry["data"] == "" and entry["over"] == "targets"]


def tables(statistics: Mapping[str, Any], matrix: list[dict[str, str]]) -> dict[str, tuple[list[str], list[list[Any]]]]:
    """Key -> (columns, rows)."""
    gains = [f"gain_{control}{end}" for control in CONTROLS for end in ENDS]
    names = ["source", "target", "data", "method", "role", "shared", "n", "metric", "value", "low", "high"]
    pairs = [[pair[name] for name in names] + _gains(pair["gains"]) for pair in statistics.get("pairs", [])]
    average = ["method", "data", "over", "control", "value", "low", "high", "pairs", "seeds", "n"]
    alarm = ["source", "target", "data", "method", "control", "value", "low", "high", "p_holm"]
    return {
        "table/matrix": _matrix_table(matrix),
        "table/pairs": ([*names, *gains], pairs),
        "table/methods": (average, [[entry[name] for name in average] for entry in statistics.get("methods", [])]),
        "table/alarms": (alarm, [[entry[name] for name in alarm] for entry in statistics.get("alarms", [])]),
    }


def _gains(gains: Mapping[str, Mapping[str, Any]]) -> list[float | None]:
    return [gains.get(control, {}).get(field) for control in CONTROLS for field in ENDS.values()]


def _matrix_table(matrix: list[dict[str, str]]) -> tuple[list[str], list[list[Any]]]:
    columns = list(matrix[0]) if matrix else ["source", "target", "data", "method", "seed", "status"]
    kinds = {"seed": int, "n": int, "value": float}
    rows = [[kinds[c](row[c]) if c in kinds and row[c] != "" else row[c] or None for c in columns] for row in matrix]
    return columns, rows


def _matrix(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _cell(row: Mapping[str, str]) -> tuple[str, ...]:
    return row["source"], row["data"], row["method"], row["seed"]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}


def _consume_prompts(run: Any, out: Path) -> None:
    """Declare the cells' prompts as inputs; only a server knows artifacts by name."""
    if run.offline:
        return
    for path in glob_data(out / "cells", "*/wandb/run_id"):
        try:
            run.use_artifact(f"{prompt_name(path.read_text().strip())}:latest")
        except Exception as error:  # a cell logged offline whose upload is still to come
            print(f"W&B: the prompt of {path.parents[1].name} is not on the server yet ({type(error).__name__}).")
