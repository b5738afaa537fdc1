"""Stand-ins for runs, for tests of the sweep: what a finished run leaves, made in milliseconds; no test."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from experiments.run.ensure import NamedRun
from experiments.sweep.cells import SweepCell
from lightning_modules.controls import write_scores
from lightning_modules.metrics import Scores
from lightning_modules.records import FIELDS, ResultLog
from lightning_modules.vocabulary import CONTROLS

N = 12
MODELS = ("m", "t")


def sweep_cell(label: str, method: str = "tvp", seed: int = 0, source: str = "m") -> SweepCell:
    name = f"{source}-d-{method}-s{seed}"
    return SweepCell(name, source, "d", method, seed, (("exp", "smoke"),), id=(label * 16)[:16])


def record(hits: int) -> Scores:
    """N samples of three candidates, the first `hits` right."""
    labels = np.arange(N) % 3
    scores = np.zeros((N, 3), np.float32)
    scores[np.arange(N), np.where(np.arange(N) < hits, labels, (labels + 1) % 3)] = 1
    return Scores([f"{i:03d}" for i in range(N)], labels, scores, [""] * N)


def make_run(run: Path, hits: int = 8) -> Path:
    """results.jsonl and scores/ of a run on `m` with target `t`: controls right on 6 samples, the prompt on `hits`."""
    (run / "scores").mkdir(parents=True, exist_ok=True)
    rows = []
    for name in MODELS:
        for given in ("prompt", "png", *CONTROLS):
            scores = record(hits if given in ("prompt", "png") else 6)
            write_scores(run / "scores" / f"test_{name}_{given}.npz", scores)
            value = float(scores.correct.mean())
            row = {"mllm": name, "role": "source" if name == "m" else "heldout", "input": given, "split": "test"}
            row |= {"group": "", "metric": "top1", "value": value, "n": N}
            rows.append(dict.fromkeys(f for f in FIELDS if f not in ("schema", "time")) | row)
    (run / "results.jsonl").unlink(missing_ok=True)
    ResultLog(run / "results.jsonl").append(rows)
    return run


def fake_ensure_run(cell: NamedRun, out: Path) -> Path:
    """Instead of training: counts how often a cell was computed, in OUT/<cell>/times."""
    run = make_run(out / cell.name)
    with open(run / "times", "a") as file:
        file.write("x")
    return run
