"""From rows of a cost comparison to what cost.json holds: each model by each way, and sums for N models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from experiments.costing.ways import WAYS
from lightning_modules.intervals import mean_draws, mean_interval, percentiles
from lightning_modules.metrics import Scores, per_sample, primary_metric, unit_numbers

SUMMED = ("parameters", "bytes", "updates", "seconds", "process_seconds", "search_process_seconds")
Records = Callable[[str, str, int], Scores]


def summarise(rows: Sequence[Mapping[str, Any]], record: Records) -> dict[str, Any]:
    """`models`: an entry for each model and way, means over seeds; `by_n`: for the first N models together.

    A prompt is learned once, on the first model, so its cost does not grow with N; what is tuned is tuned for each
    model, so that costs add up. The peak is the largest of any training, since one comes after another. Changes are
    over the plain whole picture, their intervals over test pictures, models and seeds as they are.

    record: (way or `plain`, model, seed) -> the record on test.
    """
    finished = [row for row in rows if row.get("way") in WAYS]
    names = list(dict.fromkeys(row["mllm"] for row in finished if row["way"] == "prompt"))
    seeds = sorted({row["seed"] for row in finished})
    ways = [way for way in WAYS if any(row["way"] == way for row in finished)]
    metric, n = finished[0]["metric"], finished[0]["n"]
    of: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in finished:
        of.setdefault((row["way"], row["mllm"]), []).append(row)

    def outcome(way: str, models: Sequence[str]) -> dict[str, Any]:
        return mean_outcome(metric, [(record(way, m, s), record("plain", m, s)) for m in models for s in seeds])

    models = []
    for name in names:
        plain = fmean(float(per_sample(metric, record("plain", name, seed)).mean()) for seed in seeds)
        for way in ways:
            own = of[way, name]
            entry = {"mllm": name, "role": own[0]["role"], "way": way, "plain": plain} | _costs(own)
            entry |= {"lr": sorted({row["lr"] for row in own}), "step": [row["step"] for row in own]}
            models.append(entry | outcome(way, [name]))
    by_n = []
    for n_models in range(1, len(names) + 1):
        first = names[:n_models]
        for way in ways:
            paid = [_costs(of[way, name]) for name in (first[:1] if way == "prompt" else first)]
            sums = {key: sum(cost[key] for cost in paid) for key in SUMMED}
            sums["peak_bytes"] = max(cost["peak_bytes"] for cost in paid)
            by_n.append({"models": n_models, "way": way} | sums | outcome(way, first))
    others = [{"way": way} | outcome(way, names[1:]) for way in ways if names[1:]]
    return {"metric": metric, "n": n, "seeds": seeds, "models": models, "by_n": by_n, "others": others}


def stated_metric(task: str) -> str:
    """The primary metric, or accuracy where that is an area, which no picture has a share of."""
    primary = primary_metric(task)
    return "accuracy" if primary == "auroc" else primary


def _costs(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over seeds; the peak is the largest."""
    costs = {key: fmean(row.get(key, 0) for row in rows) for key in SUMMED}
    whole = {key: round(costs[key]) for key in ("parameters", "bytes", "updates")}
    return costs | whole | {"peak_bytes": max(row["peak_bytes"] for row in rows)}


def mean_outcome(metric: str, pairs: Sequence[tuple[Scores, Scores]]) -> dict[str, Any]:
    """Mean score and change over records (after, before) of the same pictures; a 95 % interval over these."""
    after, before = (np.mean([per_sample(metric, pair[i]) for pair in pairs], axis=0) for i in (0, 1))
    difference, units = after - before, unit_numbers(pairs[0][0].units)
    low, high = mean_interval(difference) if units is None else percentiles(mean_draws(difference, units))
    gain = {"value": float(difference.mean()), "low": float(low), "high": float(high)}
    return {"value": float(after.mean()), "gain": gain}
