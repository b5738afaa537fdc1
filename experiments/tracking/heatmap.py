"""Source x target as a small picture: one grid per data set and method, numbers in points on a diverging scale."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

CONTROL = "black"  # the control that costs nothing: what a prompt adds to a frame with an empty border
LOSS, NOTHING, GAIN = (178, 24, 43), (247, 247, 247), (33, 102, 172)  # apart for the colour-blind too
FULL = 0.25  # gain (fraction) at which the colour is full
CELL, LINE, GAP = (86, 40), 14, 8


def heat_maps(pairs: Iterable[Mapping[str, Any]]) -> dict[str, Image.Image]:
    """`<data>, <method>` -> picture, from the `pairs` of statistics.json (means over seeds)."""
    groups: dict[str, dict[tuple[str, str], float]] = {}
    for pair in pairs:
        gain = pair["gains"].get(CONTROL)
        if gain is not None and gain["value"] is not None:
            values = groups.setdefault(f"{pair['data']}, {pair['method']}", {})
            values[pair["source"], pair["target"]] = gain["value"]
    return _same_size({name: heat_map(values, title=name) for name, values in sorted(groups.items())})


def _same_size(pictures: dict[str, Image.Image]) -> dict[str, Image.Image]:
    """White added on the right and below: W&B shows the pictures of one key in one frame."""
    width, height = (max((picture.size[i] for picture in pictures.values()), default=0) for i in (0, 1))
    return {name: _on_white(picture, (width, height)) for name, picture in pictures.items()}


def _on_white(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    page = Image.new("RGB", size, "white")
    page.paste(picture)
    return page


def heat_map(values: Mapping[tuple[str, str], float], *, title: str) -> Image.Image:
    """values: (source, target) -> gain as a fraction; what is missing stays white with a dash."""
    sources, targets = (sorted({key[i] for key in values}) for i in (0, 1))
    font = ImageFont.load_default(LINE)
    left = int(max(font.getlength(name) for name in sources)) + 2 * GAP
    width = max(CELL[0], int(max(font.getlength(name) for name in targets)) + 2 * GAP)
    top = 3 * LINE + 3 * GAP
    size = (left + width * len(targets) + GAP, top + CELL[1] * len(sources) + GAP)
    head = f"{title}: gain over the black border, points (rows: source)"
    picture = Image.new("RGB", (max(size[0], int(font.getlength(head)) + 2 * GAP), size[1]), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((GAP, GAP), head, "black", font)
    for column, target in enumerate(targets):
        _centred(draw, (left + (column + 0.5) * width, top - LINE), target, font)
    for row, source in enumerate(sources):
        y = top + row * CELL[1]
        draw.text((GAP, y + CELL[1] / 2 - LINE / 2), source, "black", font)
        for column, target in enumerate(targets):
            box = (left + column * width, y, left + (column + 1) * width - 2, y + CELL[1] - 2)
            _draw_cell(draw, box, values.get((source, target)), font)
    return picture


def _draw_cell(draw: ImageDraw.ImageDraw, box: Sequence[float], value: float | None, font: Any) -> None:
    colour = (255, 255, 255) if value is None else colour_of(value)
    draw.rectangle(list(box), fill=colour, outline=(200, 200, 200))
    text = "-" if value is None else f"{100 * value:+.1f}"
    dark = sum(colour) < 380
    _centred(draw, ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), text, font, "white" if dark else "black")


def colour_of(value: float) -> tuple[int, int, int]:
    """Red for a loss, blue for a gain, near white for none; full at 25 points."""
    share, end = min(1.0, abs(value) / FULL), GAIN if value > 0 else LOSS
    red, green, blue = (round(zero + share * (full - zero)) for zero, full in zip(NOTHING, end, strict=True))
    return red, green, blue


def _centred(draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, font: Any, colour: str = "black") -> None:
    draw.text(at, text, colour, font, anchor="mm")
