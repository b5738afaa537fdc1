"""Transfer curves: what the prompt did to every target at every validation, from the rows of results.jsonl."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple


class Point(NamedTuple):
    """Prompt minus control on the same validation images after the same update, as a fraction, of one run and model."""

    update: int
    mllm: str
    role: str
    control: str
    gain: float
    n: int


class Average(NamedTuple):
    """A point of a mean curve: mean over seeds of the mean over (source, target), and the lowest and highest seed."""

    update: int
    value: float
    low: float
    high: float
    seeds: int
    curves: int


def curve_rows(rows: Sequence[dict]) -> list[list[str]]:
    """Header and one line per validation: the prompted score of every model in %."""
    val = [row for row in rows if (row["split"], row["input"], row["group"]) == ("val", "prompt", "")]
    metrics = list(dict.fromkeys(row["metric"] for row in val))[:1]
    val = [row for row in val if row["metric"] in metrics]
    models = list(dict.fromkeys(row["mllm"] for row in val))
    table = {(update_of(row), row["mllm"]): f"{100 * row['value']:.1f}" for row in val}
    updates = sorted({update_of(row) for row in val})
    lines = [[str(update), *(table.get((update, name), "-") for name in models)] for update in updates]
    return [["val, update", *models], *lines] if lines else []


def update_of(row: Mapping) -> int:
    """After how many updates a row was measured; its epoch in rows that name no update."""
    return row["epoch"] if row.get("step") is None else row["step"]


def gain_points(rows: Sequence[dict], metric: str) -> list[Point]:
    """Every validation gain of one run, pooled over groups, by update."""
    val = [row for row in rows if (row["split"], row["group"], row["metric"]) == ("val", "", metric)]
    values = {(update_of(row), row["mllm"], row["input"]): row for row in val}
    points = []
    for (update, mllm, given), row in sorted(values.items()):
        prompted = values.get((update, mllm, "prompt"))
        if given not in ("prompt", "png") and prompted is not None:
            gain = prompted["value"] - row["value"]
            points.append(Point(update, mllm, row["role"], given, gain, prompted["n"]))
    return points


def average_curves(runs: Iterable[tuple[int, Sequence[Point]]], control: str) -> list[Average]:
    """Mean target gain by update over runs of one method and data set, given as (seed, points).

    The source's own curve does not enter. Updates that some run lacks (unequal lengths) are left out.
    """
    by_update: dict[int, dict[int, list[float]]] = {}
    runs = list(runs)
    for seed, points in runs:
        for point in points:
            if point.control == control and point.role != "source":
                by_update.setdefault(point.update, {}).setdefault(seed, []).append(point.gain)
    whole = max((sum(map(len, of_seed.values())) for of_seed in by_update.values()), default=0)
    return [_average(e, s, whole) for e, s in sorted(by_update.items()) if sum(map(len, s.values())) == whole]


def _average(update: int, of_seed: Mapping[int, Sequence[float]], curves: int) -> Average:
    means = [sum(gains) / len(gains) for gains in of_seed.values()]
    return Average(update, sum(means) / len(means), min(means), max(means), len(means), curves)


def mean_points(runs: Iterable[Sequence[Point]], mllm: str, control: str) -> list[Point]:
    """One model's curve, mean over runs (seeds), at updates all of them have."""
    by_update: dict[int, list[Point]] = {}
    for points in runs:
        for point in points:
            if (point.mllm, point.control) == (mllm, control):
                by_update.setdefault(point.update, []).append(point)
    whole = max(map(len, by_update.values()), default=0)
    return [
        some[0]._replace(gain=sum(p.gain for p in some) / len(some))
        for _, some in sorted(by_update.items())
        if len(some) == whole
    ]


def drift_rows(rows: Sequence[dict]) -> tuple[str, dict[str, float]]:
    """(which drift, mllm -> value): how far the prompt moved each model's visual features on the test images.

    `drift_relative` (over the clean features' norm) where recorded, comparable between models; else `drift`.
    """
    test = [row for row in rows if (row["split"], row["input"], row["group"]) == ("test", "prompt", "")]
    for metric in ("drift_relative", "drift"):
        found = {row["mllm"]: row["value"] for row in test if row["metric"] == metric}
        if found:
            return metric, found
    return "", {}
