"""The sections of the page that follow from statistics.json alone: headline, alarms, how to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from experiments.report import charts, numbers, tables
from experiments.report.load import Material
from experiments.report.markup import bullets, details, figure, table
from experiments.report.numbers import CONTROL_NAMES, method_order


def places(names: Sequence[str]) -> list[tuple[int, str]]:
    """(place in the palette, name); the palette repeats after eight."""
    return [(i % 8, name) for i, name in enumerate(names)]


def methods_of(material: Material) -> list[tuple[int, str]]:
    """Methods with fixed places: none, vp, evp, tvp look the same on every page."""
    names = method_order(cell["method"] for cell in material.statistics["cells"])
    fixed = {name: i for i, name in enumerate(numbers.METHOD_ORDER)}
    others = iter(range(4, 8))
    return [(fixed[name] if name in fixed else next(others, 7), name) for name in names]


def headline_section(material: Material) -> str:
    """Average gains with intervals as tables and as dots, the paired differences, and each data set alone."""
    statistics = material.statistics
    entries = [e for e in statistics["methods"] if (e["data"], e["over"]) == ("", "targets")]
    limits = charts.common_limits([e[key] for e in entries for key in ("low", "high")] or [0.0])
    panels = []
    for control in statistics["controls"]:
        found = {entry["method"]: entry for entry in entries if entry["control"] == control}
        shown = [(key, found[key[1]]) for key in methods_of(material) if key[1] in found]
        if shown:
            chart = charts.forest(f"f-{control}", control, shown, limits)
            panels.append(figure(chart, f"Over the {CONTROL_NAMES[control]}"))
    apart = "".join(
        table(tables.headline(statistics, over, data))
        for data in material.data_sets()
        for over in ("targets", "source")
    )
    return (
        f"{table(tables.headline(statistics))}<div class='panels'>{''.join(panels)}</div>"
        f"{table(tables.differences(statistics))}{table(tables.headline(statistics, 'source'))}"
        + (details("Each data set alone", apart) if len(material.data_sets()) > 1 else "")
        + details("By what source and target share", table(tables.shared(statistics)))
        + details("Every model without a learned prompt", table(tables.controls(statistics)))
    )


def alarms_section(material: Material) -> str:
    """Negative transfer in full, never folded away when there is some."""
    content = tables.alarms(material.statistics)
    if len(content.rows) <= 12:
        return table(content)
    first = content._replace(
        rows=content.rows[:12], caption=f"{content.caption} The 12 largest of {len(content.rows)}."
    )
    return table(first) + details(f"All {len(content.rows)} alarms", table(content))


def reading_section(material: Material) -> str:
    """How the numbers were made."""
    statistics = material.statistics
    return bullets(
        [
            "Gain: the score with the prompt minus the score with a control, on the same test images; a point is a "
            "hundredth.",
            "Method none learned nothing: its prompt is black, so its gain over the black border is 0, and its others "
            "compare controls.",
            "Full image: the unprompted picture at full size. Black border: the picture shrunk as for the prompt, "
            "black around it (what the paper calls no prompt). Best constant border: the best of 27 colours, chosen on "
            "validation images. Replicate padding: edge pixels repeated. A gain over the black border alone may be "
            "nothing but repair of the shrinking; the others stand beside it.",
            "Intervals are 95 %: of pairs, averages and differences over test images and seeds together where there "
            f"are several seeds, else over test images; of single scores {_interval_kinds(statistics)}.",
            "p: paired tests, corrected with Holm's method over the matrix; the alarm is a loss whose corrected "
            f"one-sided p is at most {statistics['alpha']:g}.",
            "Metrics: " + ", ".join(f"{data} {metric}" for data, metric in sorted(statistics["metrics"].items())) + ".",
            "Curves use validation images; every other number uses test images.",
        ]
    )


def _interval_kinds(statistics: Mapping) -> str:
    return " or ".join(sorted({cell["interval"] for cell in statistics["cells"]})) or "unknown"
