"""Task metrics with intervals, and the paired comparison behind every gain.

recognition    top1, top5 (with more than five candidates)
counting       accuracy, mae: mean absolute difference between the number answered and the right one
reasoning      auroc of score(second candidate) - score(first), accuracy
hallucination  accuracy, precision, recall, f1 (of "yes", the second candidate), yes_ratio: share answered yes

Where rows have groups (POPE's random, popular, adversarial), every metric is given for each and as their unweighted
mean, `MEAN`, beside the pooled one. Gains are stated in the pooled one: POPE's types are equally large, so its accuracy
is the mean of the three; precision, recall and F1 are not, hence both.

Several questions about one picture are not independent: where a record says what its rows' units are (the pictures),
every interval is over units, also across groups.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch

from lightning_modules.intervals import (
    count_draws,
    index_draws,
    mean_draws,
    mean_interval,
    percentiles,
    unit_draws,
    unit_index_draws,
    unit_sums,
    wilson,
    wilson_of_units,
)
from lightning_modules.vocabulary import TASK_METRICS

PROPORTIONS = ("top1", "top5", "accuracy", "yes_ratio")
OF_YES = ("precision", "recall", "f1")
MEAN = "mean_groups"
PAIRED, PAIRED_UNITS = "paired-bootstrap", "paired-bootstrap over units"


class Scores(NamedTuple):
    """Per-sample record of one model on one input, in the order of `ids`.

    labels: (N,) int64 index of the right candidate. scores: (N, K) float32 log-likelihoods, -inf where a row has fewer
    candidates. groups: N sub-test names. units: N names of what is independent, the picture where several rows ask
    about one; empty (as in records made before there were units) where every row is its own.
    unanswered: ids that a server left without an answer, which are not among `ids`. written: scores are 1 for the
    candidate that a text named and 0 for the others (`Answers.as_scores`), so that only the first place means anything.
    """

    ids: list[str]
    labels: np.ndarray
    scores: np.ndarray
    groups: list[str]
    units: Sequence[str] = ()
    unanswered: Sequence[str] = ()
    written: bool = False

    @property
    def predictions(self) -> np.ndarray:
        return self.scores.argmax(1)

    @property
    def correct(self) -> np.ndarray:
        return (self.predictions == self.labels).astype(np.float64)

    def take(self, places: np.ndarray) -> Scores:
        """The samples at these places."""
        ids, groups = ([column[i] for i in places] for column in (self.ids, self.groups))
        units = [self.units[i] for i in places] if self.units else ()
        return self._replace(
            ids=ids, labels=self.labels[places], scores=self.scores[places], groups=groups, units=units
        )

    def answered(self) -> Scores:
        """Without the rows of NaN, which a served model left unanswered; their ids are kept in `unanswered`."""
        gone = np.isnan(self.scores).all(1)
        if not gone.any():
            return self
        left = self.take(np.flatnonzero(~gone))
        return left._replace(unanswered=[*self.unanswered, *(self.ids[i] for i in np.flatnonzero(gone))])

    @property
    def unit_numbers(self) -> np.ndarray | None:
        """(N,) the unit of each sample as a number from 0; None where every sample is its own."""
        return unit_numbers(self.units)

    def with_units(self, unit_of: Mapping[str, str]) -> Scores:
        """The record with the units of its ids; with none where they are all different."""
        units = [unit_of[key] for key in self.ids]
        return self._replace(units=units if len(set(units)) < len(units) else ())


class Estimate(NamedTuple):
    """A number with its 95 % interval; `interval` names how it was made, n is the number of samples."""

    value: float
    low: float
    high: float
    interval: str
    n: int


def unit_numbers(units: Sequence[str]) -> np.ndarray | None:
    """Names of units as numbers from 0, in the order of the names; None where no two are the same."""
    names, numbers = np.unique(np.array(units, str), return_inverse=True)
    return numbers if len(names) < len(units) else None


def primary_metric(task: str) -> str:
    """The metric gains are stated in: `top1`, `accuracy` or `auroc`."""
    if task not in TASK_METRICS:
        raise ValueError(f"Unknown task '{task}'. Available: {', '.join(TASK_METRICS)}.")
    return TASK_METRICS[task][0]


def task_metrics(task: str, scores: Scores, numbers: np.ndarray | None = None) -> dict[str, Estimate]:
    """Every metric of the task on one record; the primary one first.

    numbers: (N, K) what each candidate counts (NaN past a row's last); without it there is no mae.
    """
    return {metric: estimate(metric, scores, numbers) for metric in _possible(task, scores, numbers)}


def group_metrics(task: str, scores: Scores, numbers: np.ndarray | None = None) -> dict[str, dict[str, Estimate]]:
    """`task_metrics` by group: "" for all rows; with named groups each of them; with several also `MEAN`.

    A single group that all rows belong to says nothing new and is left out, as are rows without a group.
    """
    places = group_places(scores.groups)
    parts = {name: (scores.take(at), None if numbers is None else numbers[at]) for name, at in places.items()}
    result = {name: task_metrics(task, *part) for name, part in parts.items()}
    named = [part for name, part in parts.items() if name]
    if len(named) > 1:
        result[MEAN] = {metric: mean_estimate(metric, named) for metric in result[""]}
    return result


def group_places(groups: Sequence[str]) -> dict[str, np.ndarray]:
    """Places of all rows, as "", and of each named group; without a group that all rows belong to."""
    places = {"": np.arange(len(groups))}
    if len(set(groups)) > 1:
        names = sorted(set(groups) - {""})
        places |= {name: np.array([i for i, group in enumerate(groups) if group == name]) for name in names}
    return places


def _possible(task: str, scores: Scores, numbers: np.ndarray | None) -> list[str]:
    primary_metric(task)
    absent = {"top5": scores.scores.shape[1] <= 5 or scores.written, "mae": numbers is None or scores.written}
    absent["auroc"] = scores.written  # a text has no score
    return [metric for metric in TASK_METRICS[task] if not absent.get(metric, False)]


def estimate(metric: str, scores: Scores, numbers: np.ndarray | None = None) -> Estimate:
    """Wilson interval for proportions, percentile bootstrap over samples for the others; both over units if any."""
    n = len(scores.ids)
    if n == 0:
        raise ValueError("No sample was scored; expected at least one.")
    if metric in PROPORTIONS:
        return proportion(per_sample(metric, scores), scores.unit_numbers)._replace(
            value=point(metric, scores, numbers)
        )
    kind = "bootstrap" if scores.unit_numbers is None else "bootstrap over units"
    return Estimate(point(metric, scores, numbers), *percentiles(draws(metric, scores, numbers)), kind, n)


def proportion(values: np.ndarray, units: np.ndarray | None) -> Estimate:
    """Share of ones among (N,) 0/1 values with its Wilson interval. units: see `Scores.unit_numbers`."""
    share, n = float(values.mean()), len(values)
    if units is None:
        return Estimate(share, *wilson(int(values.sum()), n), "wilson", n)
    return Estimate(share, *wilson_of_units(values, units), "wilson over units", n)


def mean_estimate(metric: str, parts: Sequence[tuple[Scores, np.ndarray | None]]) -> Estimate:
    """Unweighted mean of a metric over groups; bootstrap over the samples of each group, n of all together.

    Groups that ask about the same pictures (POPE's three) are not independent: their units are resampled once for all.
    """
    value, n = float(np.mean([point(metric, *part) for part in parts])), sum(len(scores.ids) for scores, _ in parts)
    names = [unit for scores, _ in parts for unit in scores.units or scores.ids]
    units = unit_numbers(names) if any(scores.units for scores, _ in parts) else None
    if units is None:
        together = np.mean([draws(metric, *part, seed=i) for i, part in enumerate(parts)], axis=0)
        return Estimate(value, *percentiles(together), "bootstrap", n)
    return Estimate(value, *percentiles(_mean_draws(metric, parts, units)), "bootstrap over units", n)


def _mean_draws(metric: str, parts: Sequence[tuple[Scores, np.ndarray | None]], units: np.ndarray) -> np.ndarray:
    """Draws of the mean over groups on common resamples of the units of all rows; a group may be absent from one."""
    bounds = np.cumsum([0, *(len(scores.ids) for scores, _ in parts)])
    if metric == "auroc":

        def mean_auroc(index: np.ndarray) -> float:
            inside = [index[(index >= low) & (index < high)] - low for low, high in pairwise(bounds)]
            return float(np.mean([auroc(part[0], at) for part, at in zip(parts, inside, strict=True) if len(at)]))

        return unit_index_draws(mean_auroc, units)
    tables = [_columns(metric, *part) for part in parts]
    width = tables[0].shape[1]
    whole = np.zeros((bounds[-1], width * len(tables)))
    for place, table in enumerate(tables):
        whole[bounds[place] : bounds[place + 1], place * width : (place + 1) * width] = table
    drawn = unit_draws(unit_sums(whole, units))
    every = [_from_sums(metric, drawn[:, at * width : (at + 1) * width]) for at in range(len(tables))]
    return np.nanmean(every, axis=0)


def _columns(metric: str, scores: Scores, numbers: np.ndarray | None) -> np.ndarray:
    """(N, C) what the metric is made of, to be added up: a value and 1; of precision, recall and F1 hits, false
    alarms, misses and 1."""
    one = np.ones(len(scores.ids))
    if metric in OF_YES:
        yes, true = scores.predictions == 1, scores.labels == 1
        return np.stack([yes & true, yes & ~true, ~yes & true, one], 1).astype(np.float64)
    if metric == "mae":
        answered, right = _counted(scores, numbers)
        return np.stack([np.abs(answered - right), one], 1)
    return np.stack([per_sample(metric, scores), one], 1)


def _from_sums(metric: str, sums: np.ndarray) -> np.ndarray:
    """(B,) the metric from sums (B, C) of `_columns`; NaN where there is no row."""
    with np.errstate(invalid="ignore"):
        if metric in OF_YES:
            return np.where(sums[:, 3] > 0, _of_yes(metric, *sums[:, :3].T), np.nan)
        return sums[:, 0] / sums[:, 1]


def _of_yes(metric: str, hit: np.ndarray, false: np.ndarray, missed: np.ndarray) -> np.ndarray:
    below = {"precision": hit + false, "recall": hit + missed, "f1": hit + (false + missed) / 2}[metric]
    return np.where(hit > 0, hit / np.maximum(below, 0.5), 0.0)


def point(metric: str, scores: Scores, numbers: np.ndarray | None = None) -> float:
    """The metric itself. Undefined precision, recall and F1 (no yes at all) are 0, as torchmetrics has it."""
    from torchmetrics.functional import mean_absolute_error
    from torchmetrics.functional.classification import binary_f1_score, binary_precision, binary_recall

    if metric == "auroc":
        return auroc(scores)
    if metric == "mae":
        answered, right = (torch.from_numpy(column) for column in _counted(scores, numbers))
        return float(mean_absolute_error(answered, right))
    if metric in OF_YES:
        of = {"precision": binary_precision, "recall": binary_recall, "f1": binary_f1_score}[metric]
        return float(of(torch.from_numpy(scores.predictions == 1).long(), torch.from_numpy(scores.labels == 1).long()))
    return float(per_sample(metric, scores).mean())


def draws(metric: str, scores: Scores, numbers: np.ndarray | None = None, seed: int = 0) -> np.ndarray:
    """Bootstrap draws of the metric over samples (over units if any), seeded: 2,000, or 500 for auroc."""
    units = scores.unit_numbers
    if units is not None:
        if metric == "auroc":
            return unit_index_draws(lambda index: auroc(scores, index), units, seed)
        return _from_sums(metric, unit_draws(unit_sums(_columns(metric, scores, numbers), units), seed))
    if metric == "auroc":
        return index_draws(lambda index: auroc(scores, index), len(scores.ids), seed)
    if metric in OF_YES:
        yes, true = scores.predictions == 1, scores.labels == 1
        kinds = count_draws(
            np.array([(yes & true).sum(), (yes & ~true).sum(), (~yes & true).sum(), (~yes & ~true).sum()]), seed
        )
        return _of_yes(metric, *kinds[:, :3].T)
    if metric == "mae":
        answered, right = _counted(scores, numbers)
        values, counts = np.unique(np.abs(answered - right), return_counts=True)
    else:
        values, counts = np.unique(per_sample(metric, scores), return_counts=True)
    return count_draws(counts, seed) @ values / len(scores.ids)


def _counted(scores: Scores, numbers: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """(N,) the numbers answered, and the right ones."""
    if numbers is None:
        raise ValueError("The mean absolute error needs the number each candidate stands for; see candidate_numbers.")
    rows = np.arange(len(scores.ids))
    return numbers[rows, scores.predictions], numbers[rows, scores.labels]


def paired_gain(metric: str, after: Scores, before: Scores) -> Estimate:
    """after - before on the same samples, with a seeded paired percentile bootstrap: 2,000 resamples, 500 for auroc.

    Units are resampled where there are any.

    Raises:
        ValueError: the two records are not of the same samples in the same order.
    """
    if after.ids != before.ids:
        raise ValueError("A paired gain needs the same samples in the same order; the two records differ in their ids.")
    n, units = len(after.ids), unit_numbers(after.units or before.units)
    kind = PAIRED if units is None else PAIRED_UNITS
    if metric == "auroc":

        def gain(index: np.ndarray) -> float:
            return auroc(after, index) - auroc(before, index)

        drawn = index_draws(gain, n) if units is None else unit_index_draws(gain, units)
        return Estimate(auroc(after) - auroc(before), *percentiles(drawn), kind, n)
    difference = per_sample(metric, after) - per_sample(metric, before)
    low, high = mean_interval(difference) if units is None else percentiles(mean_draws(difference, units))
    return Estimate(float(difference.mean()), low, high, kind, n)


def per_sample(metric: str, scores: Scores) -> np.ndarray:
    """(N,) 0/1 outcomes of a proportion: `top1`, `accuracy`, `top5` or `yes_ratio`."""
    if metric in ("top1", "accuracy"):
        return scores.correct
    if metric == "yes_ratio":
        return (scores.predictions == 1).astype(np.float64)
    if metric == "top5":
        best = np.argsort(-scores.scores, axis=1, kind="stable")[:, :5]
        return (best == scores.labels[:, None]).any(1).astype(np.float64)
    raise ValueError(
        f"Unknown metric '{metric}'. Available: {', '.join(dict.fromkeys(sum(TASK_METRICS.values(), ())))}."
    )


def auroc(scores: Scores, index: np.ndarray | None = None) -> float:
    """Area under ROC of score(second candidate) - score(first), as the paper reads yes/no tasks (docs/method.md)."""
    from torchmetrics.functional.classification import binary_auroc

    margin = torch.from_numpy(scores.scores[:, 1].astype(np.float64) - scores.scores[:, 0])
    label = torch.from_numpy(scores.labels)
    if index is not None:
        margin, label = margin[index], label[index]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a resample may hold one class only: counted as 0.5 below
        if label.min() == label.max():
            return 0.5
        return float(binary_auroc(torch.sigmoid(margin), label))


def merge_scores(parts: Sequence[Scores]) -> Scores:
    """Join the disjoint shards of all ranks and sort by id, so that every record of a split has the same order."""
    width = max(part.scores.shape[1] for part in parts)
    tables = [np.pad(p.scores, ((0, 0), (0, width - p.scores.shape[1])), constant_values=-np.inf) for p in parts]
    ids, groups = [key for p in parts for key in p.ids], [group for p in parts for group in p.groups]
    units = [unit for p in parts for unit in p.units or p.ids] if any(p.units for p in parts) else []
    order = sorted(range(len(ids)), key=ids.__getitem__)
    labels, table = np.concatenate([p.labels for p in parts]), np.concatenate(tables)
    in_order = [units[i] for i in order] if units else ()
    unanswered, written = sorted({key for p in parts for key in p.unanswered}), any(p.written for p in parts)
    columns = [ids[i] for i in order], labels[order], table[order], [groups[i] for i in order], in_order
    return Scores(*columns, unanswered, written)


def in_common(records: Mapping[Any, Scores]) -> dict[Any, Scores]:
    """Records of one model without the rows that any of them lacks, so that gains are over the same rows.

    `unanswered` then holds the ids that any of them lacks.
    """
    gone = {key for record in records.values() for key in record.unanswered}
    if not gone:
        return dict(records)
    found = {}
    for name, record in records.items():
        left = record.take(np.array([i for i, key in enumerate(record.ids) if key not in gone], np.int64))
        found[name] = left._replace(unanswered=sorted(gone))
    return found
