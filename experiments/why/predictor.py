"""Which number says beforehand whom a prompt helps: chosen on half of the sources, tested once on the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.report.sections.why import CANDIDATES

DRAWS = 2000
LEAST_SOURCES = 4


class Entry(NamedTuple):
    """A prompt (source, method; mean over seeds) on one model that is not its source.

    gain: over the full image, on test. values: candidate -> number.
    """

    source: str
    target: str
    method: str
    gain: float
    values: dict[str, float]


def halves(sources: Sequence[str], seed: int) -> tuple[list[str], list[str]]:
    """The sources in two halves drawn by `seed`, none in both; of an odd number the second has one more."""
    names = sorted(set(sources))
    order = np.random.default_rng(seed).permutation(len(names))
    first = {names[i] for i in order[: len(names) // 2]}
    return [name for name in names if name in first], [name for name in names if name not in first]


def spearman(entries: Sequence[Entry], name: str) -> float | None:
    """Rank correlation of a candidate with the gain; None where either never changes."""
    from scipy.stats import spearmanr

    pairs = [(entry.values[name], entry.gain) for entry in entries]
    if len(pairs) < 3 or any(len(set(column)) < 2 for column in zip(*pairs, strict=True)):
        return None
    return float(spearmanr(*zip(*pairs, strict=True)).statistic)


def cluster_interval(entries: Sequence[Entry], name: str, seed: int = 0) -> tuple[float, float] | None:
    """95 % percentiles of Spearman's rho when whole sources are drawn anew; None for fewer than two sources."""
    sources = sorted({entry.source for entry in entries})
    if len(sources) < 2:
        return None
    of = {source: [entry for entry in entries if entry.source == source] for source in sources}
    rng, found = np.random.default_rng(seed), []
    for draw in rng.integers(0, len(sources), (DRAWS, len(sources))):
        rho = spearman([entry for i in draw for entry in of[sources[i]]], name)
        found += [] if rho is None else [rho]
    if not found:
        return None
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def choose_predictor(entries: Sequence[Entry], seed: int) -> dict[str, Any]:
    """What why.json says of the predictor: the halves, every candidate's rho on the first, the best one's on the other.

    The best is the one with the largest |rho| on the first half; its sign is chosen there too. A candidate that nobody
    has is no candidate; an entry that lacks one is left out, so that all are judged on the same ones. `reason` alone
    where it cannot be done.
    """
    names = [name for name in CANDIDATES if any(name in entry.values for entry in entries)]
    usable = [entry for entry in entries if all(name in entry.values for name in names)]
    sources = {entry.source for entry in usable}
    if len(sources) < LEAST_SOURCES:
        return {"reason": f"{len(sources)} sources with targets are fewer than {LEAST_SOURCES}, two a half"}
    first, second = halves(sorted(sources), seed)
    parts = [[entry for entry in usable if entry.source in part] for part in (first, second)]
    rho = {name: value for name in names if (value := spearman(parts[0], name)) is not None}
    if not rho:
        return {"reason": "no candidate differs from pair to pair"}
    best = max(rho, key=lambda name: abs(rho[name]))
    tested = spearman(parts[1], best)
    bounds = cluster_interval(parts[1], best)
    return {
        "seed": seed,
        "chosen_on": {"sources": first, "pairs": len(parts[0]), "rho": rho},
        "best": best,
        "tested_on": {
            "sources": second,
            "pairs": len(parts[1]),
            "rho": tested,
            "low": bounds and bounds[0],
            "high": bounds and bounds[1],
        },
    }
