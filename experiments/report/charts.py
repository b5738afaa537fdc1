"""The charts of the page: small panels that fit a phone, each with words for those who cannot see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.report.curves import Average, Point
from experiments.report.svg import DASHES, INK, MARKERS, SERIES, new_axes, to_svg
from experiments.report.tables import CONTROL_NAMES, change, with_interval

PANEL = (290, 200)
Key = tuple[int, str]
"""Place in the palette, and name, of a series: colour, marker and dash follow the place."""


def forest(name: str, control: str, entries: Sequence[tuple[Key, Mapping]], limits: tuple[float, float]) -> str:
    """Average target gain of every method over one control: a dot with its interval each. limits: of the x axis."""
    figure, axes = new_axes(PANEL[0], 52 + 26 * len(entries))
    for row, ((place, method), entry) in enumerate(entries):
        low, value, high = (100 * entry[key] for key in ("low", "value", "high"))
        axes.plot([low, high], [row, row], color=SERIES[place], linewidth=2, solid_capstyle="butt", zorder=2)
        _marks(axes, place, [value], [row], gid=f"m-{method}", size=7)
    axes.axvline(0, color=INK, linewidth=1, zorder=1)
    axes.set_yticks(range(len(entries)), [method for (_, method), _ in entries])
    axes.set_ylim(len(entries) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.locator_params(axis="x", nbins=6)
    axes.set_xlim(*limits)
    axes.set_xlabel("gain in points")
    said = "; ".join(f"{method} {with_interval(entry)}" for (_, method), entry in entries)
    titles = {f"m-{method}": [f"{method}: {with_interval(entry)}"] for (_, method), entry in entries}
    return to_svg(figure, name=name, label=f"Average gain over the {CONTROL_NAMES[control]}: {said}", titles=titles)


def mean_curves(
    name: str, label: str, curves: Sequence[tuple[Key, Sequence[Average]]], limits: tuple[float, float]
) -> str:
    """Mean target gain by epoch, a line a method; the band spans the lowest and the highest seed."""
    figure, axes = new_axes(*PANEL)
    titles = {}
    for (place, method), averages in curves:
        epochs = [a.epoch for a in averages]
        low, value, high = (100 * np.array([getattr(a, key) for a in averages]) for key in ("low", "value", "high"))
        axes.fill_between(epochs, low, high, color=SERIES[place], alpha=0.18, linewidth=0)
        _line(axes, place, method, epochs, value)
        titles[f"m-{method}"] = [
            f"{method}, epoch {a.epoch}: {change(a.value)} (seeds from {change(a.low)} to {change(a.high)})"
            for a in averages
        ]
    _curve_axes(axes, limits)
    return to_svg(figure, name=name, label=label, titles=titles)


def run_curves(
    name: str, label: str, curves: Sequence[tuple[Key, Sequence[Point]]], limits: tuple[float, float]
) -> str:
    """Gain by epoch of single models under the prompts of one source, mean over seeds; a line a model."""
    figure, axes = new_axes(*PANEL)
    titles = {}
    for (place, mllm), points in curves:
        _line(axes, place, mllm, [p.epoch for p in points], 100 * np.array([p.gain for p in points]))
        titles[f"m-{mllm}"] = [f"{mllm}, epoch {p.epoch}: {change(p.gain)}, n {p.n}" for p in points]
    _curve_axes(axes, limits)
    return to_svg(figure, name=name, label=label, titles=titles)


def common_limits(values: Sequence[float]) -> tuple[float, float]:
    """Axis limits in points around fractions and 0, with a margin: panels side by side are read together."""
    low, high = 100 * min(0.0, *values), 100 * max(0.0, *values)
    margin = 0.06 * max(high - low, 1.0)
    return low - margin, high + margin


def _line(axes: Any, place: int, name: str, x: Sequence[float], y: Any) -> None:
    axes.plot(x, y, color=SERIES[place], linewidth=1.6, linestyle=DASHES[place])
    _marks(axes, place, x, y, gid=f"m-{name}", size=5)


def _marks(axes: Any, place: int, x: Sequence[float], y: Any, *, gid: str, size: float, hollow: bool = False) -> None:
    """Marks as one line artist: it is written as a <use> each, in order, whatever the marker."""
    face = "none" if hollow else SERIES[place]
    look = {"markersize": size, "markerfacecolor": face, "markeredgecolor": SERIES[place]}
    axes.plot(x, y, linestyle="none", marker=MARKERS[place], zorder=3, gid=gid, **look)


def _curve_axes(axes: Any, limits: tuple[float, float]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.axhline(0, color=INK, linewidth=1, zorder=1)
    axes.set_ylim(*limits)
    axes.set_xlabel("epoch")
    axes.set_ylabel("gain in points")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))


def scatter(
    name: str, label: str, xlabel: str, groups: Sequence[tuple[Key, Sequence[tuple[float, float, str, bool]]]]
) -> str:
    """Marks (x, gain, title, is the source itself) by method; the source's own marks are hollow."""
    figure, axes = new_axes(440, 300)
    titles: dict[str, list[str]] = {}
    for (place, method), marks in groups:
        for own in (False, True):
            some = [mark for mark in marks if mark[3] == own]
            if not some:
                continue
            gid = f"m-{method}-{'source' if own else 'target'}"
            x, y = [mark[0] for mark in some], [100 * mark[1] for mark in some]
            _marks(axes, place, x, y, gid=gid, size=5.5, hollow=own)
            titles[gid] = [mark[2] for mark in some]
    axes.axhline(0, color=INK, linewidth=1, zorder=1)
    axes.locator_params(nbins=6)
    axes.set_xlabel(xlabel)
    axes.set_ylabel("gain over the black border, points")
    return to_svg(figure, name=name, label=label, titles=titles)


def histogram(name: str, label: str, channels: Sequence[np.ndarray], limits: tuple[float, float]) -> str:
    """Values of the border's pixels in red, green and blue, as three outlines."""
    figure, axes = new_axes(280, 150)
    edges = np.linspace(*limits, 25)
    for place, values in enumerate(channels):
        shares = 100 * np.histogram(np.clip(values, *limits), edges)[0] / max(len(values), 1)
        axes.stairs(shares, edges, color=SERIES[5 + place], linewidth=1.5, linestyle=DASHES[place])
    axes.set_xlabel("pixel value (0 black, 1 full)")
    axes.set_ylabel("% of border")
    axes.locator_params(nbins=5)
    return to_svg(figure, name=name, label=label)
