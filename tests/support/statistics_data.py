"""Sweeps with known results: latent normal outcomes, whose expected accuracy and auroc have closed forms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from experiments.statistics.outcomes import DataSet, image_counts
from experiments.sweep.samples import TransferRecord
from lightning_modules.intervals import unit_sums
from lightning_modules.metrics import Scores
from lightning_modules.vocabulary import CONTROLS


def scores(correct: np.ndarray, ids: Sequence[str] | None = None) -> Scores:
    """A record of a two-way task with these outcomes; label 0, so 1 is the wrong answer."""
    n = len(correct)
    table = np.where(np.asarray(correct)[:, None] > 0, [[1.0, 0.0]], [[0.0, 1.0]]).astype(np.float32)
    return Scores(list(ids or [f"{i:04d}" for i in range(n)]), np.zeros(n, np.int64), table, [""] * n)


def record(source: str, target: str, seed: int, of: Mapping[str, object], **given: object) -> TransferRecord:
    """of: input -> outcomes or Scores."""
    role = "source" if source == target else "select"
    fields = {"data": "scenes", "method": "tvp", "metric": "top1", "role": role, **given}
    made = {name: part if isinstance(part, Scores) else scores(part) for name, part in of.items()}
    return TransferRecord(source=source, target=target, seed=seed, scores=made, **fields)


def matrix(
    models: Sequence[str], seeds: Sequence[int], lift: object, n: int = 96, **given: object
) -> list[TransferRecord]:
    """Every source on every target: controls right with probability 0.5, prompted with 0.5 + lift(source, target)."""
    rng = np.random.default_rng(0)
    luck = rng.random(n)
    controls = {target: {c: (luck + rng.normal(0, 0.1, n) < 0.5) for c in CONTROLS} for target in models}
    return [
        record(s, t, seed, {"prompt": luck + rng.normal(0, 0.1, n) < 0.5 + lift(s, t), **controls[t]}, **given)
        for s in models
        for seed in seeds
        for t in models
    ]


resampled = lru_cache(8)(image_counts)


def data_set(
    values: np.ndarray, resamples: int = 1000, name: str = "scenes", units: np.ndarray | None = None
) -> DataSet:
    """(n, K) 0/1 outcomes as columns 0 to K - 1, without names. units: (n,) images, of as many rows each."""
    n = len(values)
    sums = values if units is None else unit_sums(values.astype(np.float64), units)
    draws = (resampled(name, len(sums), resamples) @ sums.astype(np.float32)).astype(np.float64) / n
    return DataSet(name, "top1", n, values.mean(0), draws, values.astype(np.float32), {}, {}, units)
