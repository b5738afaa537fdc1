"""Per-sample outcomes of a whole sweep as columns, and their bootstrap draws on common resamples of the images.

All records of a data set were scored on the same images. So one matrix of resampled images serves them all: every
comparison between columns is paired, and the draws of any average or difference are those of its columns combined.
Where several rows are about one image (a unit), all of them come and go together.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from experiments.sweep.samples import TransferRecord
from lightning_modules.intervals import RESAMPLES
from lightning_modules.metrics import Scores, per_sample, unit_numbers

PromptKey = tuple[str, str, str, int]
"""(source, target, method, seed): one prompt on one model."""


@dataclass
class DataSet:
    """All columns of one data set, K of them on n rows.

    points: (K,) the metric. draws: (RESAMPLES, K) the metric on resampled images. values: (n, K) 0/1 outcomes, None
    for auroc. columns: prompt and model -> input -> k; controls that are the same scores are the same column. units:
    (n,) the image of each row as a number from 0, None where each row has an image of its own.
    """

    name: str
    metric: str
    n: int
    points: np.ndarray
    draws: np.ndarray
    values: np.ndarray | None
    columns: dict[PromptKey, dict[str, int]]
    roles: dict[PromptKey, str]
    units: np.ndarray | None = None

    @property
    def images(self) -> int:
        """How many independent images the rows are about."""
        return self.n if self.units is None else int(self.units.max()) + 1


@dataclass
class _Raw:
    """Keeps of the records of one data set, while they are read, the outcomes but no table of scores."""

    metric: str
    kept: list[tuple[tuple[str, ...], np.ndarray]] = field(default_factory=list)
    known: dict[tuple, int] = field(default_factory=dict)
    ids: dict[tuple[str, ...], tuple[str, ...]] = field(default_factory=dict)
    columns: dict[PromptKey, dict[str, int]] = field(default_factory=dict)
    roles: dict[PromptKey, str] = field(default_factory=dict)
    unit_of: dict[str, str] = field(default_factory=dict)

    def add(self, record: TransferRecord) -> None:
        key = (record.source, record.target, record.method, record.seed)
        self.roles[key] = record.role
        self.columns[key] = {name: self._column(s) for name, s in record.scores.items() if s.ids}

    def _column(self, scores: Scores) -> int:
        outcome = outcomes(self.metric, scores)
        self.unit_of.update(zip(scores.ids, scores.units, strict=False))  # older records have none
        ids = self.ids.setdefault(tuple(scores.ids), tuple(scores.ids))
        place = self.known.setdefault((id(ids), outcome.tobytes()), len(self.kept))
        if place == len(self.kept):
            self.kept.append((ids, outcome))
        return place


def gather(records: Iterable[TransferRecord]) -> dict[str, DataSet]:
    """Data sets by name, sorted. Reads the records once, one at a time, and keeps outcomes only.

    Images that not every record of a data set has are left out for all of them.

    Raises:
        ValueError: the records of a data set have no image in common.
    """
    raw: dict[str, _Raw] = {}
    for record in records:
        raw.setdefault(record.data, _Raw(record.metric)).add(record)
    return {name: _data_set(name, raw[name]) for name in sorted(raw) if raw[name].kept}


def outcomes(metric: str, scores: Scores) -> np.ndarray:
    """What the metric needs of each sample: (N,) 0/1, or for auroc (2, N) rank of the margin and label.

    Ranks, because auroc depends on nothing else; ties as `lightning_modules.metrics.auroc` has them, after a sigmoid.
    """
    if metric != "auroc":
        return per_sample(metric, scores).astype(np.uint8)
    from scipy.special import expit

    margin = expit(scores.scores[:, 1].astype(np.float64) - scores.scores[:, 0])
    return np.stack([np.unique(margin, return_inverse=True)[1], scores.labels]).astype(np.int32)


def _data_set(name: str, raw: _Raw) -> DataSet:
    common = set.intersection(*(set(ids) for ids in raw.ids))
    if not common:
        raise ValueError(
            f"The records of '{name}' have no image in common. Expected every prompt and model of a sweep to be scored "
            "on the same images; give sweeps with other data another folder."
        )
    places = {
        ids: slice(None) if len(common) == len(ids) else [i for i, key in enumerate(ids) if key in common]
        for ids in raw.ids
    }
    kept = np.stack([outcome[..., places[ids]] for ids, outcome in raw.kept])
    n = kept.shape[-1]
    ids = next(iter(raw.ids))
    units = unit_numbers([raw.unit_of.get(key, key) for key in np.array(ids, object)[places[ids]]])
    counts = row_counts(name, n, units)
    if raw.metric == "auroc":
        points = np.array([weighted_auroc(of[0], of[1], np.ones((1, n), np.float32))[0] for of in kept])
        draws, values = np.stack([weighted_auroc(of[0], of[1], counts) for of in kept], 1), None
    else:
        values = np.ascontiguousarray(kept.T, np.float32)
        # As many rows in every resample, but for units of different sizes.
        drawn = n if units is None else counts.sum(1, dtype=np.float64)[:, None]
        points, draws = kept.mean(1), (counts @ values).astype(np.float64) / drawn
    return DataSet(name, raw.metric, n, points, draws, values, raw.columns, raw.roles, units)


def row_counts(name: str, n: int, units: np.ndarray | None, resamples: int = RESAMPLES) -> np.ndarray:
    """(resamples, n) how often each row is in each resample: as often as its image."""
    if units is None:
        return image_counts(name, n, resamples)
    return image_counts(name, int(units.max()) + 1, resamples)[:, units]


def image_counts(name: str, n: int, resamples: int = RESAMPLES) -> np.ndarray:
    """(resamples, n) float32: how often each image is in each resample; its own seed for each data set."""
    rng = np.random.default_rng([zlib.crc32(name.encode()), n])
    return rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float32)


def weighted_auroc(ranks: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(B,) area under ROC where sample i counts `counts[b, i]` times; 0.5 where one class is absent.

    The share of (positive, negative) pairs in which the positive one ranks higher, ties a half.
    """
    order = np.argsort(ranks, kind="stable")
    starts = np.flatnonzero(np.diff(ranks[order], prepend=-1))
    ordered, positive = counts[:, order].astype(np.float64), labels[order] == 1
    hits = np.add.reduceat(ordered * positive, starts, axis=1)
    misses = np.add.reduceat(ordered * ~positive, starts, axis=1)
    below = np.cumsum(misses, axis=1) - misses / 2
    pairs = hits.sum(1) * misses.sum(1)
    return np.where(pairs > 0, (hits * below).sum(1) / np.maximum(pairs, 1), 0.5)


def prompts_of(data: Mapping[str, DataSet]) -> list[tuple[str, PromptKey]]:
    """(data set, prompt and model) of every scored prompt, sorted."""
    return sorted((name, key) for name, of in data.items() for key, given in of.columns.items() if "prompt" in given)
