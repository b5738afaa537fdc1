"""The sections of the page that follow from statistics.json alone: headline, alarms, how to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiments.report import charts, numbers, tables
from experiments.report.load import Material
from experiments.report.numbers import method_order
from lightning_modules.vocabulary import CONTROL_NAMES, METHODS


def places(names: Sequence[str]) -> list[charts.Key]:
    """(place in the palette, name); the palette repeats after eight."""
    return [(i % 8, name) for i, name in enumerate(names)]


def methods_of(material: Material) -> list[charts.Key]:
    """Methods with fixed places: none, vp, evp, tvp look the same on every page."""
    names = method_order(cell["method"] for cell in material.statistics["cells"])
    fixed = {name: i for i, name in enumerate(METHODS)}
    others = iter(range(4, 8))
    return [(fixed[name] if name in fixed else next(others, 7), name) for name in names]


def headline_section(material: Material) -> dict[str, Any]:
    """Average gains with intervals as tables and as dots, the paired differences, and each data set alone."""
    statistics, data_sets = material.statistics, material.data_sets()
    apart = [tables.headline(statistics, over, data) for data in data_sets for over in ("targets", "source")]
    return {
        "gains": tables.headline(statistics),
        "charts": _forests(material),
        "differences": tables.differences(statistics),
        "own": tables.headline(statistics, "source"),
        "apart": apart if len(data_sets) > 1 else [],
        "shared": tables.shared(statistics),
        "finer": tables.finer(statistics),
        "controls": tables.controls(statistics),
    }


def _forests(material: Material) -> list[charts.Panel]:
    """A chart for every control, on one scale."""
    entries = [e for e in material.statistics["methods"] if (e["data"], e["over"]) == ("", "targets")]
    limits = charts.common_limits([e[key] for e in entries for key in ("low", "high")])
    panels = []
    for control in material.statistics["controls"]:
        found = {entry["method"]: entry for entry in entries if entry["control"] == control}
        shown = [(key, found[key[1]]) for key in methods_of(material) if key[1] in found]
        if shown:
            chart = charts.forest(f"f-{control}", control, shown, limits)
            panels.append(charts.Panel(chart, f"Over the {CONTROL_NAMES[control]}"))
    return panels


def alarms_section(material: Material) -> dict[str, numbers.TextTable]:
    """Negative transfer in full, and its largest losses alone."""
    alarms = tables.alarms(material.statistics)
    caption = f"{alarms.caption} The 12 largest of {len(alarms.rows)}."
    return {"alarms": alarms, "largest": alarms._replace(rows=alarms.rows[:12], caption=caption)}


def reading_section(material: Material) -> dict[str, str]:
    """What the explanations say of this sweep."""
    statistics = material.statistics
    return {
        "alpha": f"{statistics['alpha']:g}",
        "intervals": " or ".join(sorted({cell["interval"] for cell in statistics["cells"]})) or "unknown",
        "metrics": ", ".join(f"{data} {metric}" for data, metric in sorted(statistics["metrics"].items())),
    }
