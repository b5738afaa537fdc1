"""The matrix source x target as real tables, one for each data set and method; the script changes the control."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from experiments.report.load import Material
from experiments.report.markup import data_script, options, table
from experiments.report.numbers import (
    CONTROL_NAMES,
    TextTable,
    change,
    is_own,
    method_order,
    p_text,
    short,
    with_interval,
)


def heatmap(material: Material) -> str:
    """Selectors, legend, tables, and the numbers of every control as data for the script."""
    statistics = material.statistics
    pairs = sorted(statistics["pairs"], key=lambda p: (p["data"], p["method"], p["source"], p["target"]))
    limits = {control: scale_limit(pairs, control) for control in statistics["controls"]}
    rows = []
    for data in material.data_sets():
        blocks = []
        for method in reversed(method_order(p["method"] for p in pairs)):
            own = [(i, p) for i, p in enumerate(pairs) if (p["data"], p["method"]) == (data, method)]
            blocks += [_block(material, data, method, own, limits[material.control])] if own else []
        rows.append(f'<div class="matrices">{"".join(blocks)}</div>')
    numbers = {"limits": limits, "pairs": [_numbers(p, statistics["alpha"]) for p in pairs]}
    return (
        f"{_selectors(material, pairs)}{legend(limits[material.control])}{''.join(rows)}"
        f"{data_script('matrix-data', numbers)}"
    )


def scale_limit(pairs: Sequence[Mapping], control: str) -> float:
    """The colour scale's end in points for one control: the largest change, rounded up to 5 points."""
    gains = [pair["gains"][control]["value"] for pair in pairs if control in pair["gains"]]
    largest = max(map(abs, gains), default=0.0)
    return max(5.0, 5.0 * math.ceil(20 * largest - 1e-9))


def _selectors(material: Material, pairs: Sequence[Mapping]) -> str:
    data_sets, methods = material.data_sets(), method_order(p["method"] for p in pairs)
    few = len(data_sets) <= 3
    controls = [(control, CONTROL_NAMES[control]) for control in material.statistics["controls"]]
    return (
        '<div class="controls">'
        + options("Gain over", "pick-control", controls, material.control)
        + options(
            "Data set",
            "pick-data",
            [("", "all"), *((d, d) for d in data_sets)],
            "" if few else data_sets[0],
        )
        + options("Method", "pick-method", [("", "all"), *((m, m) for m in methods)], "")
        + "</div>"
    )


def legend(limit: float) -> str:
    ticks = "".join(f"<span>{change(part * limit / 100)}</span>" for part in (-1, -0.5, 0, 0.5, 1))
    return (
        '<div class="scale"><div class="scale-bar" aria-hidden="true"></div>'
        f'<div class="scale-ticks">{ticks}</div><p>Gain in points: prompted score minus the control, mean over seeds; '
        "the colours fit the chosen control. "
        "<b>▲</b> the gain, <b>▼</b> the loss holds after Holm's correction (▼ is the negative-transfer alarm). "
        "Dashed outline: the source itself, not a transfer. Hover, tap or move with Tab and the arrow keys for "
        "interval, n, seeds and p.</p></div>"
    )


def _block(material: Material, data: str, method: str, own: Sequence[tuple[int, Mapping]], limit: float) -> str:
    sources, targets = (sorted({p[key] for _, p in own}) for key in ("source", "target"))
    places = {(p["source"], p["target"]): (i, p) for i, p in own}
    rows = []
    for source in sources:
        cells = [_cell(places.get((source, target)), material, limit) for target in targets]
        rows.append(f'<tr><th scope="row">{escape(short(source))}</th>{"".join(cells)}</tr>')
    caption = f"{method}, {data}"
    content = TextTable(caption, ["learned on ↓ scored on →", *map(short, targets)], [])
    return (
        f'<div class="matrix" data-data="{escape(data)}" data-method="{escape(method)}">'
        f"{table(content, classes='heat', rows=rows)}</div>"
    )


def _cell(place: tuple[int, Mapping] | None, material: Material, limit: float) -> str:
    if place is None:
        return '<td class="absent">–</td>'
    index, pair = place
    own = " own" if is_own(pair) else ""
    gain = pair["gains"].get(material.control)
    if gain is None:
        return '<td class="absent">–</td>'
    strength = min(1.0, abs(100 * gain["value"]) / limit)
    side = "up" if gain["value"] > 0 else "down"
    sign = mark(gain, pair["alarm"].get(material.control, False), material.statistics["alpha"])
    label = f"{short(pair['source'])} to {short(pair['target'])}: {with_interval(gain)}"
    return (
        f'<td class="{side}{own}" style="--a:{strength:.3f}"><button type="button" data-pair="{index}" tabindex="-1" '
        f'aria-label="{escape(label)}">{change(gain["value"])}<i>{sign}</i></button></td>'
    )


def mark(gain: Mapping, alarm: bool, alpha: float) -> str:
    """▼ for the alarm, ▲ for a gain that holds after correction."""
    if alarm:
        return "▼"
    return "▲" if gain["value"] > 0 and gain["p_holm"] is not None and gain["p_holm"] < alpha else ""


def _numbers(pair: Mapping, alpha: float) -> dict:
    """What the script shows of a pair, as text where it is text already."""
    gains = {
        control: [
            round(100 * gain["value"], 3),
            with_interval(gain),
            gain["interval"],
            p_text(gain["p_holm"]),
            p_text(gain.get("p_worse")),
            int(pair["alarm"].get(control, False)),
            int(mark(gain, False, alpha) == "▲"),
        ]
        for control, gain in pair["gains"].items()
    }
    return {
        "s": short(pair["source"]),
        "t": short(pair["target"]),
        "d": pair["data"],
        "m": pair["method"],
        "h": pair["shared"],
        "n": pair["n"],
        "k": len(pair["seeds"]),
        "o": int(is_own(pair)),
        "v": f"{100 * pair['value']:.1f}",
        "y": pair["metric"],
        "g": gains,
    }
