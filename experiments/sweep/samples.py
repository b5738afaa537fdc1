"""Per-sample records of a sweep: one parquet file a cell, the same bytes for the same scores."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lightning_modules.atomic import replace_file
from lightning_modules.metrics import Scores

COLUMNS = ("target", "input", "id", "group", "label", "prediction", "scores")


class Record(NamedTuple):
    """What one prompt did to one model: every input's per-sample scores on the test rows, in the same order of ids.

    source: what the prompt was learned on. target: what was scored (the source itself too). metric: the task's primary
    metric. role: source, select or heldout. scores: input (prompt, png, full, black, constant, replicate) -> record.
    """

    source: str
    target: str
    data: str
    method: str
    seed: int
    task: str
    metric: str
    role: str
    scores: Mapping[str, Scores]

    @property
    def prompt(self) -> tuple[str, str, str, int]:
        """Names the prompt: (source, data, method, seed)."""
        return self.source, self.data, self.method, self.seed


def write_samples(path: Path, records: Sequence[Record]) -> None:
    """All records of one prompt as compressed parquet, written atomically.

    Columns: target, input, id, group, label (index of the right candidate), prediction, scores (log-likelihood of each
    candidate, -inf past a row's last). What is constant in the file is in its schema's metadata, as JSON under `cell`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    first = records[0]
    if len({record.prompt for record in records}) != 1:
        raise ValueError("One file of samples holds one prompt; got records of several.")
    cell = {key: getattr(first, key) for key in ("source", "data", "method", "seed", "task", "metric")}
    cell["roles"] = {record.target: record.role for record in records}
    parts = [(r.target, given, scores) for r in records for given, scores in r.scores.items()]
    columns = {
        "target": pa.array([t for t, _, s in parts for _ in s.ids]).dictionary_encode(),
        "input": pa.array([i for _, i, s in parts for _ in s.ids]).dictionary_encode(),
        "id": pa.array([key for *_, s in parts for key in s.ids]),
        "group": pa.array([group for *_, s in parts for group in s.groups]).dictionary_encode(),
        "label": pa.array(np.concatenate([s.labels for *_, s in parts]).astype(np.int64)),
        "prediction": pa.array(np.concatenate([s.predictions for *_, s in parts]).astype(np.int64)),
        "scores": pa.array([row for *_, s in parts for row in s.scores.astype(np.float32)], pa.list_(pa.float32())),
    }
    table = pa.table(columns).replace_schema_metadata({"cell": json.dumps(cell, sort_keys=True)})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, buffer.getvalue())


def read_samples(path: Path) -> list[Record]:
    """Inverse of `write_samples`.

    Raises:
        ValueError: the file is damaged or no file of samples.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        cell = json.loads(table.schema.metadata[b"cell"])
        columns = {name: table[name].to_pylist() for name in ("target", "input", "id", "group")}
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"'{path}' is no file of samples or damaged ({error}). Delete it and run the sweep again: it is rebuilt."
        ) from None
    labels = table["label"].to_numpy()
    lists = table["scores"].combine_chunks()
    flat, bounds = lists.flatten().to_numpy(), lists.offsets.to_numpy()
    roles = cell.pop("roles")
    places: dict[str, dict[str, list[int]]] = {}
    for place, (target, given) in enumerate(zip(columns["target"], columns["input"], strict=True)):
        places.setdefault(target, {}).setdefault(given, []).append(place)
    return [
        Record(
            target=target,
            role=roles[target],
            **cell,
            scores={g: _scores(columns, labels, flat, bounds, at) for g, at in of.items()},
        )
        for target, of in places.items()
    ]


def _scores(columns: dict, labels: np.ndarray, flat: np.ndarray, bounds: np.ndarray, at: list[int]) -> Scores:
    table = np.stack([flat[bounds[i] : bounds[i + 1]] for i in at])
    return Scores([columns["id"][i] for i in at], labels[at], table, [columns["group"][i] for i in at])


def all_records(folder: Path) -> Iterator[Record]:
    """Every record below OUT/samples, file by file in the order of their names."""
    for path in sorted(folder.glob("*.parquet")):
        yield from read_samples(path)
