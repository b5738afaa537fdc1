"""The charts of the page: small panels that fit a phone, each with words for those who cannot see it."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.report.gain_curves import Average, Point
from experiments.report.numbers import change, with_interval
from lightning_modules.vocabulary import CONTROL_NAMES

PANEL = (290, 200)
Key = tuple[int, str]
"""A series: its place in the palette, and its name."""


class Panel(NamedTuple):
    svg: str
    caption: str


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
    """Mean target gain by update, a line a method; the band spans the lowest and the highest seed."""
    figure, axes = new_axes(*PANEL)
    titles = {}
    for (place, method), averages in curves:
        updates = [a.update for a in averages]
        low, value, high = (100 * np.array([getattr(a, key) for a in averages]) for key in ("low", "value", "high"))
        axes.fill_between(updates, low, high, color=SERIES[place], alpha=0.18, linewidth=0)
        _line(axes, place, method, updates, value)
        titles[f"m-{method}"] = [
            f"{method}, update {a.update}: {change(a.value)} (seeds from {change(a.low)} to {change(a.high)})"
            for a in averages
        ]
    _curve_axes(axes, limits)
    return to_svg(figure, name=name, label=label, titles=titles)


def run_curves(
    name: str, label: str, curves: Sequence[tuple[Key, Sequence[Point]]], limits: tuple[float, float]
) -> str:
    """Gain by update of single models under the prompts of one source, mean over seeds; a line a model."""
    figure, axes = new_axes(*PANEL)
    titles = {}
    for (place, mllm), points in curves:
        _line(axes, place, mllm, [p.update for p in points], 100 * np.array([p.gain for p in points]))
        titles[f"m-{mllm}"] = [f"{mllm}, update {p.update}: {change(p.gain)}, n {p.n}" for p in points]
    _curve_axes(axes, limits)
    return to_svg(figure, name=name, label=label, titles=titles)


def common_limits(values: Sequence[float]) -> tuple[float, float]:
    """Axis limits in points around fractions and 0, with a margin: panels side by side are read together."""
    low, high = 100 * min([0.0, *values]), 100 * max([0.0, *values])
    margin = 0.06 * max(high - low, 1.0)
    return low - margin, high + margin


def _line(axes: Any, place: int, name: str, x: Sequence[float], y: Any) -> None:
    axes.plot(x, y, color=SERIES[place], linewidth=1.6, linestyle=line_style(place))
    _marks(axes, place, x, y, gid=f"m-{name}", size=5)


def _marks(axes: Any, place: int, x: Sequence[float], y: Any, *, gid: str, size: float, hollow: bool = False) -> None:
    """Marks as one line artist: it is written as a <use> each, in order, whatever the marker."""
    face = "none" if hollow else SERIES[place]
    look = {"markersize": size, "markerfacecolor": face, "markeredgecolor": SERIES[place]}
    axes.plot(x, y, linestyle="none", marker=MARKERS[place], zorder=3, gid=gid, **look)


def _curve_axes(axes: Any, limits: tuple[float, float]) -> None:
    axes.axhline(0, color=INK, linewidth=1, zorder=1)
    axes.set_ylim(*limits)
    axes.set_xlabel("update")
    axes.set_ylabel("gain in points")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))


def depth_curves(name: str, label: str, depths: Sequence[str], curves: Sequence[tuple[Key, Sequence[float]]]) -> str:
    """Relative distance of features by depth, a line a method."""
    figure, axes = new_axes(440, 240)
    titles = {}
    for (place, method), values in curves:
        _line(axes, place, method, range(len(depths)), values)
        titles[f"m-{method}"] = [f"{method}, {depth}: {v:.3f}" for depth, v in zip(depths, values, strict=True)]
    axes.set_xticks(range(len(depths)), depths)
    axes.set_ylim(0, None)
    axes.set_ylabel("relative distance")
    return to_svg(figure, name=name, label=label, titles=titles)


def scatter(
    name: str,
    label: str,
    xlabel: str,
    groups: Sequence[tuple[Key, Sequence[tuple[float, float, str, bool]]]],
    ylabel: str = "gain over the black border, points",
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
    axes.set_ylabel(ylabel)
    return to_svg(figure, name=name, label=label, titles=titles)


def histogram(name: str, label: str, channels: Sequence[np.ndarray], limits: tuple[float, float]) -> str:
    """Values of the border's pixels in red, green and blue, as three outlines."""
    figure, axes = new_axes(280, 150)
    edges = np.linspace(*limits, 25)
    for place, values in enumerate(channels):
        shares = 100 * np.histogram(np.clip(values, *limits), edges)[0] / max(len(values), 1)
        axes.stairs(shares, edges, color=SERIES[5 + place], linewidth=1.5, linestyle=line_style(place))
    axes.set_xlabel("pixel value (0 black, 1 full)")
    axes.set_ylabel("% of border")
    axes.locator_params(nbins=5)
    return to_svg(figure, name=name, label=label)


RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tvp-report",
    "text.parse_math": False,
    "font.size": 10,
    "font.sans-serif": ["DejaVu Sans"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.linewidth": 0.8,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "path.simplify": False,
}
# Colours matplotlib draws with, and the style sheet's variables that replace them in the SVG.
SERIES = tuple(f"#0a0b{i:02x}" for i in range(8))
INK, GRID = "#0c0d0e", "#0c0d0f"
VARIABLES = {colour: f"var(--s{i})" for i, colour in enumerate(SERIES)} | {INK: "currentColor", GRID: "var(--grid)"}
SHAPES = {  # matplotlib's marker -> the same in a legend
    "o": '<circle cx="0" cy="0" r="4"/>',
    "s": '<rect x="-3.6" y="-3.6" width="7.2" height="7.2"/>',
    "^": '<path d="M0 -4.4L4.4 3.6H-4.4Z"/>',
    "D": '<path d="M0 -4.8L4.8 0L0 4.8L-4.8 0Z"/>',
    "v": '<path d="M0 4.4L4.4 -3.6H-4.4Z"/>',
    "P": '<path d="M-1.5 -4.4h3v2.9h2.9v3h-2.9v2.9h-3v-2.9h-2.9v-3h2.9Z"/>',
    "X": '<path transform="rotate(45)" d="M-1.5 -4.4h3v2.9h2.9v3h-2.9v2.9h-3v-2.9h-2.9v-3h2.9Z"/>',
    "*": '<path d="M0 -5L1.3 -1.5L5 -1.5L2 .8L3 4.4L0 2.2L-3 4.4L-2 .8L-5 -1.5L-1.3 -1.5Z"/>',
}
MARKERS = tuple(SHAPES)
DASHED, DOTTED, MIXED = (5.0, 2.0), (1.5, 1.5), (6.0, 2.0, 1.5, 2.0)
DASHES: tuple[tuple[float, ...], ...] = ((), DASHED, DOTTED, MIXED, (), DASHED, DOTTED, ())


def line_style(place: int) -> Any:
    return (0, DASHES[place]) if DASHES[place] else "-"


def swatch(place: int, mark: bool = True) -> Markup:
    """The line and mark of a series as a legend shows them."""
    dash = f' stroke-dasharray="{" ".join(str(1.6 * part) for part in DASHES[place])}"' if DASHES[place] else ""
    return Markup(
        f'<svg viewBox="-14 -6 28 12" width="28" height="12" aria-hidden="true" style="color:var(--s{place})">'
        f'<path d="M-13 0H13" stroke="currentColor" stroke-width="1.6"{dash}/>'
        f'<g fill="currentColor">{SHAPES[MARKERS[place]] if mark else ""}</g></svg>'
    )


def new_axes(width: float, height: float) -> tuple[Any, Any]:
    """(figure, axes) of width x height CSS pixels, in the page's colours. Not thread-safe: rc settings are global."""
    colours = {key: INK for key in ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")}
    with matplotlib.rc_context(RC | colours | {"grid.color": GRID}):
        figure = Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained")
        return figure, figure.add_subplot()


def to_svg(figure: Any, *, name: str, label: str, titles: Mapping[str, Sequence[str]] | None = None) -> Markup:
    """One <svg> element.

    Args:
        name: unique in the page; prefixes every id, so that figures do not share clip paths.
        label: what the chart shows, for those who do not see it.
        titles: gid of an artist -> a text for each of its marks, in the order they were drawn; shown on hover.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context(RC):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.S)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.S)
    for gid, of_marks in (titles or {}).items():
        text = _with_titles(text, gid, of_marks)
    text = _slimmed(_prefixed(text, name))
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, variable)
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
    width, height = (float(part) for part in size.groups()) if size else (0.0, 0.0)
    inner = text[text.index(">") + 1 :].replace(' xmlns="http://www.w3.org/2000/svg"', "")
    start = f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img"'
    return Markup(f'{start} aria-label="{escape(label)}" class="chart">{inner.strip()}')


def _prefixed(text: str, name: str) -> str:
    """Ids that something refers to (clip paths, marks) get the figure's name; the others go."""
    used = set(re.findall(r"#([\w.-]+)[\")]", text))
    text = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", text)
    return re.sub(r'(?:xlink:)?(href="|url\()#', rf"\1#{name}-", text)


def _slimmed(text: str) -> str:
    """Two decimals, no fonts of this machine, no white space between elements, no rotation by nothing."""
    text = re.sub(r"<style.*?</style>", "", text, flags=re.S)
    text = re.sub(r"(\d+\.\d{2})\d+", r"\1", text)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = re.sub(r' transform="rotate\(-?0 [^"]*"', "", text)
    text = re.sub(r"\s*\n\s*", " ", text)
    return re.sub(r"> <", "><", text).replace(' "', '"')


def _with_titles(text: str, gid: str, titles: Sequence[str]) -> str:
    """`<title>` in each drawn mark (<use>) of the group `gid`."""
    start = text.index(f'id="{gid}"')
    end = text.find('<g id="', start + 1)
    head, group, tail = text[:start], text[start:end], text[end:]
    marks = iter(titles)
    filled = re.sub(r"<use ([^>]*?)/>", lambda m: f"<use {m[1]}><title>{escape(next(marks))}</title></use>", group)
    if next(marks, None) is not None:
        raise ValueError(f"The group '{gid}' of a chart has fewer marks than the {len(titles)} titles given.")
    return head + filled + tail


def standalone(svg: str) -> str:
    """The chart as a file of its own, on paper: the page's light colours instead of its style sheet's variables."""
    colours = dict(re.findall(r"(--\w+): light-dark\((#\w+),", (Path(__file__).parent / "page.css").read_text()))
    text = re.sub(r"var\((--\w+)\)", lambda match: colours[match[1]], svg).replace("currentColor", colours["--ink"])
    return text.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1) + "\n"
