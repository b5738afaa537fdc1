"""Tables of a sweep from its statistics.json, as rows of text: docs, report.md and the page print the same ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.report.numbers import (
    TextTable,
    change,
    counts,
    interval_kind,
    is_own,
    method_order,
    p_text,
    score,
    seed_count,
    short,
    with_interval,
)
from experiments.statistics.sharing import STRONGEST_FIRST
from lightning_modules.vocabulary import CONTROL_NAMES


# ---- the tables ------------------------------------------------------------------------------------------------------
def headline(statistics: Mapping, over: str = "targets", data: str = "") -> TextTable:
    """Average gain of every method over every control; `data` "" is the mean over data sets."""
    entries = [e for e in statistics["methods"] if e["over"] == over and e["data"] == data]
    cells = {(e["method"], e["control"]): e for e in entries}
    rows = [
        [method, *_gains([cells.get((method, control)) for control in statistics["controls"]])]
        for method in method_order(method for method, _ in cells)
    ]
    what = {"targets": "targets the prompt was not learned on", "source": "the source itself"}[over]
    of = f"data set {data}" if data else "mean over data sets"
    return TextTable(
        f"Average gain in points on {what}, {of}; {interval_kind(entries)}; n: test images.",
        ["method", *(f"over {CONTROL_NAMES[c]}" for c in statistics["controls"]), "from"],
        rows,
    )


def _gains(entries: Sequence[Mapping | None]) -> list[str]:
    """A gain for every control, and what they are made from."""
    return [*(with_interval(e) if e else "–" for e in entries), counts(next(e for e in entries if e))]


def differences(statistics: Mapping) -> TextTable:
    """TVP minus the baselines on the same images, pairs and seeds; with one data set its mean over data sets is it.

    The primary contrast stands first.
    """
    several = len(statistics["metrics"]) > 1
    entries = [e for e in statistics["differences"] if several or not e["data"]]
    rows = [
        [
            " − ".join(e["methods"]) + (" (primary)" if e.get("primary") else ""),
            *(with_interval(e), p_text(e["p"]), p_text(e["p_holm"]), e["over"], e["data"] or "all", counts(e)),
        ]
        for e in sorted(entries, key=lambda e: (not e.get("primary"), e["data"], e["over"] != "targets"))
    ]
    first = ": the primary contrast, named beforehand, is tested first, the others after it" * (
        any(e.get("primary") for e in entries)
    )
    caption = (
        f"Paired difference of prompted scores in points; {interval_kind(entries)}; p raw and adjusted by Holm's "
        f"correction{first}; n: test images."
    )
    return TextTable(caption, ["methods", "difference", "p", "p (adjusted)", "over", "data set", "from"], rows)


def alarms(statistics: Mapping) -> TextTable:
    """Negative transfer: pairs whose loss holds after correction, the largest loss first."""
    rows = [
        [
            f"{short(e['source'])} → {short(e['target'])}",
            *(with_interval(e), CONTROL_NAMES[e["control"]], p_text(e.get("p")), p_text(e["p_holm"])),
            *(e["method"], e["data"]),
            str(seed_count(e)),
        ]
        for e in sorted(statistics["alarms"], key=lambda e: e["value"])
    ]
    caption = (
        "Negative-transfer alarms: the prompt is worse than the control, and that holds after Holm's correction over "
        f"the matrix at {statistics['alpha']:g}; 95 % intervals, p one-sided."
    )
    return TextTable(caption, ["source → target", "gain", "over", "p", "p (Holm)", "method", "data set", "seeds"], rows)


def controls(statistics: Mapping) -> TextTable:
    """Every model on every data set without a learned prompt."""
    found: dict[tuple[str, str], Mapping] = {}
    for cell in statistics["cells"]:
        found.setdefault((cell["data"], cell["target"]), cell)
    rows = []
    for (data, target), cell in sorted(found.items()):
        given = [cell["inputs"].get(control) for control in statistics["controls"]]
        texts = [f"{score(e['value'])} [{score(e['low'])}, {score(e['high'])}]" if e else "–" for e in given]
        rows.append([short(target), data, cell["metric"], str(cell["n"]), *texts])
    header = ["model", "data set", "metric", "n", *(CONTROL_NAMES[c] for c in statistics["controls"])]
    return TextTable("Score in % without any learned prompt; 95 % interval over test images.", header, rows)


def by_target(statistics: Mapping, data: str, control: str = "") -> TextTable:
    """Methods x targets on one data set, averaged over sources other than the target: score, and gains over controls.

    control: only the gain over this one beside the score; "" states all of them in the order of the header.
    """
    # What a prompt does to its own source is no transfer: it would lift every mean.
    pairs = [p for p in statistics["pairs"] if p["data"] == data and not is_own(p)]
    chosen = [control] if control else list(statistics["controls"])
    targets = sorted({p["target"] for p in pairs})
    rows = []
    for method in method_order(p["method"] for p in pairs):
        # A cell is the plain mean over sources: each source counts the same, however many images it was learned on.
        of_method = [p for p in pairs if p["method"] == method]
        rows.append([method, *(_target_cell([p for p in of_method if p["target"] == t], chosen) for t in targets)])
    # Sources, seeds and images may differ between cells where some failed: the caption states the ranges.
    names = ", ".join(CONTROL_NAMES[c] for c in chosen)
    metric = statistics["metrics"][data]
    caption = (
        f"{data}: prompted {metric} in % (gain in points over {names}), mean over "
        f"{_range({len({p['source'] for p in pairs if p['target'] == t}) for t in targets})} other sources and "
        f"{_range({seed_count(p) for p in pairs})} seeds, n {_range({p['n'] for p in pairs})} test images; intervals "
        "of every pair are in the report."
    )
    return TextTable(caption, ["method", *map(short, targets)], rows)


def _target_cell(pairs: Sequence[Mapping], chosen: Sequence[str]) -> str:
    if not pairs:
        return "–"
    gains = [[p["gains"][c]["value"] for p in pairs if c in p["gains"]] for c in chosen]
    texts = [change(sum(values) / len(values)) if values else "–" for values in gains]
    return f"{score(sum(p['value'] for p in pairs) / len(pairs))} ({', '.join(texts)})"


def _range(numbers: set[int]) -> str:
    low, high = min(numbers, default=0), max(numbers, default=0)
    return str(low) if low == high else f"{low}-{high}"


def shared(statistics: Mapping) -> TextTable:
    """Average target gain by what source and target have in common."""
    caption = (
        "what source and target share, the closest first (kind of tower: vision transformer or convolutional network)"
    )
    return _grouped(statistics, "shared", "shared", "source and target share", caption, _place)


def finer(statistics: Mapping) -> dict[str, TextTable]:
    """Title -> average target gain by the kinds of both towers, and by source; those with rows.

    One source, or an older statistics.json, has none.
    """
    kinds = "kind of tower (ViT: vision transformer, CNN: convolutional network), from the source's to the target's"
    found = {
        "From tower to tower": _grouped(statistics, "directions", "direction", "from tower to tower", kinds),
        "By source": _grouped(statistics, "sources", "source", "learned on", "what the prompt was learned on"),
    }
    return {title: table for title, table in found.items() if table.rows}


def _grouped(
    statistics: Mapping, entries: str, key: str, what: str, caption: str, place: Callable[[str], Any] = str
) -> TextTable:
    given = statistics.get(entries, [])
    cells = {(e["method"], e[key], e["control"]): e for e in given}
    rows = [
        [f"{method}, {tag}", *_gains([cells.get((method, tag, control)) for control in statistics["controls"]])]
        for method in method_order(method for method, *_ in cells)
        for tag in sorted({tag for of, tag, _ in cells if of == method}, key=place)
    ]
    header = [f"method, {what}", *(f"over {CONTROL_NAMES[c]}" for c in statistics["controls"]), "from"]
    over = interval_kind(given) if given else ""
    caption = f"Average target gain in points by {caption}, mean over data sets; {over}; n: test images."
    return TextTable(caption, header, rows)


def _place(tag: str) -> tuple[int, str]:
    """Where a word of `sharing` stands in a table: the strongest first, words that this version does not use last."""
    return STRONGEST_FIRST.index(tag) if tag in STRONGEST_FIRST else len(STRONGEST_FIRST), tag


def missing(statistics: Mapping) -> TextTable:
    """Cells that have no result, and why."""
    rows = []
    for entry in statistics["missing"]:
        label = f"{short(entry['source'])}-{entry['data']}-{entry['method']}-s{entry['seed']}"
        rows.append([label, entry["status"], " ".join(str(entry["error"] or "–").split())])
    return TextTable("Cells of the sweep without a result.", ["cell", "status", "error"], rows)
