"""Result rows: one JSON object a line, appended with fsync, readable after a crash (docs/run_folder.md#result-rows)."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path

from datamodules.whole_files.disk import write_bytes
from lightning_modules.atomic import replace_file

SCHEMA = 1
FIELDS = (
    *("schema", "run", "kind", "epoch", "step", "seed", "method", "source", "mllm", "role", "data", "split", "group"),
    *("input", "metric", "value", "low", "high", "interval", "n", "left_out", "prompt", "model_fp", "data_fp"),
    *("official", "bounds", "dtype", "scorer", "time"),
)
# How a model of the hub saw the frame; rows of other models do without.
OF_PICTURES = ("tiles", "visual_tokens")
# Who answered for a served model, how, shown what, and how many rows it left unanswered; other rows do without.
OF_SERVER = ("server", "served_model", "way", "pictures", "unanswered")
# What every frame of a run went through before it was scored (`targets.through`); other rows do without.
OPTIONAL = (*OF_PICTURES, *OF_SERVER, "through")
# Two rows with the same values of these are the same measurement, the later one counts (a resumed epoch repeats it).
IDENTITY = ["run", "kind", "epoch", "step", "mllm", "data", "split", "group", "input", "metric", "through", "prompt"]


class ResultLog:
    """Append-only `results.jsonl` of one run.

    A line cut short by a crash is finished off on opening, so that nothing appended later is glued to it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.exists():
            _close_torn_line(self.path)

    def append(self, rows: Iterable[dict]) -> None:
        """Write rows in one go and wait until they are on disk.

        Raises:
            ValueError: a row lacks a field of the schema or has an unknown one.
            OSError: the disk is full or the folder not writable; says which file, and that nothing before is lost.
        """
        text = "".join(json.dumps(_checked(row), allow_nan=False) + "\n" for row in rows)
        try:
            write_bytes(self.path, text.encode(), append=True)
        except OSError as error:
            raise OSError(
                error.errno,
                f"Cannot append results to {self.path} ({error.strerror}). Earlier results are safe: free space or fix "
                "permissions, then continue with resume=RUN",
            ) from error


def write_rows(path: str | Path, rows: Iterable[dict]) -> None:
    """Rows as the whole content of a file, replaced at once or left as it was. Raises: as `ResultLog.append`."""
    replace_file(path, "".join(json.dumps(_checked(row), allow_nan=False) + "\n" for row in rows).encode())


def read_rows(path: str | Path) -> list[dict]:
    """Rows of a results.jsonl; torn lines are skipped, repeats (see IDENTITY) keep the latest."""
    path = Path(path)
    latest: dict[tuple, dict] = {}
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            key = tuple(row.get(field) for field in IDENTITY)
            if row.get("kind") == "val":  # one prompt an update: another one there is of an attempt that was lost
                key = key[:-1]
            latest.pop(key, None)
            latest[key] = row
    return list(latest.values())


def _checked(row: dict) -> dict:
    row = {"schema": SCHEMA, "time": round(time.time(), 3), **row}
    missing, extra = [f for f in FIELDS if f not in row], [f for f in row if f not in (*FIELDS, *OPTIONAL)]
    if missing or extra:
        found = f"missing {missing}, unknown {extra}"
        raise ValueError(f"A result row has exactly the fields of docs/run_folder.md; {found}.")
    return {field: row[field] for field in (*FIELDS, *OPTIONAL) if field in row}


def _close_torn_line(path: Path) -> None:
    with open(path, "rb+") as file:
        if file.seek(0, os.SEEK_END) and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
            file.write(b"\n")
