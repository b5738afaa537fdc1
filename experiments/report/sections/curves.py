"""Charts of runs: gain by update, and feature drift against gain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scipy.stats import spearmanr

from experiments.report import charts
from experiments.report.charts import Key, Panel
from experiments.report.gain_curves import Average, average_curves, mean_points
from experiments.report.load import CellKey, Group, Material, Run, cell_of
from experiments.report.numbers import TextTable, change, short, with_interval
from experiments.report.sections.headline import methods_of, places
from lightning_modules.vocabulary import CONTROL_NAMES

Curves = list[tuple[Key, list[Average]]]


def curves_section(material: Material) -> dict[str, Any] | None:
    """Mean target gain by update for every control, then every source alone over the black border."""
    runs = [run for _, run in sorted(material.runs.items()) if run.points]
    learned = _learned(material)
    if not runs or not learned:
        return None
    panels: list[Panel] = []
    rows: list[list[str]] = []
    for number, data in enumerate(sorted({run.cell.data for run in runs})):
        of_data = [run for run in runs if run.cell.data == data]
        found = {control: _averages(of_data, learned, control) for control in material.statistics["controls"]}
        panels += _mean_panels(f"c{number}", data, found)
        rows += [_curve_row(data, control, *curve) for control, curves in found.items() for curve in curves]
    caption = "Mean target gain on validation images in points by update, mean over seeds."
    header = ["data set, control, method", "by update", "lowest and highest seed at the end", "from"]
    models = places(sorted({point.mllm for run in runs for point in run.points}))
    return {
        "learned": learned,
        "charts": panels,
        "numbers": TextTable(caption, header, rows),
        "models": [(place, short(name)) for place, name in models],
        "sources": _source_groups(runs, models, learned),
    }


def _learned(material: Material) -> list[Key]:
    return [key for key in methods_of(material) if key[1] != "none"]


def _averages(runs: Sequence[Run], learned: Sequence[Key], control: str) -> Curves:
    """Mean curve of every method that has one."""
    curves = [
        (key, average_curves([(run.cell.seed, run.points) for run in runs if run.cell.method == key[1]], control))
        for key in learned
    ]
    return [(key, averages) for key, averages in curves if averages]


def _mean_panels(name: str, data: str, found: Mapping[str, Curves]) -> Iterator[Panel]:
    every = [average for curves in found.values() for _, averages in curves for average in averages]
    limits = charts.common_limits([value for average in every for value in (average.low, average.high)])
    for control, curves in found.items():
        if curves:
            over = f"over the {CONTROL_NAMES[control]}"
            label = f"{data}: mean target gain {over} by update, a line a method"
            yield Panel(charts.mean_curves(f"{name}-{control}", label, curves, limits), f"{data}, {over}")


def _curve_row(data: str, control: str, key: Key, averages: Sequence[Average]) -> list[str]:
    last = averages[-1]
    return [
        f"{data}, {CONTROL_NAMES[control]}, {key[1]}",
        ", ".join(change(average.value) for average in averages),
        f"{change(last.low)} to {change(last.high)}",
        f"{last.curves} curves, {last.seeds} seeds",
    ]


def _source_groups(runs: Sequence[Run], models: Sequence[Key], learned: Sequence[Key]) -> list[Group]:
    """One group a (data set, source), one panel a method, one line a model."""
    groups: list[Group] = []
    for data, source in sorted({(run.cell.data, run.cell.source) for run in runs}):
        own = [run for run in runs if (run.cell.data, run.cell.source) == (data, source)]
        panels = list(_source_panels(f"r{len(groups)}", own, models, learned))
        groups += [Group(f"r{len(groups)}", f"{short(source)}, {data}", panels)] if panels else []
    return groups


def _source_panels(name: str, runs: Sequence[Run], models: Sequence[Key], learned: Sequence[Key]) -> Iterator[Panel]:
    """runs: of one source on one data set."""
    source, data = runs[0].cell.source, runs[0].cell.data
    found = {}
    for _, method in learned:
        points = [run.points for run in runs if run.cell.method == method]
        curves = [
            ((place, short(mllm) + (", the source" if mllm == source else "")), mean_points(points, mllm, "black"))
            for place, mllm in models
        ]
        found[method] = [(key, points) for key, points in curves if points]
    limits = charts.common_limits([p.gain for curves in found.values() for _, points in curves for p in points])
    for method, curves in found.items():
        if curves:
            label = f"{method} learned on {short(source)}, {data}: gain over the black border by update"
            seeds = len({run.cell.seed for run in runs if run.cell.method == method})
            n = max(point.n for _, points in curves for point in points)
            chart = charts.run_curves(f"{name}-{method}", label, curves, limits)
            yield Panel(chart, f"{method}, mean over {seeds} seeds, n {n}")


# ---- drift -----------------------------------------------------------------------------------------------------------
def drift_section(material: Material) -> dict[str, Any] | None:
    """Feature drift against gain over the black border: a mark for every prompt and model."""
    gains = {(*cell_of(e), e["target"]): e for e in material.statistics["cells"] if "black" in e["gains"]}
    panels = []
    for number, data in enumerate(material.data_sets()):
        of_data = [(cell, run) for cell, run in sorted(material.runs.items()) if cell.data == data]
        groups, kinds = [], set()
        for key in _learned(material):
            own = [(cell, run) for cell, run in of_data if cell.method == key[1]]
            kinds |= {run.drift for _, run in own} - {""}
            marks = [
                _mark(cell, target, drift, gains[*cell, target])
                for cell, run in own
                for target, drift in sorted(run.drifts.items())
                if (*cell, target) in gains
            ]
            groups += [(key, marks)] if marks else []
        if groups:
            panels.append(_drift_panel(f"d{number}", data, groups, "drift" not in kinds))
    return {"learned": _learned(material), "charts": panels} if panels else None


def _mark(cell: CellKey, target: str, drift: float, entry: Mapping) -> tuple[float, float, str, bool]:
    gain = entry["gains"]["black"]
    text = (
        f"{cell.method}, {short(cell.source)} → {short(target)}, seed {cell.seed}: drift {drift:.3f}, gain "
        f"{with_interval(gain)}, n {entry['n']}"
    )
    return drift, gain["value"], text, target == cell.source


def _drift_panel(name: str, data: str, groups: Sequence, relative: bool) -> Panel:
    said = []
    for (_, method), marks in groups:
        others = [mark for mark in marks if not mark[3]]
        if len({m[0] for m in others}) > 2 and len({m[1] for m in others}) > 1:
            rho = float(spearmanr([m[0] for m in others], [m[1] for m in others]).statistic)
            said.append(f"{method} ρ {rho:+.2f} ({len(others)} marks)".replace("-", "−"))
    kind = "relative to the clean features' norm" if relative else "mean L2 distance a token"
    words = "; ".join(said)
    chart = charts.scatter(name, f"{data}: feature drift against gain. {words}", f"feature drift, {kind}", groups)
    return Panel(chart, f"{data}. {words}")
