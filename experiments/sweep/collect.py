"""Collects finished cells in samples/ and matrix.csv: the same bytes wherever and in whichever order they ran."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from experiments.sweep.cells import SweepCell
from experiments.sweep.folder import SweepFolder
from experiments.sweep.samples import run_records, write_samples
from lightning_modules.atomic import replace_file
from lightning_modules.records import read_rows
from lightning_modules.vocabulary import CONTROLS, MAPPED

COLUMNS = ("source", "target", "data", "method", "seed", "control", "metric", "n", "value", "status")
SAMPLES = "samples.parquet"
SAMPLES_WRITTEN = "samples.json"  # beside samples/: the names in it that we wrote


def keep_samples(run: Path, cell: SweepCell) -> None:
    """Write RUN/samples.parquet from the scores of a finished run."""
    write_samples(run / SAMPLES, run_records(run, cell.source, cell.data, cell.method, cell.seed))


def collect(folder: SweepFolder, cells: Sequence[SweepCell]) -> dict[str, str]:
    """Bring samples/ and matrix.csv up to date with the cells that have ended; returns label -> status."""
    states = folder.states()
    status = {cell.label: states.of(cell).replace("waiting", "missing") for cell in cells}
    finished = [cell for cell in cells if status[cell.label] == "finished"]
    for cell in finished:
        if not (folder.cells / cell.folder / SAMPLES).is_file():  # deleted by hand: made again from scores/
            keep_samples(folder.cells / cell.folder, cell)
    _link_samples(folder, finished)
    rows = [row for cell in cells for row in matrix_rows(folder, cell, status[cell.label])]
    replace_file(folder.matrix, csv_bytes(COLUMNS, sorted(rows)))
    return status


def _link_samples(folder: SweepFolder, finished: Sequence[SweepCell]) -> None:
    """samples/ holds the finished cells of this plan; files are shared with the run folders.

    Of what is there only files are replaced or removed that an earlier collection wrote, as `SAMPLES_WRITTEN` lists
    them: whatever else a user keeps there stays. Raises: FileExistsError where such a thing has the name of a cell.
    """
    folder.samples.mkdir(exist_ok=True)
    wanted = {f"{cell.label}.parquet": folder.cells / cell.folder / SAMPLES for cell in finished}
    ours = _written(folder)
    strange = [name for name in wanted if name not in ours and _is_foreign(folder.samples / name, wanted[name])]
    if strange:
        raise FileExistsError(
            f"'{folder.samples / strange[0]}' was not written by this sweep, which needs that name. Expected no such "
            "file: move it away, then make the report again."
        )
    _note_written(folder, ours | set(wanted))  # first: a killed collection must know its own files again
    for name in sorted(ours - set(wanted)):
        (folder.samples / name).unlink(missing_ok=True)
    for name, path in wanted.items():
        target = folder.samples / name
        if target.exists() and target.samefile(path):
            continue
        target.unlink(missing_ok=True)
        try:
            os.link(path, target)
        except OSError:  # a file system without links
            replace_file(target, path.read_bytes())
    _note_written(folder, set(wanted))


def _is_foreign(target: Path, path: Path) -> bool:
    """Something of that name which no collection left: of the same bytes it is ours, from before there was a list."""
    if not target.exists():
        return False
    return not target.is_file() or target.read_bytes() != path.read_bytes()


def _written(folder: SweepFolder) -> set[str]:
    """The names in samples/ that earlier collections wrote and that are still files."""
    names = set()
    with suppress(OSError, ValueError):
        names = set(json.loads((folder.path / SAMPLES_WRITTEN).read_text("utf-8")))
    return {name for name in names if Path(name).name == name and (folder.samples / name).is_file()}


def _note_written(folder: SweepFolder, names: set[str]) -> None:
    replace_file(folder.path / SAMPLES_WRITTEN, (json.dumps(sorted(names), indent=0) + "\n").encode())


def matrix_rows(folder: SweepFolder, cell: SweepCell, status: str) -> Iterator[tuple]:
    """A cell's lines of matrix.csv: every metric of the prompted input, each control's score and the gain over it."""
    head = (cell.source, cell.data, cell.method, cell.seed)
    if status != "finished":
        yield _line(head, "", "", "", 0, None, status)
        return
    for target, (metric, values) in test_values(folder.cells / cell.folder).items():
        for (given, name), (value, n) in values.items():
            if given == "prompt":
                yield _line(head, target, "", name, n, value, status)
            elif given == "png" and name == metric:
                yield _line(head, target, "", f"{name}_png", n, value, status)
            elif given in CONTROLS and name in (metric, MAPPED):
                yield _line(head, target, given, name, n, value, status)
                yield _line(head, target, given, f"gain_{name}", n, values["prompt", name][0] - value, status)


def _line(head: tuple, target: str, control: str, metric: str, n: int, value: float | None, status: str) -> tuple:
    source, data, method, seed = head
    # -0.0 and 0.0 are one number and must be one text
    text = "" if value is None else f"{round(value, 6) + 0.0:.6f}"
    return (source, target, data, method, seed, control, metric, n, text, status)


def test_values(run: Path) -> dict[str, tuple[str, dict[tuple[str, str], tuple[float, int]]]]:
    """mllm -> (primary metric, (input, metric) -> (value, n)) of the test rows of a run."""
    found: dict[str, Any] = {}
    for row in read_rows(run / "results.jsonl"):
        if row["split"] == "test" and row["group"] == "":
            _, values = found.setdefault(row["mllm"], (row["metric"], {}))
            values[row["input"], row["metric"]] = (row["value"], row["n"])
    return found


def csv_bytes(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue().encode()
