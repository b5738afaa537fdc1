"""Charts of runs: gain by epoch, and feature drift against gain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from experiments.report import charts, tables
from experiments.report.gain_curves import Average, Point, average_curves
from experiments.report.load import CellKey, Material, Run, cell_of
from experiments.report.markup import details, figure, legend, options, paragraph, table
from experiments.report.numbers import CONTROL_NAMES, TextTable, change, short
from experiments.report.sections.headline import methods_of, places

Curves = list[tuple[charts.Key, list[Average]]]


def curves_section(material: Material) -> str:
    """Mean target gain by epoch for every control, then every source alone over the black border."""
    runs = [run for _, run in sorted(material.runs.items()) if run.points]
    learned = [key for key in methods_of(material) if key[1] != "none"]
    if not runs or not learned:
        return '<p class="none">No validation curve: the runs hold no validation rows of the TransferCallback.</p>'
    panels, rows = [], []
    for number, data in enumerate(sorted({run.cell.data for run in runs})):
        of_data = [run for run in runs if run.cell.data == data]
        found = {c: _averages(of_data, learned, c) for c in material.statistics["controls"]}
        panels += _mean_panels(f"c{number}", data, found)
        rows += [row for control, curves in found.items() for row in _curve_rows(data, control, curves)]
    caption = "Mean target gain on validation images in points by epoch (0 is the first), mean over seeds."
    header = ["data set, control, method", "by epoch", "lowest and highest seed at the end", "from"]
    numbers = details("These curves as numbers", table(TextTable(caption, header, rows)))
    what = (
        "Prompt minus control on the same validation images at the same epoch, averaged over targets other than the "
        "source, then over seeds; the band spans the lowest and the highest seed (no confidence interval)."
    )
    shown = f"<div class='panels'>{''.join(panels)}</div>"
    return f"{paragraph(what)}{legend(learned)}{shown}{numbers}{_source_curves(material, runs, learned)}"


def _averages(runs: Sequence[Run], learned: Sequence[charts.Key], control: str) -> Curves:
    """Mean curve of every method that has one."""
    curves = []
    for key in learned:
        averages = average_curves([(r.cell.seed, r.points) for r in runs if r.cell.method == key[1]], control)
        curves += [(key, averages)] if averages else []
    return curves


def _mean_panels(name: str, data: str, found: Mapping[str, Curves]) -> list[str]:
    every = [a for curves in found.values() for _, averages in curves for a in averages]
    limits = charts.common_limits([value for a in every for value in (a.low, a.high)] or [0.0])
    panels = []
    for control, curves in found.items():
        if curves:
            label = f"{data}: mean target gain over the {CONTROL_NAMES[control]} by epoch, a line a method"
            chart = charts.mean_curves(f"{name}-{control}", label, curves, limits)
            panels.append(figure(chart, f"{data}, over the {CONTROL_NAMES[control]}"))
    return panels


def _curve_rows(data: str, control: str, curves: Sequence) -> list[list[str]]:
    return [
        [
            f"{data}, {CONTROL_NAMES[control]}, {method}",
            ", ".join(change(a.value) for a in averages),
            f"{change(averages[-1].low)} to {change(averages[-1].high)}",
            f"{averages[-1].curves} curves, {averages[-1].seeds} seeds",
        ]
        for (_, method), averages in curves
    ]


def _source_curves(material: Material, runs: Sequence[Run], learned: Sequence[charts.Key]) -> str:
    """One group a (data set, source), one panel a method, one line a model."""
    models = places(sorted({point.mllm for run in runs for point in run.points}))
    groups = []
    for data, source in sorted({(run.cell.data, run.cell.source) for run in runs}):
        own = [run for run in runs if (run.cell.data, run.cell.source) == (data, source)]
        panels = _source_panels(f"r{len(groups)}", own, models, learned)
        if panels:
            groups.append((f"r{len(groups)}", f"{short(source)}, {data}", "".join(panels)))
    if not groups:
        return ""
    shown = "".join(f'<div class="group panels" data-group="{key}">{html}</div>' for key, _, html in groups)
    pick = options("Learned on", "pick-curve", [(key, name) for key, name, _ in groups], groups[0][0])
    return (
        f"<h3>One source at a time, over the black border</h3><div class='controls'>{pick}</div>"
        f"{legend([(place, short(name)) for place, name in models])}"
        f"<div class='groups' data-picker='pick-curve'>{shown}</div>"
    )


def _source_panels(
    name: str, runs: Sequence[Run], models: Sequence[charts.Key], learned: Sequence[charts.Key]
) -> list[str]:
    """runs: of one source on one data set."""
    found = {}
    for _, method in learned:
        own = [run for run in runs if run.cell.method == method]
        curves = [((place, mllm), mean_points(own, mllm, "black")) for place, mllm in models]
        found[method] = [(key, points) for key, points in curves if points]
    limits = charts.common_limits(
        [p.gain for curves in found.values() for _, points in curves for p in points] or [0.0]
    )
    panels = []
    for method, curves in found.items():
        if curves:
            cell = runs[0].cell
            label = f"{method} learned on {short(cell.source)}, {cell.data}: gain over the black border by epoch"
            named = [((place, _named(mllm, cell.source)), points) for (place, mllm), points in curves]
            seeds = len({run.cell.seed for run in runs if run.cell.method == method})
            n = max(point.n for _, points in curves for point in points)
            chart = charts.run_curves(f"{name}-{method}", label, named, limits)
            panels.append(figure(chart, f"{method}, mean over {seeds} seeds, n {n}"))
    return panels


def _named(mllm: str, source: str) -> str:
    return short(mllm) + (", the source" if mllm == source else "")


def mean_points(runs: Sequence[Run], mllm: str, control: str) -> list[Point]:
    """One model's curve, mean over runs (seeds), at epochs all of them have."""
    by_epoch: dict[int, list[Point]] = {}
    for run in runs:
        for point in run.points:
            if (point.mllm, point.control) == (mllm, control):
                by_epoch.setdefault(point.epoch, []).append(point)
    whole = max(map(len, by_epoch.values()), default=0)
    return [
        some[0]._replace(gain=sum(p.gain for p in some) / len(some))
        for _, some in sorted(by_epoch.items())
        if len(some) == whole
    ]


# ---- drift -----------------------------------------------------------------------------------------------------------
def drift_section(material: Material) -> str:
    """Feature drift against gain over the black border: a mark for every prompt and model."""
    gains = {(*cell_of(e), e["target"]): e for e in material.statistics["cells"] if "black" in e["gains"]}
    panels = []
    for number, data in enumerate(material.data_sets()):
        groups, kinds = [], set()
        for place, method in methods_of(material):
            marks = []
            for cell, run in sorted(material.runs.items()):
                if (cell.data, cell.method) == (data, method) and method != "none":
                    kinds |= {run.drift} - {""}
                    marks += [
                        _mark(cell, t, v, gains[*cell, t]) for t, v in sorted(run.drifts.items()) if (*cell, t) in gains
                    ]
            if marks:
                groups.append(((place, method), marks))
        if groups:
            panels.append(_drift_panel(f"d{number}", data, groups, "drift" not in kinds))
    if not panels:
        return (
            '<p class="none">No feature drift was recorded by these runs (rows of metric drift in results.jsonl).</p>'
        )
    what = (
        "How far the prompt moves a model's visual features from those of the same image without it (FCA as a read-out "
        "on test images), against what it does to the score. One mark is one prompt (source and seed) on one model; "
        "hollow: the source itself. ρ is Spearman's rank correlation over the targets; the marks share sources, images "
        "and models, so it has no interval."
    )
    keys = [key for key in methods_of(material) if key[1] != "none"]
    return f"{paragraph(what)}{legend(keys)}<div class='panels wide'>{''.join(panels)}</div>"


def _mark(cell: CellKey, target: str, drift: float, entry: Mapping) -> tuple[float, float, str, bool]:
    gain = entry["gains"]["black"]
    text = (
        f"{cell.method}, {short(cell.source)} → {short(target)}, seed {cell.seed}: drift {drift:.3f}, gain "
        f"{tables.with_interval(gain)}, n {entry['n']}"
    )
    return drift, gain["value"], text, target == cell.source


def _drift_panel(name: str, data: str, groups: Sequence, relative: bool) -> str:
    from scipy.stats import spearmanr

    said = []
    for (_, method), marks in groups:
        others = [mark for mark in marks if not mark[3]]
        if len({m[0] for m in others}) > 2 and len({m[1] for m in others}) > 1:
            rho = float(spearmanr([m[0] for m in others], [m[1] for m in others]).statistic)
            said.append(f"{method} ρ {rho:+.2f} ({len(others)} marks)".replace("-", "−"))
    xlabel = (
        "feature drift, relative to the clean features' norm" if relative else "feature drift, mean L2 distance a token"
    )
    label = f"{data}: feature drift against gain. {'; '.join(said)}"
    return figure(charts.scatter(name, label, xlabel, groups), f"{data}. {'; '.join(said)}")
