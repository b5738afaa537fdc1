"""How much results vary over seeds, learned from the other sources too: three seeds alone say too little.

With S = 3 seeds a t interval has 2 degrees of freedom, and at a step of Holm's correction over 100 pairs (p < 0.0005)
its half-width is 45 standard errors: no regression, however plain, would ever be reported. The seed variances of the
other pairs of the same method and data set are evidence about this one's. They are pooled as in empirical Bayes
moderated tests (Smyth, Statistical Applications in Genetics and Molecular Biology 3, 2004): the variance used is the
mean of the pair's own and the pooled one, weighted by degrees of freedom, and the t has those of both.

How far the pool is trusted follows from how much the logarithms of the pooled variances differ beyond what chi-squared
noise explains: variances that differ between pairs give few degrees of freedom. Three choices keep the alarm's rate
where variances differ by powers of ten or one prompt's seeds hit all targets alike (tests/..._planted.py):
only pairs of OTHER sources are pooled; their plain mean is used, which large variances rule, not the fitted scale;
and the pool counts at most half the degrees of freedom that the other sources' seeds have.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from experiments.statistics.two_way import NO_PRIOR, Prior

FEWEST = 3


def priors(variances: Sequence[tuple[str, float, int]], n: int) -> dict[str, Prior]:
    """source -> what the pairs of all other sources say about its variance over seeds.

    variances: (source, variance over its seeds, number of seeds) of each pair of one method and data set. n: images;
    the metric is known to 1/n, so a variance below that of the rounding, 1 / (12 n^2), counts as that.
    """
    known = [(source, max(variance, 1 / (12 * n**2)), count) for source, variance, count in variances if count > 1]
    return {source: _prior([of for of in known if of[0] != source]) for source in {of[0] for of in variances}}


def _prior(others: Sequence[tuple[str, float, int]]) -> Prior:
    if len(others) < FEWEST:
        return NO_PRIOR
    variances, df = np.array([of[1] for of in others]), np.array([of[2] - 1 for of in others])
    independent = sum(_by_source(others).values())
    trusted = min(agreement(variances, df), independent / 2)
    return Prior(float(variances.mean()), trusted)


def _by_source(pairs: Iterable[tuple[str, float, int]]) -> dict[str, int]:
    """Degrees of freedom of each source's seeds: its pairs share the prompts."""
    found: dict[str, int] = {}
    for source, _, count in pairs:
        found[source] = max(found.get(source, 0), count - 1)
    return found


def agreement(variances: np.ndarray, df: np.ndarray) -> float:
    """Degrees of freedom that one pair's variance is known with from others: how much the true ones agree.

    The variance of log s^2 is trigamma(df / 2) from sampling plus trigamma(d0 / 2) from true variances drawn as
    scaled inverse chi-squared with d0 degrees of freedom; this is d0, infinite where sampling explains everything.
    """
    from scipy.optimize import brentq
    from scipy.special import polygamma

    half = df / 2
    logs = np.log(variances) - polygamma(0, half) + np.log(half)
    excess = float(logs.var(ddof=1) - polygamma(1, half).mean())
    if excess <= polygamma(1, 1e4):
        return float("inf")
    if excess >= polygamma(1, 1e-3):
        return 0.0
    return 2 * float(brentq(lambda x: float(polygamma(1, x)) - excess, 1e-3, 1e4))
