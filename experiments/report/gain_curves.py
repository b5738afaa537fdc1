"""Transfer curves: what the prompt did to every target at every validation epoch, from the rows of results.jsonl."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple


class Point(NamedTuple):
    """Prompt minus control on the same validation images at the same epoch, as a fraction, for one run and model."""

    epoch: int
    mllm: str
    role: str
    control: str
    gain: float
    n: int


class Average(NamedTuple):
    """A point of a mean curve: mean over seeds of the mean over (source, target), and the lowest and highest seed."""

    epoch: int
    value: float
    low: float
    high: float
    seeds: int
    curves: int


def curve_rows(rows: Sequence[dict]) -> list[list[str]]:
    """Header and one line per validation epoch: the prompted score of every model in %."""
    val = [row for row in rows if (row["split"], row["input"], row["group"]) == ("val", "prompt", "")]
    metrics = list(dict.fromkeys(row["metric"] for row in val))[:1]
    val = [row for row in val if row["metric"] in metrics]
    models = list(dict.fromkeys(row["mllm"] for row in val))
    table = {(row["epoch"], row["mllm"]): f"{100 * row['value']:.1f}" for row in val}
    epochs = sorted({row["epoch"] for row in val})
    lines = [[str(epoch), *(table.get((epoch, name), "-") for name in models)] for epoch in epochs]
    return [["val epoch", *models], *lines] if lines else []


def gain_points(rows: Sequence[dict], metric: str) -> list[Point]:
    """Every validation gain of one run, pooled over groups, by epoch."""
    val = [row for row in rows if (row["split"], row["group"], row["metric"]) == ("val", "", metric)]
    values = {(row["epoch"], row["mllm"], row["input"]): row for row in val}
    points = []
    for (epoch, mllm, given), row in sorted(values.items()):
        prompted = values.get((epoch, mllm, "prompt"))
        if given not in ("prompt", "png") and prompted is not None:
            gain = prompted["value"] - row["value"]
            points.append(Point(epoch, mllm, row["role"], given, gain, prompted["n"]))
    return points


def average_curves(runs: Iterable[tuple[int, Sequence[Point]]], control: str) -> list[Average]:
    """Mean target gain by epoch over runs of one method and data set, given as (seed, points).

    The source's own curve does not enter. Epochs that some run lacks (unequal lengths) are left out.
    """
    by_epoch: dict[int, dict[int, list[float]]] = {}
    runs = list(runs)
    for seed, points in runs:
        for point in points:
            if point.control == control and point.role != "source":
                by_epoch.setdefault(point.epoch, {}).setdefault(seed, []).append(point.gain)
    whole = max((sum(map(len, of_seed.values())) for of_seed in by_epoch.values()), default=0)
    return [_average(e, s, whole) for e, s in sorted(by_epoch.items()) if sum(map(len, s.values())) == whole]


def _average(epoch: int, of_seed: Mapping[int, Sequence[float]], curves: int) -> Average:
    means = [sum(gains) / len(gains) for gains in of_seed.values()]
    return Average(epoch, sum(means) / len(means), min(means), max(means), len(means), curves)


def mean_points(runs: Iterable[Sequence[Point]], mllm: str, control: str) -> list[Point]:
    """One model's curve, mean over runs (seeds), at epochs all of them have."""
    by_epoch: dict[int, list[Point]] = {}
    for points in runs:
        for point in points:
            if (point.mllm, point.control) == (mllm, control):
                by_epoch.setdefault(point.epoch, []).append(point)
    whole = max(map(len, by_epoch.values()), default=0)
    return [
        some[0]._replace(gain=sum(p.gain for p in some) / len(some))
        for _, some in sorted(by_epoch.items())
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
