"""Task metrics with intervals, and the paired comparison behind every gain."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

RESAMPLES = 2000


class Scores(NamedTuple):
    """Per-sample record of one model on one input, in the order of `ids`.

    labels: (N,) int64 index of the right candidate. scores: (N, K) float32 log-likelihoods, -inf where a row has fewer
    candidates. groups: N sub-test names.
    """

    ids: list[str]
    labels: np.ndarray
    scores: np.ndarray
    groups: list[str]

    @property
    def predictions(self) -> np.ndarray:
        return self.scores.argmax(1)

    @property
    def correct(self) -> np.ndarray:
        return (self.predictions == self.labels).astype(np.float64)


class Estimate(NamedTuple):
    """A number with its 95 % interval; `interval` names how it was made, n is the number of samples."""

    value: float
    low: float
    high: float
    interval: str
    n: int


def primary_metric(task: str) -> str:
    """The metric gains are stated in: `top1`, `accuracy` or `auroc`."""
    names = {"recognition": "top1", "counting": "accuracy", "reasoning": "auroc", "hallucination": "accuracy"}
    if task not in names:
        raise ValueError(f"Unknown task '{task}'. Available: {', '.join(names)}.")
    return names[task]


def task_metrics(task: str, scores: Scores) -> dict[str, Estimate]:
    """Every metric of the task on one record; the primary one first."""
    primary = primary_metric(task)
    result = {primary: estimate(primary, scores)}
    if task == "recognition" and scores.scores.shape[1] > 5:
        result["top5"] = estimate("top5", scores)
    if task == "reasoning":
        result["accuracy"] = estimate("accuracy", scores)
    return result


def estimate(metric: str, scores: Scores) -> Estimate:
    """Wilson interval for proportions, percentile bootstrap over samples for auroc."""
    n = len(scores.ids)
    if n == 0:
        raise ValueError("No sample was scored; expected at least one.")
    if metric == "auroc":
        low, high = _bootstrap(lambda index: auroc(scores, index), n)
        return Estimate(auroc(scores), low, high, "bootstrap", n)
    from statsmodels.stats.proportion import proportion_confint

    hits = per_sample(metric, scores)
    low, high = proportion_confint(int(hits.sum()), n, method="wilson")
    return Estimate(float(hits.mean()), float(low), float(high), "wilson", n)


def paired_gain(metric: str, after: Scores, before: Scores) -> Estimate:
    """after - before on the same samples, with a seeded paired percentile bootstrap: 2,000 resamples, 500 for auroc.

    Raises:
        ValueError: the two records are not of the same samples in the same order.
    """
    if after.ids != before.ids:
        raise ValueError("A paired gain needs the same samples in the same order; the two records differ in their ids.")
    n = len(after.ids)
    if metric == "auroc":
        low, high = _bootstrap(lambda index: auroc(after, index) - auroc(before, index), n)
        return Estimate(auroc(after) - auroc(before), low, high, "paired-bootstrap", n)
    difference = per_sample(metric, after) - per_sample(metric, before)
    low, high = mean_interval(difference)
    return Estimate(float(difference.mean()), low, high, "paired-bootstrap", n)


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """95 % percentile bootstrap interval of a mean; a point where all values are equal."""
    if len(values) < 2 or np.ptp(values) == 0:
        return float(values.mean()), float(values.mean())
    from scipy.stats import bootstrap

    result = bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(0), vectorized=True
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def per_sample(metric: str, scores: Scores) -> np.ndarray:
    """(N,) 0/1 outcomes of a proportion: `top1`, `accuracy` or `top5`."""
    if metric in ("top1", "accuracy"):
        return scores.correct
    if metric == "top5":
        best = np.argsort(-scores.scores, axis=1, kind="stable")[:, :5]
        return (best == scores.labels[:, None]).any(1).astype(np.float64)
    raise ValueError(f"Unknown metric '{metric}'. Available: top1, top5, accuracy, auroc.")


def auroc(scores: Scores, index: np.ndarray | None = None) -> float:
    """Area under ROC of score(second candidate) - score(first), the paper's reading of yes/no tasks (METHOD.md 6)."""
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


def _bootstrap(statistic: Callable[[np.ndarray], float], n: int) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    draws = [statistic(rng.integers(0, n, n)) for _ in range(RESAMPLES // 4)]
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def merge_scores(parts: Sequence[Scores]) -> Scores:
    """Join the disjoint shards of all ranks and sort by id, so that every record of a split has the same order."""
    width = max(part.scores.shape[1] for part in parts)
    tables = [np.pad(p.scores, ((0, 0), (0, width - p.scores.shape[1])), constant_values=-np.inf) for p in parts]
    ids, groups = [key for p in parts for key in p.ids], [group for p in parts for group in p.groups]
    order = sorted(range(len(ids)), key=ids.__getitem__)
    labels, table = np.concatenate([p.labels for p in parts]), np.concatenate(tables)
    return Scores([ids[i] for i in order], labels[order], table[order], [groups[i] for i in order])


def t_interval(means: np.ndarray) -> tuple[float, float]:
    """95 % Student t interval of a mean over few seeds; the point itself for one seed or no spread."""
    if len(means) < 2 or np.ptp(means) == 0:
        return float(means.mean()), float(means.mean())
    from scipy.stats import sem, t

    low, high = t.interval(0.95, len(means) - 1, loc=means.mean(), scale=sem(means))
    return float(low), float(high)
