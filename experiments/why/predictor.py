"""Which number says beforehand whom a prompt helps: chosen on half of the sources, tested once on the others."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.report.sections.why import CANDIDATES

DRAWS = 2000
LEAST_SOURCES = 4
LEAST_KNOWN = 0.75
"""Of the pairs a candidate is chosen on: offsets that are all 0 correlate with nothing."""


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


def known(entries: Sequence[Entry], name: str) -> list[Entry]:
    """Those that have this candidate."""
    return [entry for entry in entries if name in entry.values]


def spearman(entries: Sequence[Entry], name: str) -> float | None:
    """Rank correlation of a candidate with the gain; None where either never changes."""
    from scipy.stats import rankdata

    pairs = [(entry.values[name], entry.gain) for entry in known(entries, name)]
    if len(pairs) < 3 or any(len(set(column)) < 2 for column in zip(*pairs, strict=True)):
        return None
    return float(np.corrcoef(*(rankdata(column) for column in zip(*pairs, strict=True)))[0, 1])


def of_target(entry: Entry) -> str:
    """All prompts on one target."""
    return entry.target


def of_prompt(entry: Entry) -> tuple[str, str]:
    """One prompt on all targets."""
    return entry.source, entry.method


def within(entries: Sequence[Entry], name: str, group: Callable[[Entry], Hashable]) -> list[Entry]:
    """Candidate and gain as differences from their means over the entry's group.

    Within targets, a number that only says which targets are frail is 0; within prompts, one that only says which
    prompts harm everybody.
    """
    some, found = known(entries, name), []
    for entry in some:
        peers = [other for other in some if group(other) == group(entry)]
        value = entry.values[name] - np.mean([peer.values[name] for peer in peers])
        gain = entry.gain - np.mean([peer.gain for peer in peers])
        found.append(entry._replace(gain=round(float(gain), 12), values={name: round(float(value), 12)}))
    return found


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

    The best is the one with the largest |rho| on the first half, among those that LEAST_KNOWN of its pairs have; its
    sign is chosen there too. `reason` alone where it cannot be done.
    """
    sources = sorted({entry.source for entry in entries})
    if len(sources) < LEAST_SOURCES:
        return {"reason": f"{len(sources)} sources with targets are fewer than {LEAST_SOURCES}, two a half"}
    first, second = halves(sources, seed)
    parts = [[entry for entry in entries if entry.source in part] for part in (first, second)]
    whole = [name for name in CANDIDATES if len(known(parts[0], name)) >= LEAST_KNOWN * len(parts[0])]
    rho = {name: value for name in whole if (value := spearman(parts[0], name)) is not None}
    if not rho:
        return {"reason": "no candidate differs from pair to pair"}
    best = max(rho, key=lambda name: abs(rho[name]))
    low, high = cluster_interval(parts[1], best) or (None, None)
    return {
        "seed": seed,
        "best": best,
        "chosen_on": {"sources": first, "pairs": {name: len(known(parts[0], name)) for name in rho}, "rho": rho},
        "tested_on": {
            **{"sources": second, "pairs": len(known(parts[1], best))},
            **{"rho": spearman(parts[1], best), "low": low, "high": high},
            "within_targets": spearman(within(parts[1], best, of_target), best),
            "within_prompts": spearman(within(parts[1], best, of_prompt), best),
        },
    }
