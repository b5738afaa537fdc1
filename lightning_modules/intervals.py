"""95 % intervals: Wilson, and seeded percentile bootstraps. Functions of plain arrays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

RESAMPLES = 2000


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Wilson interval of a proportion: hits of n."""
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(hits, n, method="wilson")
    return float(low), float(high)


def wilson_of_units(values: np.ndarray, units: np.ndarray) -> tuple[float, float]:
    """Wilson interval of a proportion of rows that depend on each other within units, from (N,) 0/1 values.

    Wilson's formula with the n that as many independent rows would have: p (1 - p) over the variance that the units
    show, smaller by Student's factor for few units, never above N (Dean and Pagano, Journal of Survey Statistics and
    Methodology 3, 2015). Where all rows agree nothing is known of that variance, and n is the number of units.
    """
    from scipy.stats import norm, t
    from statsmodels.stats.proportion import proportion_confint

    p, n = float(values.mean()), len(values)
    count = int(units.max()) + 1
    variance = float(linearised(values, units).var(ddof=1)) / count if count > 1 else np.inf
    student = t.isf(0.025, count - 1) / norm.isf(0.025) if count > 1 else 1.0
    effective = float(count)
    if 0 < p < 1:
        effective = min(p * (1 - p) / variance / student**2, n) if variance > 0 else n
    low, high = proportion_confint(p * effective, effective, method="wilson") if effective > 0 else (0.0, 1.0)
    return float(low), float(high)


def unit_sums(table: np.ndarray, units: np.ndarray) -> np.ndarray:
    """(N, ...) rows added up by unit: (U, ...). units: (N,) numbers from 0 to U - 1."""
    sums = np.zeros((int(units.max()) + 1, *table.shape[1:]))
    np.add.at(sums, units, table)
    return sums


def linearised(values: np.ndarray, units: np.ndarray) -> np.ndarray:
    """(U, ...) one value a unit, whose mean is that of all rows and whose variance over U is that of this mean.

    A mean over rows is the ratio of two sums over units, the rows' values and their number; this is its first-order
    expansion (with as many rows in every unit exactly the unit's own mean).
    """
    sizes = np.bincount(units).reshape(-1, *[1] * (values.ndim - 1))
    mean = values.mean(0, dtype=np.float64)
    return (unit_sums(values, units) - mean * sizes) * (len(sizes) / len(values)) + mean


def unit_draws(table: np.ndarray, seed: int = 0) -> np.ndarray:
    """(RESAMPLES, C) sums over resampled units of a (U, C) table: a bootstrap of whatever follows from such sums."""
    kinds, counts = np.unique(table, axis=0, return_counts=True)  # units that are alike are one kind, see count_draws
    return count_draws(counts, seed) @ kinds


def mean_draws(values: np.ndarray, units: np.ndarray, seed: int = 0) -> np.ndarray:
    """(RESAMPLES,) means of the rows of resampled units."""
    drawn = unit_draws(unit_sums(np.stack([values, np.ones(len(values))], 1), units), seed)
    return drawn[:, 0] / drawn[:, 1]


def unit_index_draws(statistic: Callable[[np.ndarray], float], units: np.ndarray, seed: int = 0) -> np.ndarray:
    """`index_draws` of units: the statistic is given the positions of all rows of the units drawn."""
    rows = np.split(np.argsort(units, kind="stable"), np.cumsum(np.bincount(units))[:-1])
    return index_draws(lambda chosen: statistic(np.concatenate([rows[u] for u in chosen])), len(rows), seed)


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """95 % percentile bootstrap interval of a mean; a point where all values are equal."""
    if len(values) < 2 or np.ptp(values) == 0:
        return float(values.mean()), float(values.mean())
    from scipy.stats import bootstrap

    result = bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(0), vectorized=True
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def percentiles(draws: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of bootstrap draws."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def index_draws(statistic: Callable[[np.ndarray], float], n: int, seed: int = 0) -> np.ndarray:
    """(RESAMPLES / 4,) values of a statistic of n resampled positions: for what is no function of counts."""
    rng = np.random.default_rng(seed)
    return np.array([statistic(rng.integers(0, n, n)) for _ in range(RESAMPLES // 4)])


def count_draws(counts: np.ndarray, seed: int = 0) -> np.ndarray:
    """(RESAMPLES, C) counts of resampled samples, C kinds of them: a bootstrap of anything that needs counts alone.

    Resampling n samples with replacement and counting their kinds is one multinomial draw, so this is the same
    bootstrap as `index_draws`, without the loop.
    """
    n = int(counts.sum())
    return np.random.default_rng(seed).multinomial(n, counts / n, size=RESAMPLES)
