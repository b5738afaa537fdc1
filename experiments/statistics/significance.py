"""Tests on paired outcomes, and what many of them together may claim."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def mcnemar(after: np.ndarray, before: np.ndarray) -> dict:
    """Exact McNemar test on 0/1 outcomes of the same samples: how many were gained, how many lost, two-sided p."""
    from statsmodels.stats.contingency_tables import mcnemar as exact

    gained, lost = int((after > before).sum()), int((after < before).sum())
    p = float(exact([[0, gained], [lost, 0]], exact=True).pvalue) if gained + lost else 1.0
    return {"gained": gained, "lost": lost, "p": min(p, 1.0)}


def worse(gained: int, lost: int) -> float:
    """One-sided exact McNemar: p of at most this many gained, were gains and losses equally likely."""
    from scipy.stats import binom

    return float(binom.cdf(gained, gained + lost, 0.5))


def sign_flip(sums: np.ndarray) -> dict:
    """Exact sign-flip test on (U,) whole-numbered sums of units: how many units gained, how many lost, p.

    Would the sign of each unit's sum be as likely the other, how often is their total as far from zero (p, two-sided)
    or as low (p_worse) as it is? With sums of -1, 0 and 1 only, one row a unit, this is McNemar's exact test. Units of
    one magnitude k are k times a binomial count, so the distribution is a convolution of binomials, and no draw.
    """
    from scipy.signal import convolve
    from scipy.stats import binom

    whole = np.rint(sums).astype(np.int64)
    sizes, counts = np.unique(np.abs(whole[whole != 0]), return_counts=True)
    chances = np.ones(1)  # of (total + most) / 2 = 0, 1, ..., most
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        own = np.zeros(size * count + 1)
        own[::size] = binom.pmf(np.arange(count + 1), count, 0.5)
        chances = np.maximum(convolve(chances, own), 0.0)
    at = (int(whole.sum()) + len(chances) - 1) // 2
    below, above = float(chances[: at + 1].sum()), float(chances[at:].sum())
    gained, lost = int((whole > 0).sum()), int((whole < 0).sum())
    return {"gained": gained, "lost": lost, "p": min(2 * min(below, above), 1.0), "p_worse": min(below, 1.0)}


def bootstrap_p(value: float, draws: np.ndarray) -> float:
    """Two-sided p of a value whose standard error is that of its draws; reaches further into the tail than counting."""
    from scipy.stats import norm

    error = float(draws.std(ddof=1))
    if error == 0:
        return 1.0 if value == 0 else 1 / len(draws)
    return float(2 * norm.sf(abs(value) / error))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's adjusted p-values; None (not part of the family) stays None and counts for nothing.

    The k-th smallest of m, k from 0, is multiplied by m - k, and none is below a smaller one's. These are statsmodels'
    `multipletests`, which collects all garbage at each call: a quarter of a second in a process that holds torch.
    """
    places = [place for place, p in enumerate(p_values) if p is not None]
    family = np.array([p_values[place] for place in places], float)
    order = np.argsort(family, kind="stable")
    adjusted = np.minimum(np.maximum.accumulate(family[order] * np.arange(len(family), 0, -1)), 1.0)
    result: list[float | None] = [None] * len(p_values)
    for rank, at in enumerate(order):
        result[places[at]] = float(adjusted[rank])
    return result
