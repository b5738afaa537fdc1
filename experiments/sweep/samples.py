"""Per-sample records of a sweep: one parquet file a cell, the same bytes for the same scores."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.folder_scan import scan
from experiments.run.folder import RESULTS, run_roles, run_scores
from lightning_modules.atomic import replace_file
from lightning_modules.metrics import Scores
from lightning_modules.records import read_rows


class TransferRecord(NamedTuple):
    """What one prompt did to one model: every input's per-sample scores on the test rows, in the same order of ids.

    source: what the prompt was learned on. target: what was scored (the source itself too). metric: the task's primary
    metric. role: source, select or heldout. scores: input (prompt, png, full, black, constant, replicate) -> record.
    """

    source: str
    target: str
    data: str
    method: str
    seed: int
    metric: str
    role: str
    scores: Mapping[str, Scores]

    @property
    def prompt(self) -> tuple[str, str, str, int]:
        """Names the prompt: (source, data, method, seed)."""
        return self.source, self.data, self.method, self.seed


def run_records(run: Path, source: str, data: str, method: str, seed: int) -> list[TransferRecord]:
    """The records of a finished run, from its result rows and scores/; by the models' names.

    The other arguments name its prompt: a sweep may call a method otherwise than its run does.
    """
    roles, scores = run_roles(run), run_scores(run)
    # the rows of an input begin with the task's primary metric
    metric = next((row["metric"] for row in read_rows(run / RESULTS) if row["split"] == "test"), "")
    return [
        TransferRecord(source, target, data, method, seed, metric, roles[target], scores[target])
        for target in sorted(scores)
    ]


def write_samples(path: Path, records: Sequence[TransferRecord]) -> None:
    """All records of one prompt as compressed parquet, written atomically.

    Columns: target, input, id, group, label (index of the right candidate), prediction, scores (log-likelihood of each
    candidate, -inf past a row's last); unit, where several rows are about one picture. What is constant in the file is
    in its schema's metadata, as JSON under `cell`.
    """
    first = records[0]
    if len({record.prompt for record in records}) != 1:
        raise ValueError("One file of samples holds one prompt; got records of several.")
    # Said once, in the schema: what is the same in every row.
    cell = {key: getattr(first, key) for key in ("source", "data", "method", "seed", "metric")}
    cell["roles"] = {record.target: record.role for record in records}
    # One block of rows for each (target, input); the columns run through the blocks in the same order.
    blocks = [(r.target, given, scores) for r in records for given, scores in r.scores.items()]
    columns = {
        # few different words: kept as numbers into a dictionary
        "target": pa.array([target for target, _, s in blocks for _ in s.ids]).dictionary_encode(),
        "input": pa.array([given for _, given, s in blocks for _ in s.ids]).dictionary_encode(),
        "id": pa.array([key for *_, s in blocks for key in s.ids]),
        "group": pa.array([group for *_, s in blocks for group in s.groups]).dictionary_encode(),
        # fixed widths, so that the bytes are the same on every platform
        "label": pa.array(np.concatenate([s.labels for *_, s in blocks]).astype(np.int64)),
        "prediction": pa.array(np.concatenate([s.predictions for *_, s in blocks]).astype(np.int64)),
        # lists, because rows may have candidates of their own, more or fewer of them
        "scores": pa.array([row for *_, s in blocks for row in s.scores.astype(np.float32)], pa.list_(pa.float32())),
    }
    if any(s.units for *_, s in blocks):
        columns["unit"] = pa.array([unit for *_, s in blocks for unit in s.units or s.ids]).dictionary_encode()
    table = pa.table(columns).replace_schema_metadata({"cell": json.dumps(cell, sort_keys=True)})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, buffer.getvalue())


def read_samples(path: Path) -> list[TransferRecord]:
    """Inverse of `write_samples`; files of earlier versions name a task too, which is passed over, and no unit.

    Raises:
        ValueError: the file is damaged or no file of samples.
    """
    try:
        table = pq.read_table(path)
        cell = json.loads(table.schema.metadata[b"cell"])
        texts = ("target", "input", "id", "group", *(("unit",) if "unit" in table.column_names else ()))
        columns = {name: table[name].to_pylist() for name in texts}
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"'{path}' is no file of samples or damaged ({error}). Delete it and run the sweep again: it is rebuilt."
        ) from None
    labels = table["label"].to_numpy()
    lists = table["scores"].combine_chunks()
    flat, bounds = lists.flatten().to_numpy(), lists.offsets.to_numpy()
    source, data, method, seed, metric = (cell[key] for key in ("source", "data", "method", "seed", "metric"))
    places: dict[str, dict[str, list[int]]] = {}
    for place, (target, given) in enumerate(zip(columns["target"], columns["input"], strict=True)):
        places.setdefault(target, {}).setdefault(given, []).append(place)

    def scores(at: list[int]) -> Scores:
        table = np.stack([flat[bounds[i] : bounds[i + 1]] for i in at])
        units = [columns["unit"][i] for i in at] if "unit" in columns else ()
        return Scores([columns["id"][i] for i in at], labels[at], table, [columns["group"][i] for i in at], units)

    return [
        TransferRecord(
            source, target, data, method, seed, metric, cell["roles"][target], {g: scores(at) for g, at in of.items()}
        )
        for target, of in places.items()
    ]


def sample_files(folder: Path) -> list[Path]:
    """The files of samples in a folder: of *.parquet those we wrote by their metadata; tool files are passed over."""
    files = [path for path in scan(folder, "*.parquet") if path.is_file()] if folder.is_dir() else []
    return [path for path in files if _is_ours(path)]


def _is_ours(path: Path) -> bool:
    """A damaged file counts as ours: reading it says what is wrong."""
    try:
        return b"cell" in (pq.read_schema(path).metadata or {})
    except (pa.ArrowException, OSError):
        return True


def all_records(folder: Path) -> Iterator[TransferRecord]:
    """Every record below OUT/samples, file by file in the order of their names, but those of other makes."""
    for path in sample_files(folder):
        yield from read_samples(path)
