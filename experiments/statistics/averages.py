"""Averages over many (source, target) pairs, with the intervals of `two_way`: methods, differences, what is shared.

The pairs of a data set are scored on the same images, so their per-sample values are averaged first and the images are
resampled once. A (source, data set, seed) is a prompt of its own: its results are averaged over the targets, and how
much seeds matter is judged within each source. Sources, targets and data sets themselves are fixed: an average is about
the models and data it names; `sources_low` and `sources_high` are about other sources.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.statistics.outcomes import DataSet, prompts_of
from experiments.statistics.sharing import STRONGEST_FIRST, direction, shared
from experiments.statistics.significance import holm
from experiments.statistics.two_way import Measured, OnImages, mean_of, over_sources, summary
from lightning_modules.intervals import linearised
from lightning_modules.vocabulary import CONTROLS, members

Pair = tuple[str, str, str]
"""(data set, source, target)."""
Columns = dict[Pair, dict[int, tuple[int, int]]]
"""Pair -> seed -> the column of interest and the one subtracted from it."""

DIFFERENCES = (("tvp", "evp"), ("tvp", "vp"), ("fca", "evp"), ("tse", "evp"))
"""The method against what came before it, and each of its losses alone."""
Contrast = Mapping[str, Any]
"""methods: the two. over: `targets` or `source`. data: one data set, "" for the mean over all."""


def primary_contrast(methods: Sequence[str]) -> dict[str, Any] | None:
    """The one comparison that a sweep is made for, of the two methods that its recipe names; None where it names none.

    On targets the prompts were not learned on, mean over data sets: what the matrix is there to say.
    """
    return {"methods": list(methods), "over": "targets", "data": ""} if methods else None


def measure(data: DataSet, plus: np.ndarray, minus: np.ndarray | None, sources: Sequence[str] = ()) -> Measured:
    """Results of S seeds averaged over P pairs, apart for each source.

    Args:
        plus, minus: (S, P) columns, minus subtracted.
        sources: P names; none: all pairs are of one source.
    """
    names = sorted(set(sources)) or [""]
    pairs = [np.array([i for i in range(plus.shape[1]) if not sources or sources[i] == name]) for name in names]

    def averaged(table: np.ndarray) -> np.ndarray:
        """(..., K) -> (..., G S), source after source."""
        parts = []
        for own in pairs:
            result = table[..., plus[:, own]].mean(-1, dtype=np.float64)
            parts.append(result if minus is None else result - table[..., minus[:, own]].mean(-1, dtype=np.float64))
        return np.concatenate(parts, axis=-1)

    means, draws = averaged(data.points), averaged(data.draws)
    if data.values is None:
        sampled, scale = draws, 1
    else:
        sampled, scale = averaged(data.values), data.images
        sampled = sampled if data.units is None else linearised(sampled, data.units)
    several = len(sampled) > 1
    covariance = np.atleast_2d(np.cov(sampled, rowvar=False)) / scale if several else np.zeros([len(means)] * 2)
    weights = np.array([len(own) for own in pairs]) / plus.shape[1]
    of = OnImages(means.reshape(len(names), -1), weights, covariance, data.images, tuple(names))
    return Measured((of,), draws @ np.repeat(weights / len(plus), len(plus)))


def balanced(seeds_of: Mapping[Pair, Iterable[int]]) -> tuple[list[Pair], list[int]]:
    """Pairs and seeds such that every pair has every seed.

    All pairs, with the seeds they share: a missing run then costs precision, and what is averaged stays comparable
    between methods. Pairs that share no seed: the largest complete rectangle.
    """
    sets = {pair: frozenset(seeds) for pair, seeds in seeds_of.items()}
    # A failed run takes its seed from every pair: all models stay in the average, and only its interval grows.
    common = frozenset.intersection(*sets.values())
    if not common:
        # Nothing is shared by all, so some pairs must go: keep as many results (pairs x seeds) as can be complete.
        # Sorted, because of two rectangles of one size the same one must be taken whatever the order of the files.
        candidates = sorted(set(sets.values()), key=sorted)
        common = max(candidates, key=lambda chosen: len(chosen) * sum(chosen <= seeds for seeds in sets.values()))
    return sorted(pair for pair, seeds in sets.items() if common <= seeds), sorted(common)


def average(data: Mapping[str, DataSet], columns: Columns) -> dict:
    """Mean over the pairs of each data set, then over data sets; with counts of pairs, seeds and rows."""
    pairs, seeds = balanced(columns)
    measured, n = [], 0
    for name in sorted({pair[0] for pair in pairs}):
        own = [pair for pair in pairs if pair[0] == name]
        table = np.array([[columns[pair][seed] for pair in own] for seed in seeds])
        measured.append(measure(data[name], table[..., 0], table[..., 1], [source for _, source, _ in own]))
        n += data[name].n
    mean = mean_of(measured)
    return summary(mean) | over_sources(mean) | {"pairs": len(pairs), "seeds": len(seeds), "n": n}


def columns_of(
    data: Mapping[str, DataSet], method: str, keep: Callable[[Pair], bool], *, other: str = "", minus: str = "prompt"
) -> Columns:
    """Of every kept pair and seed the prompted column of a method, and the one subtracted: of the input `minus`, with
    the prompt of the method `other` (none: of the same method). Where there is no such column the pair is left out."""
    found: Columns = {}
    for name, (source, target, of_method, seed) in prompts_of(data):
        subtracted = data[name].columns.get((source, target, other or method, seed), {})
        if of_method == method and minus in subtracted and keep((name, source, target)):
            prompted = data[name].columns[source, target, method, seed]["prompt"]
            found.setdefault((name, source, target), {})[seed] = prompted, subtracted[minus]
    return found


def is_source(pair: Pair) -> bool:
    return pair[2] in members(pair[1])


SIDES = {"targets": lambda pair: not is_source(pair), "source": is_source}


def method_rows(data: Mapping[str, DataSet]) -> list[dict]:
    """Average gain of every method over every control: on each data set and their mean (""), on targets and source."""
    rows = []
    for method in methods_of(data):
        for over, keep in SIDES.items():
            for control in CONTROLS:
                columns = columns_of(data, method, keep, minus=control)
                for name, part in by_data(columns).items():
                    head = {"method": method, "data": name, "over": over, "control": control}
                    rows.append(head | average(data, part))
    return rows


def shared_rows(data: Mapping[str, DataSet]) -> list[dict]:
    """Average gain on targets by what they share with the source, the strongest first."""
    return _grouped(data, "shared", shared, STRONGEST_FIRST.index)


def direction_rows(data: Mapping[str, DataSet]) -> list[dict]:
    """Average gain on targets by the kinds of both towers."""
    return _grouped(data, "direction", direction)


def source_rows(data: Mapping[str, DataSet]) -> list[dict]:
    """Average gain on the targets of each source; nothing where there is one source."""
    rows = _grouped(data, "source", lambda source, target: source)
    return rows if len({row["source"] for row in rows}) > 1 else []


def _grouped(
    data: Mapping[str, DataSet], key: str, group: Callable[[str, str], str], order: Callable[[str], Any] = str
) -> list[dict]:
    """Average gain on targets by `group(source, target)`, which rows hold as `key`."""
    rows = []
    for method in methods_of(data):
        for control in CONTROLS:
            columns = columns_of(data, method, SIDES["targets"], minus=control)
            groups: dict[str, Columns] = {}
            for pair, of in columns.items():
                groups.setdefault(group(*pair[1:]), {})[pair] = of
            for name in sorted(groups, key=order):
                head = {"method": method, "data": "", key: name, "control": control}
                rows.append(head | average(data, groups[name]))
    return rows


def difference_rows(data: Mapping[str, DataSet], primary: Contrast | None = None) -> list[dict]:
    """Paired differences between methods on prompted scores, with raw `p` and `p_holm`, adjusted.

    Those of `DIFFERENCES`; where the primary contrast is of a method that they do not name first, that one against
    every other. The primary contrast, named beforehand, is tested first and alone: its p is adjusted by nothing. The
    others come after it, Holm over all of them, and none holds where the primary one does not. Without one, Holm over
    all.
    """
    rows, first = [], tuple(primary["methods"]) if primary else ()
    pairs = [*([first] if first else []), *DIFFERENCES]
    if first and first[0] not in {one for one, _ in DIFFERENCES}:  # a method of one's own: against every other one
        pairs += [(first[0], other) for other in methods_of(data) if other not in (first[0], "none")]
    for one, other in dict.fromkeys(pairs):
        for over, keep in SIDES.items():
            for name, part in by_data(columns_of(data, one, keep, other=other)).items():
                rows.append({"methods": [one, other], "data": name, "over": over} | average(data, part))
    at = next((i for i, row in enumerate(rows) if primary and all(row[key] == primary[key] for key in primary)), None)
    gate = 0.0 if at is None else rows[at]["p"]
    for i, (row, adjusted) in enumerate(
        zip(rows, holm([r["p"] if i != at else None for i, r in enumerate(rows)]), strict=True)
    ):
        row |= {"primary": i == at, "p_holm": gate if adjusted is None else max(adjusted, gate)}
    return rows


def by_data(columns: Columns) -> dict[str, Columns]:
    """The columns of each data set, and of all as ""; nothing where there are none."""
    parts: dict[str, Columns] = {}
    for pair, of in columns.items():
        parts.setdefault(pair[0], {})[pair] = of
    return parts | ({"": columns} if columns else {})


def methods_of(data: Mapping[str, DataSet]) -> list[str]:
    return sorted({method for _, (_, _, method, _) in prompts_of(data)})
