"""The matrix source x target as real tables, one for each data set and method; the script changes the control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.report.load import Material
from experiments.report.numbers import change, is_own, method_order, p_text, short, with_interval
from experiments.tracking.heat_map import scale_limit
from lightning_modules.vocabulary import CONTROL_NAMES


class Block(NamedTuple):
    """The table of one data set and method. rows: a source's name, then for every target the pair's place or None."""

    data: str
    method: str
    caption: str
    header: list[str]
    rows: list[list[str | int | None]]


def matrix_section(material: Material) -> dict[str, Any]:
    """What the choices offer, the ends of the scale, the tables, and the numbers of every control for the script."""
    statistics, data_sets = material.statistics, material.data_sets()
    pairs = sorted(statistics["pairs"], key=lambda p: (p["data"], p["method"], p["source"], p["target"]))
    limits = {control: scale_limit(pairs, control) for control in statistics["controls"]}
    methods = method_order(p["method"] for p in pairs)
    blocks = [[_block(pairs, data, method) for method in reversed(methods)] for data in data_sets]
    return {
        "controls": [(control, CONTROL_NAMES[control]) for control in statistics["controls"]],
        "data_sets": [("", "all"), *((data, data) for data in data_sets)],
        "data_set": "" if len(data_sets) <= 3 else data_sets[0],
        "methods": [("", "all"), *((method, method) for method in methods)],
        "ticks": [change(part * limits[material.control] / 100) for part in (-1, -0.5, 0, 0.5, 1)],
        "blocks": [[block for block in row if block.rows] for row in blocks],
        "numbers": {"limits": limits, "pairs": [_numbers(p, statistics["alpha"]) for p in pairs]},
    }


def _block(pairs: Sequence[Mapping], data: str, method: str) -> Block:
    own = {(p["source"], p["target"]): i for i, p in enumerate(pairs) if (p["data"], p["method"]) == (data, method)}
    sources, targets = (sorted({names[side] for names in own}) for side in (0, 1))
    rows = [[short(source), *(own.get((source, target)) for target in targets)] for source in sources]
    return Block(data, method, f"{method}, {data}", ["learned on ↓ scored on →", *map(short, targets)], rows)


def _numbers(pair: Mapping, alpha: float) -> dict[str, Any]:
    """What template and script show of a pair, as text where it is text already. A gain: points, text, what the
    interval is over, p, p of a loss, is it an alarm, does a gain hold after correction, raw p, smallest alarm."""
    gains = {
        control: [
            round(100 * gain["value"], 3),
            with_interval(gain),
            gain["interval"],
            p_text(gain["p_holm"]),
            p_text(gain.get("p_worse")),
            int(pair["alarm"].get(control, False)),
            int(gain["value"] > 0 and gain["p_holm"] is not None and gain["p_holm"] < alpha),
            p_text(gain["p"]),
            "" if gain.get("smallest_alarm") is None else f"{100 * gain['smallest_alarm']:.1f}",
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
