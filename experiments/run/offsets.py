"""K offsets, one per shared candidate, added to a model's ranking scores: the most a repair blind to the image can win.

They are fitted as a multinomial logistic regression of the right answer on the scores themselves:
p(k) = softmax(scale * score + b)_k, one scale, K biases, and the offsets are b / scale. This is chosen before a direct
search for the highest accuracy because it is convex (one answer, whatever the start), smooth in the rows (a handful of
rows near a decision cannot swing it), and what it finds is the best decision rule where the scores are off by
constants. A ridge on b, a normal prior of one nat a candidate, keeps rare classes near 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from lightning_modules.metrics import Scores

RIDGE = 1.0  # of b, in nats: as much as a prior of standard deviation 1
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
    from scipy.optimize import minimize

    table = scores.scores.astype(np.float64)
    if not np.isfinite(table).all():
        raise ValueError(
            "Offsets need finite scores of one list of candidates that all rows share; some rows have fewer or NaN."
        )
    n, k = table.shape
    table = table - table.mean(1, keepdims=True)
    unit = float(table.std()) or 1.0
    table /= unit
    right = np.zeros((n, k))
    right[np.arange(n), scores.labels] = 1

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        scale, bias = x[0], x[1:]
        logits = scale * table + bias
        top = logits.max(1, keepdims=True)
        total = np.exp(logits - top).sum(1, keepdims=True)
        nats = (top + np.log(total)).sum() - (logits * right).sum()
        error = np.exp(logits - top) / total - right
        value = nats + RIDGE / 2 * bias @ bias + SCALE_RIDGE / 2 * scale**2
        slope = np.concatenate([[(error * table).sum() + SCALE_RIDGE * scale], error.sum(0) + RIDGE * bias])
        return value / n, slope / n

    start = np.concatenate([[1.0], np.zeros(k)])
    bounds = [(LEAST_SCALE, None), *[(None, None)] * k]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-12, "gtol": 1e-8}).x
    values = found[1:] * unit / found[0]
    return Offsets(values - values.mean(), n)


def with_offsets(scores: Scores, offsets: Offsets) -> Scores:
    """The record with the offsets added to the scores of every row."""
    return scores._replace(scores=(scores.scores + offsets.values).astype(np.float32))


def held_out(fitted_on: Iterable[str], scored_on: Iterable[str]) -> bool:
    """Whether no row was fitted on that is scored (the reference's validation rows are test rows)."""
    return not set(fitted_on) & set(scored_on)


def offset_record(val: Scores | None, test: Scores | None) -> Scores | None:
    """test with the offsets fitted on val; None where there is no such record or it would not be held out."""
    if val is None or test is None or not held_out(val.ids, test.ids):
        return None
    if val.scores.shape[1] != test.scores.shape[1] or not np.isfinite(val.scores).all():
        return None
    return with_offsets(test, fit_offsets(val))
