"""K offsets, one per shared candidate, added to a model's ranking scores: the most a repair blind to the image can win.

They are fitted as a multinomial logistic regression of the right answer on the scores themselves:
p(k) = softmax(scale * score + b)_k, one scale, K biases, and the offsets are b / scale. This is chosen before a direct
search for the highest accuracy because it is convex (one answer, whatever the start), smooth in the rows (a handful of
rows near a decision cannot swing it), and what it finds is the best decision rule where the scores are off by
constants. Where they are off in other ways, likelihood and accuracy part: the ridge on b is therefore the one that
five-fold cross-validation on the same rows finds most accurate, from one nat a candidate to infinity, no offsets at
all, so that noise wins nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from lightning_modules.metrics import Scores

RIDGES = (np.inf, 100.0, 30.0, 10.0, 3.0, 1.0)  # of b in nats; an equally good one later in the row does not count
FOLDS = 5
SCALE_RIDGE = 1e-3  # of the scale: a model that is always right would want an infinite one
LEAST_SCALE = 0.1  # scores that say nothing would want 0, and offsets are divided by it


class Offsets(NamedTuple):
    """values: (K,) float64 with mean 0, in the units of the scores. n: rows they were fitted on."""

    values: np.ndarray
    n: int


def fit_offsets(scores: Scores) -> Offsets:
    """The offsets of one record, fitted on its labels; deterministic.

    Raises:
        ValueError: rows have fewer candidates than others, so that column k is not one candidate.
    """
    table, labels = scores.scores.astype(np.float64), scores.labels
    if not np.isfinite(table).all():
        raise ValueError(
            "Offsets need finite scores of one list of candidates that all rows share; some rows have fewer, or NaN."
        )
    table = table - table.mean(1, keepdims=True)
    unit = float(table.std()) or 1.0
    table /= unit
    part = _folds(labels, scores.unit_numbers)
    right = [_cross_validated(table, labels, part, ridge) for ridge in RIDGES]
    values = _fit(table, labels, RIDGES[int(np.argmax(right))]) * unit
    return Offsets(values - values.mean(), len(labels))


def _folds(labels: np.ndarray, units: np.ndarray | None) -> np.ndarray:
    """(N,) the fold of each row: every class spread over all, or whole units where rows depend on each other."""
    if units is not None:
        return units % FOLDS
    folds = np.empty(len(labels), np.int64)
    folds[np.argsort(labels, kind="stable")] = np.arange(len(labels)) % FOLDS
    return folds


def _cross_validated(table: np.ndarray, labels: np.ndarray, part: np.ndarray, ridge: float) -> int:
    """How many rows are answered right by offsets fitted on the other folds."""
    hits = 0
    for fold in np.unique(part):
        out = part == fold
        # A ridge of the whole: a part of the rows asks for its share.
        values = _fit(table[~out], labels[~out], ridge * float((~out).mean()) if (~out).any() else np.inf)
        hits += int(((table[out] + values).argmax(1) == labels[out]).sum())
    return hits


def _fit(table: np.ndarray, labels: np.ndarray, ridge: float) -> np.ndarray:
    """(K,) offsets in units of the table."""
    from scipy.optimize import minimize

    n, k = table.shape
    if ridge == np.inf:
        return np.zeros(k)
    right = np.zeros((n, k))
    right[np.arange(n), labels] = 1

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        scale, bias = x[0], x[1:]
        logits = scale * table + bias
        top = logits.max(1, keepdims=True)
        powers = np.exp(logits - top)
        total = powers.sum(1, keepdims=True)
        nats = (top + np.log(total)).sum() - (logits * right).sum()
        error = powers / total - right
        value = nats + ridge / 2 * bias @ bias + SCALE_RIDGE / 2 * scale**2
        slope = np.concatenate([[(error * table).sum() + SCALE_RIDGE * scale], error.sum(0) + ridge * bias])
        return value / n, slope / n

    bounds = [(LEAST_SCALE, None), *[(None, None)] * k]
    found = minimize(loss, np.eye(k + 1)[0], jac=True, method="L-BFGS-B", bounds=bounds, options={"gtol": 1e-7}).x
    return found[1:] / found[0]


def with_offsets(scores: Scores, offsets: Offsets) -> Scores:
    """The record with the offsets added to the scores of every row."""
    return scores._replace(scores=(scores.scores + offsets.values).astype(np.float32))


def held_out(fitted_on: Iterable[str], scored_on: Iterable[str]) -> bool:
    """Whether no row was fitted on that is scored (the reference's validation rows are test rows)."""
    return not set(fitted_on) & set(scored_on)


def one_list(data: Any, sizes: Mapping[str, int | None]) -> list[str] | None:
    """The candidates of all rows of a data set's sub-samples (split -> n); None where rows have different ones."""
    lists = {tuple(row.candidates or data.candidates) for split, n in sizes.items() for row in data.subset(split, n)}
    return list(next(iter(lists))) if len(lists) == 1 else None


def offset_record(val: Scores | None, test: Scores | None) -> Scores | None:
    """test with the offsets fitted on val; None where there is no such record or it would not be held out."""
    if val is None or test is None or not held_out(val.ids, test.ids):
        return None
    return with_offsets(test, fit_offsets(val))
