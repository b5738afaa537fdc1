"""matplotlib axes as inline SVG: same figure, same bytes; colours follow the page's theme, text stays text."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from html import escape
from typing import Any

RC = {
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
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 2)),
    (0, (1.5, 1.5)),
    (0, (6, 2, 1.5, 2)),
    "-",
    (0, (5, 2)),
    (0, (1.5, 1.5)),
    "-",
)


def new_axes(width: float, height: float) -> tuple[Any, Any]:
    """(figure, axes) of width x height CSS pixels, in the page's colours. Not thread-safe: rc settings are global."""
    import matplotlib
    from matplotlib.figure import Figure

    colours = {key: INK for key in ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")}
    with matplotlib.rc_context(RC | colours | {"grid.color": GRID}):
        figure = Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained")
        return figure, figure.add_subplot()


def to_svg(figure: Any, *, name: str, label: str, titles: dict[str, Sequence[str]] | None = None) -> str:
    """One <svg> element.

    Args:
        name: unique in the page; prefixes every id, so that figures do not share clip paths.
        label: what the chart shows, for those who do not see it.
        titles: gid of an artist -> a text for each of its marks, in the order they were drawn; shown on hover.
    """
    import matplotlib

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
    return f'{start} aria-label="{escape(label)}" class="chart">{inner.strip()}'


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
