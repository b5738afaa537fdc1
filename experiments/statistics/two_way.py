"""A mean over seeds and images, with an interval for each alone and for both together.

The model. A prompt was trained with each of S seeds and scored on the same N images; theta_s is the result of seed s
(an accuracy, an AUROC, a gain, an average of gains). Seeds and images are crossed random effects: for a proportion

    y[s, i] = mu + seed_s + image_i + rest_si,      Var(mean) = var_seed / S + var_image / N + var_rest / (S N)

The interval over images holds the seeds fixed (what do THESE prompts do on other images of this kind), the one over
seeds the images (what do other seeds do on THESE images). A claim about the method needs both, and neither alone has
its coverage: over images alone it ignores var_seed, over seeds alone var_image.

The estimates. A = var(theta_s) / S has expectation var_seed / S + var_rest / (S N), with S - 1 degrees of freedom.
With C the (S, S) covariance of the theta_s under resampling of images, B = mean(C) estimates
var_image / N + var_rest / (S N), and E = (trace(C) / S - mean(C)) / (S - 1) estimates var_rest / (S N), which A and B
both hold. For means these are the mean squares of the two-way table; C, unlike those, exists for AUROC too, through
bootstrap draws.

The interval. Satterthwaite's degrees of freedom for A + B - E are too many when there are few seeds: with S = 3 its
95 % interval covers 92 % where seeds vary most, and its p-values of 0.0006 (a Holm step) come 20 times too often,
because a seed variance that happens to come out small takes large degrees of freedom with it. So the half-widths are
added in quadrature instead (MOVER; Zou and Donner, Statistics in Medicine 27, 2008), each with its own t:

    half^2 = max( t(S-1)^2 A + t(N-1)^2 max(B - E, 0),   t(N-1)^2 B )

It never is shorter than the interval over images, covers 95 to 98 % whatever the ratio of the variances, and holds its
level far into the tail; tests/test_experiments_statistics_planted.py measures it. The p-value is the level at which
the interval just reaches zero, so both always agree.

Several sources. Each (source, data set, seed) is a prompt of its own: seed 1 of one source has nothing in common with
seed 1 of another, and where the sources happen to cancel, a variance over blocks "all that has seed s" says nothing. So
results stay apart in strata, one for each source and data set, with weights w_g that add up to one: A is the sum of
w_g^2 var(theta_gs) / S, E that of each stratum's own, and the degrees of freedom are Satterthwaite's. Sources differ in
how much seeds matter: the G (S - 1) of equal variances would make a p of 0.001 come 40 times too often (all of it in
one of five sources), Satterthwaite's at most about 3 times; where sources are alike his interval is somewhat wide.

What it speaks of. Such an interval is about THESE sources, targets and data sets, with other seeds and other images.
`over_sources` is about other sources: it puts sources in the place of seeds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from lightning_modules.intervals import percentiles

SMALLEST = 1e-100  # its t quantile with one degree of freedom, squared, is still a float


class OnImages(NamedTuple):
    """Results on one independent set of n images: G strata (sources) of S seeds each.

    means: (G, S). weights: (G,) of the strata in the value; those of all sets add up to 1. covariance: (G S, G S) of
    the means, stratum after stratum, under resampling of the images. strata: their G names.
    """

    means: np.ndarray
    weights: np.ndarray
    covariance: np.ndarray
    n: int
    strata: tuple[str, ...]

    @property
    def value(self) -> float:
        return float(self.weights @ self.means.mean(1))

    @property
    def variance(self) -> float:
        """Of the value, under resampling of the images."""
        count = self.means.shape[1]
        every = np.repeat(self.weights / count, count)
        return float(every @ self.covariance @ every)

    def within(self) -> float:
        """E: what the variances over seeds and over images both hold."""
        count, total = self.means.shape[1], 0.0
        for place, weight in enumerate(self.weights):
            own = slice(place * count, (place + 1) * count)
            total += weight**2 * diagonal_excess(self.covariance[own, own])
        return float(total)


def diagonal_excess(covariance: np.ndarray) -> float:
    """What (S, S) results vary by for themselves, in the variance of their mean: (trace / S - mean) / (S - 1)."""
    count = len(covariance)
    return max(float(np.trace(covariance)) / count - float(covariance.mean()), 0.0) / (count - 1)


class Measured(NamedTuple):
    """sets: the results on every independent set of images. draws: (B,) bootstrap draws of the value over images."""

    sets: tuple[OnImages, ...]
    draws: np.ndarray

    @property
    def value(self) -> float:
        return sum(of.value for of in self.sets)

    @property
    def seeds(self) -> int:
        return self.sets[0].means.shape[1]


def one_source(means: np.ndarray, covariance: np.ndarray, n: int, draws: np.ndarray) -> Measured:
    """(S,) results of the seeds of one source on n images; covariance: (S, S)."""
    return Measured((OnImages(means[None], np.ones(1), covariance, n, ("",)),), draws)


class Prior(NamedTuple):
    """What other pairs say about the variance over seeds: `variance` of one seed, as good as `df` more seeds."""

    variance: float
    df: float


NO_PRIOR = Prior(0.0, 0.0)


class VarianceParts(NamedTuple):
    """Variance of the mean: over seeds, over images, what both hold, and degrees of freedom."""

    seeds: float
    images: float
    both: float
    df_seeds: float
    df_images: float


def variance_parts(measured: Measured, prior: Prior = NO_PRIOR) -> VarianceParts:
    """A, B and E of the module's docstring; with one seed only B. prior: where there is one source on one set."""
    count = measured.seeds
    images, df_images = _over_images(measured)
    if count < 2:
        return VarianceParts(0.0, images, 0.0, 0.0, df_images)
    both = sum(of.within() for of in measured.sets)
    weights = np.concatenate([of.weights for of in measured.sets])
    variances = np.concatenate([of.means.var(axis=1, ddof=1) for of in measured.sets])
    if len(weights) == 1:
        df = count - 1 + prior.df
        variance = ((count - 1) * float(variances[0]) + prior.df * prior.variance) / df
        return VarianceParts(variance / count, images, both, df, df_images)
    parts = weights**2 * variances / count
    return VarianceParts(float(parts.sum()), images, both, satterthwaite(parts, count - 1), df_images)


def _over_images(measured: Measured) -> tuple[float, int]:
    """B, and its degrees of freedom."""
    return sum(of.variance for of in measured.sets), max(min(of.n for of in measured.sets) - 1, 1)


def satterthwaite(parts: np.ndarray, df: int) -> float:
    """Degrees of freedom of a sum of independent estimated variances, each known with `df`: from df to df times all."""
    squares = float((parts**2).sum())
    return float(df * parts.sum() ** 2 / squares) if squares > 0 else float(df * len(parts))


def half_width(of: VarianceParts, level: float) -> float:
    """Half the interval that covers with probability 1 - level."""
    from scipy.special import stdtrit

    images = stdtrit(of.df_images, level / 2) ** 2
    if of.df_seeds == 0:
        return float(np.sqrt(images * of.images))
    seeds = stdtrit(min(of.df_seeds, 1e6), level / 2) ** 2
    both = seeds * of.seeds + images * max(of.images - of.both, 0.0)
    return float(np.sqrt(max(both, images * of.images)))


def seeds_half_width(of: VarianceParts, level: float = 0.05) -> float:
    """Half of Student's t interval over the seeds, the images fixed."""
    from scipy.special import stdtrit

    return float(-stdtrit(of.df_seeds, level / 2) * np.sqrt(of.seeds))


def p_value(value: float, of: VarianceParts) -> float:
    """Two-sided: the level at which the interval reaches zero.

    Without any variance all images moved alike: 1 for a value of zero, else the sign test of as many images.
    """
    from scipy.optimize import brentq

    if value == 0:
        return 1.0
    if half_width(of, 0.05) == 0:
        return min(1.0, 2.0 * 0.5 ** (of.df_images + 1))
    if half_width(of, SMALLEST) <= abs(value):
        return SMALLEST
    root = brentq(lambda log: half_width(of, np.exp(log)) - abs(value), np.log(SMALLEST), 0.0, xtol=1e-9)
    return float(np.exp(root))


def one_sided(p: float, value: float) -> float:
    """p of "the mean is below zero" from a two-sided one."""
    return p / 2 if value < 0 else 1 - p / 2


def summary(measured: Measured, prior: Prior = NO_PRIOR, level: float = 0.05) -> dict:
    """Value, headline interval (images and seeds), the interval over each alone, spread over seeds and p.

    sd_seeds: of a prompt's result among the seeds of its source. With one seed nothing is known of it: the headline is
    the interval over images, `interval` says so, and what is about seeds is None.
    """
    value, several = measured.value, measured.seeds > 1
    of = variance_parts(measured, prior)
    low, high = percentiles(measured.draws)
    numbers: dict = {"value": value, "low": low, "high": high, "interval": "images", "images_low": low,
                     "images_high": high, "seeds_low": None, "seeds_high": None, "sd_seeds": None}  # fmt: skip
    if several:
        half, over_seeds = half_width(of, level), seeds_half_width(variance_parts(measured), level)
        within = np.concatenate([part.means.var(axis=1, ddof=1) for part in measured.sets])
        numbers |= {"low": value - half, "high": value + half, "interval": "images and seeds",
                    "seeds_low": value - over_seeds, "seeds_high": value + over_seeds,
                    "sd_seeds": float(np.sqrt(within.mean()))}  # fmt: skip
    return numbers | {"p": p_value(value, of)}


def mean_of(measured: Sequence[Measured]) -> Measured:
    """The unweighted mean over independent sets of images (data sets), as many seeds on each."""
    count = len(measured)
    sets = [of._replace(weights=of.weights / count) for m in measured for of in m.sets]
    return Measured(tuple(sets), np.mean([m.draws for m in measured], axis=0))


def over_sources(measured: Measured, level: float = 0.05) -> dict:
    """The interval that speaks of other sources like these, the targets and data sets staying what they are.

    The sources take the place of the seeds: each counts with its mean over seeds and data sets, as one of many that
    might have been taken. None where there are fewer than two, or not the same ones on all data sets.
    """
    names, weights = {of.strata for of in measured.sets}, [of.weights for of in measured.sets]
    count = len(weights[0])
    if len(names) != 1 or count < 2:
        return {"sources_low": None, "sources_high": None}
    results, both = np.zeros(count), 0.0
    for of in measured.sets:
        scaled = of.weights * count  # a source with more targets counts for more, as it does in the value
        results += scaled * of.means.mean(1)
        seeds = of.means.shape[1]
        mean = np.repeat(np.diag(scaled / seeds), seeds, axis=1)  # (G, G S)
        both += diagonal_excess(mean @ of.covariance @ mean.T)
    images, df_images = _over_images(measured)
    half = half_width(VarianceParts(float(results.var(ddof=1)) / count, images, both, count - 1, df_images), level)
    return {"sources_low": measured.value - half, "sources_high": measured.value + half}


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
