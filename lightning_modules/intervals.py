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
