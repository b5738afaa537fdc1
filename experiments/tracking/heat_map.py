"""The matrix source x target in colours: one scale for the report's page and for W&B, and the picture of it for W&B.

The page keeps a table of text: every cell is reached by key, read aloud, and follows control and theme without a script
drawing anew. A picture can do none of that, and W&B shows nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from PIL import Image

GAIN, LOSS = ("#5b9fdc", "#1f5f9e"), ("#f0a04b", "#9a5511")  # on light and on dark; apart for the colour-blind too
CONTROL = "black"  # the control that costs nothing: what a prompt adds to a frame with an empty border


def scale_limit(pairs: Iterable[Mapping], control: str) -> float:
    """The colour scale's end in points for one control: the largest change, rounded up to 5 points."""
    gains = [pair["gains"][control]["value"] for pair in pairs if control in pair["gains"]]
    largest = max(map(abs, gains), default=0.0)
    return max(5.0, 5.0 * math.ceil(20 * largest - 1e-9))


def heat_maps(pairs: Iterable[Mapping[str, Any]]) -> dict[str, Image.Image]:
    """`<data>, <method>` -> picture, from the `pairs` of statistics.json (means over seeds).

    All show the same models on one scale and are of one size, so that W&B's viewer compares them.
    """
    pairs = [pair for pair in pairs if CONTROL in pair["gains"]]
    sources, targets = (sorted({pair[side] for pair in pairs}) for side in ("source", "target"))
    groups: dict[str, np.ndarray] = {}
    for pair in pairs:
        name = f"{pair['data']}, {pair['method']}"
        points = groups.setdefault(name, np.full((len(sources), len(targets)), np.nan))
        points[sources.index(pair["source"]), targets.index(pair["target"])] = 100 * pair["gains"][CONTROL]["value"]
    limit = scale_limit(pairs, CONTROL)
    return {name: heat_map(points, sources, targets, limit, name) for name, points in sorted(groups.items())}


def heat_map(points: np.ndarray, sources: list[str], targets: list[str], limit: float, title: str) -> Image.Image:
    """points: (sources, targets), NaN where nothing was scored. limit: the points at which a colour is full."""
    column = max(0.9, 0.1 * max(map(len, targets)))  # inches, so that names of targets stand side by side
    size = (max(6.0, 0.5 + 0.1 * max(map(len, sources)) + column * len(targets)), 1.2 + 0.45 * len(sources))
    canvas = FigureCanvasAgg(Figure(figsize=size, dpi=100, layout="constrained"))
    axes = canvas.figure.add_subplot()
    axes.imshow(points, cmap=colours(), vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    axes.set_xticks(range(len(targets)), targets)
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(sources)), sources)
    axes.set_title(f"{title}: gain over the black border, points (rows: source)", fontsize=10)
    for row, place in product(range(len(sources)), range(len(targets))):
        value = points[row, place]
        axes.text(place, row, "–" if np.isnan(value) else f"{value:+.1f}", ha="center", va="center")
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def colours() -> Any:
    """From a full loss over white to a full gain."""
    return LinearSegmentedColormap.from_list("gain", [LOSS[0], "white", GAIN[0]], N=257)  # an odd number: 0 is white
