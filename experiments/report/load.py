"""What a report is made of: statistics of a folder, and the run folders behind them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.folder_scan import scan
from datamodules.whole_files.command_line import suggest
from experiments.report.gain_curves import Point, drift_rows, gain_points
from experiments.report.numbers import main_method
from experiments.report.settings import read_config
from experiments.run.folder import CONFIG, read_status
from experiments.statistics import analyse, write_statistics
from experiments.sweep.folder import latest_plan
from experiments.sweep.samples import TransferRecord, read_samples, run_records, sample_files
from lightning_modules.prompts import Prompt
from lightning_modules.records import read_rows

SCHEMA, READABLE = 2, (1, 2)
"""Written now, and read; 1 had averages whose seeds were blocks across sources (docs/results.md)."""


class CellKey(NamedTuple):
    """What was trained once: (source, data, method, seed)."""

    source: str
    data: str
    method: str
    seed: int

    @property
    def label(self) -> str:
        return f"{self.source}-{self.data}-{self.method}-s{self.seed}"


class Group(NamedTuple):
    """Something the page shows one of at a time. key: what the choice calls it, a word of its own in the page."""

    key: str
    name: str
    content: Any


class Run(NamedTuple):
    """A cell's run folder as the report reads it. link: relative to the page. drifts: mllm -> feature drift."""

    cell: CellKey
    folder: Path
    link: str
    state: str
    config: dict[str, Any]
    points: list[Point]
    drift: str
    drifts: dict[str, float]


class Material(NamedTuple):
    """name: what the sweep or run is called. label: what its recipe says of it. method: whose prompts are shown.
    control: which one is shown first.
    """

    name: str
    label: str
    folder: Path
    statistics: dict[str, Any]
    runs: dict[CellKey, Run]
    method: str
    control: str
    examples: int

    def cells(self) -> list[CellKey]:
        return sorted({cell_of(entry) for entry in self.statistics["cells"]})

    def data_sets(self) -> list[str]:
        return sorted({cell["data"] for cell in self.statistics["cells"]})


def cell_of(entry: dict) -> CellKey:
    return CellKey(entry["source"], entry["data"], entry["method"], entry["seed"])


def first_seeds(cells: Iterable[CellKey]) -> list[CellKey]:
    """Of every (source, data, method) the lowest seed."""
    first: dict[tuple[str, str, str], CellKey] = {}
    for cell in sorted(cells):
        first.setdefault(cell[:3], cell)
    return list(first.values())


def sweep_material(folder: Path, *, control: str, method: str, examples: int) -> Material:
    """Raises: ValueError (damaged file, unknown control or method), FileNotFoundError (nothing finished)."""
    statistics = read_statistics(folder)
    cells, folders = sorted({cell_of(entry) for entry in statistics["cells"]}), run_folders(folder)
    runs = {cell: read_run(cell, folders[cell.label], folder, statistics) for cell in cells if cell.label in folders}
    label = str(latest_plan(folder).get("label") or "")
    name, chosen = sweep_name(folder), _chosen(statistics, method, control)
    return Material(name, label, folder, statistics, runs, *chosen, examples)


def run_material(folder: Path, *, control: str, method: str, examples: int) -> Material:
    """A single finished run as a sweep of one cell."""
    row = next(row for row in read_rows(folder / "results.jsonl") if row["split"] == "test")
    cell = cell_of(row)
    statistics = checked(analyse(run_records(folder, *cell)), folder / CONFIG)
    runs = {cell: read_run(cell, folder, folder, statistics)}
    name, chosen = folder.resolve().name, _chosen(statistics, method, control)
    return Material(name, "", folder, statistics, runs, *chosen, examples)


def _chosen(statistics: dict, method: str, control: str) -> tuple[str, str]:
    """(method, control), both among those of the statistics."""
    methods = {cell["method"] for cell in statistics["cells"]}
    chosen = _known("method", method or main_method(statistics), methods)
    return chosen, _known("control", control, statistics["controls"])


# ---- statistics ----------------------------------------------------------------------------------------------------
def read_statistics(folder: Path) -> dict[str, Any]:
    """statistics.json, made anew where it is absent or of an earlier version, or some samples are newer.

    Raises:
        FileNotFoundError: no samples yet. ValueError: damaged, or of another version.
    """
    path, samples = folder / "statistics.json", sample_files(folder / "samples")
    if not samples and not path.is_file():
        raise FileNotFoundError(
            f"Nothing has finished in '{folder}' yet: expected samples/*.parquet. Continue the sweep with "
            f"`python -m experiments.transfer_sweep out={folder}`, or look at it with `... status out={folder}`."
        )
    newest = max((sample.stat().st_mtime for sample in samples), default=0.0)
    fresh = path.is_file() and path.stat().st_mtime >= newest
    content = _read_json(path) if fresh else {}
    if not fresh or (samples and isinstance(content, dict) and content.get("schema", SCHEMA) < SCHEMA):
        content = write_statistics(folder)
    statistics = checked(content, path)
    if not statistics["cells"]:
        raise FileNotFoundError(
            f"Nothing has finished in '{folder}' yet ({len(statistics['missing'])} cells missing or failed). Continue "
            f"the sweep with `python -m experiments.transfer_sweep out={folder}`."
        )
    return statistics


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(
            f"'{path}' is damaged ({error}). Delete it and make the report again: it is rebuilt."
        ) from None


def checked(content: Any, path: Path) -> dict[str, Any]:
    """Raises: ValueError when `content` is no statistics of the version this report reads."""
    needed = {"schema", "alpha", "controls", "metrics", "cells", "pairs", "methods", "shared", "differences", "alarms"}
    lacking = sorted((needed | {"missing"}) - set(content)) if isinstance(content, dict) else ["everything"]
    if lacking or content["schema"] not in READABLE:
        found = f"lacks {', '.join(lacking)}" if lacking else f"has schema {content['schema']}"
        raise ValueError(f"'{path}' {found}. Expected schema {SCHEMA}. Delete it and make the report again.")
    return content


def _known(what: str, value: str, available: Iterable[str]) -> str:
    names = sorted(available)
    if value not in names:
        raise ValueError(f"No {what} '{value}' here.{suggest(value, names)} Available: {', '.join(names)}.")
    return value


def sweep_name(folder: Path) -> str:
    """What the sweep is called; its folder's name where nothing says it."""
    try:
        return str(json.loads((folder / "sweep.json").read_text())["sweep"])
    except (OSError, ValueError, KeyError, TypeError):
        return folder.resolve().name


# ---- run folders ---------------------------------------------------------------------------------------------------
def _cell_folders(folder: Path) -> list[Path]:
    cells = folder / "cells"
    return [path for path in scan(cells, "*-????????") if path.is_dir()] if cells.is_dir() else []


def run_folders(folder: Path) -> dict[str, Path]:
    """Label -> run folder below OUT/cells: of several with one label, one that a plan names, then the latest finished.

    Several arise when code or data changed between two sweeps into the same folder.
    """
    cells = latest_plan(folder).get("cells", [])
    planned = {f"{cell.get('label')}-{str(cell.get('id'))[:8]}" for cell in cells}
    best: dict[str, tuple[tuple, Path]] = {}
    for path in _cell_folders(folder):
        status = read_status(path)
        rank = (status.get("state") == "finished", path.name in planned, status.get("updated", 0.0))
        label = path.name[:-9]
        if label not in best or rank > best[label][0]:
            best[label] = (rank, path)
    return {label: path for label, (_, path) in best.items()}


def read_run(cell: CellKey, folder: Path, page: Path, statistics: dict) -> Run:
    """Everything small the page needs of a run; what is missing or damaged is empty."""
    rows = [row for row in read_rows(folder / "results.jsonl") if "split" in row and "metric" in row]
    drift, drifts = drift_rows(rows)
    state = read_status(folder).get("state", "unknown")
    points = gain_points(rows, statistics["metrics"][cell.data])
    link = folder.relative_to(page).as_posix()
    return Run(cell, folder, link, state, read_config(folder), points, drift, drifts)


def read_prompt(run: Run) -> Any:
    """The run's prompt, or None where there is none that can be read."""
    try:
        return Prompt.load(run.folder / "prompt")
    except (OSError, ValueError):
        return None


def read_records(material: Material, cell: CellKey) -> list[TransferRecord]:
    """Per-sample records of one prompt, from samples/ or the run's own scores; none where they are damaged."""
    path = material.folder / "samples" / f"{cell.label}.parquet"
    try:
        if path.is_file():
            return read_samples(path)
        return run_records(material.runs[cell].folder, *cell)
    except (OSError, ValueError, KeyError):
        return []
