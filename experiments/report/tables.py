"""Tables of a sweep from its statistics.json, as rows of text: README, report.md and the page print the same ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

CONTROL_NAMES = {
    "full": "full image",
    "black": "black border",
    "constant": "best constant border",
    "replicate": "replicate padding",
}
METHOD_ORDER = ("none", "vp", "evp", "tvp")


class Table(NamedTuple):
    """caption: what the numbers are, with n, seeds and interval. rows: text, the first column names the row."""

    caption: str
    header: list[str]
    rows: list[list[str]]


def markdown_table(table: Table) -> str:
    """The table with its caption below, or a line that says there is nothing."""
    if not table.rows:
        return f"{table.caption} None.\n"
    lines = [f"| {' | '.join(table.header)} |", "|---" + "|---:" * (len(table.header) - 1) + "|"]
    rows = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in table.rows]
    return "\n".join([*lines, *(f"| {row} |" for row in rows), "", table.caption]) + "\n"


# ---- numbers as people read them -------------------------------------------------------------------------------------
def score(value: float) -> str:
    """A fraction in %."""
    return f"{100 * value:.1f}"


def change(value: float) -> str:
    """A difference of fractions in points, with a true minus sign; nothing is -0.0."""
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def with_interval(entry: Mapping) -> str:
    return f"{change(entry['value'])} [{change(entry['low'])}, {change(entry['high'])}]"


def p_text(value: float | None) -> str:
    if value is None:
        return "–"
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def short(name: str) -> str:
    """`embedded_llava` -> `llava`: tables say once that the models are the embedded ones."""
    return name.removeprefix("embedded_")


def method_order(methods: Iterable[str]) -> list[str]:
    """none, vp, evp, tvp, then others by name."""
    known = {name: i for i, name in enumerate(METHOD_ORDER)}
    return sorted(set(methods), key=lambda name: (known.get(name, len(known)), name))


def main_method(statistics: Mapping) -> str:
    """tvp where it was run, else the last method that learns something, else `none`."""
    methods = method_order(cell["method"] for cell in statistics["cells"])
    return "tvp" if "tvp" in methods else methods[-1] if methods else ""


def is_embedded(statistics: Mapping) -> bool:
    return any(cell[key].startswith("embedded_") for cell in statistics["cells"] for key in ("source", "target"))


def interval_kind(entries: Iterable[Mapping]) -> str:
    """What the intervals of these numbers are over: several seeds, or one."""
    kinds = sorted({entry["interval"] for entry in entries})
    return f"95 % interval over {' or '.join(kinds) or 'test images'}".replace("over images", "over test images")


def is_own(entry: Mapping) -> bool:
    """The target is what the prompt was learned on (one of several, for an ensemble): no transfer."""
    return entry["role"] == "source" or entry["source"] == entry["target"]


def counts(entry: Mapping) -> str:
    return f"{entry['pairs']} pairs × {_seeds(entry)} seeds, n {entry['n']}"


def _seeds(entry: Mapping) -> int:
    seeds = entry["seeds"]
    return seeds if isinstance(seeds, int) else len(seeds)


# ---- the tables ------------------------------------------------------------------------------------------------------
def headline(statistics: Mapping, over: str = "targets", data: str = "") -> Table:
    """Average gain of every method over every control; `data` "" is the mean over data sets."""
    entries = [e for e in statistics["methods"] if e["over"] == over and e["data"] == data]
    cells = {(e["method"], e["control"]): e for e in entries}
    rows = []
    for method in method_order(method for method, _ in cells):
        own = [cells.get((method, control)) for control in statistics["controls"]]
        first = next(entry for entry in own if entry)
        rows.append([method, *(with_interval(e) if e else "–" for e in own), counts(first)])
    what = {"targets": "targets the prompt was not learned on", "source": "the source itself"}[over]
    of = f"data set {data}" if data else "mean over data sets"
    return Table(
        f"Average gain in points on {what}, {of}; {interval_kind(entries)}; n: test images.",
        ["method", *(f"over {CONTROL_NAMES[c]}" for c in statistics["controls"]), "from"],
        rows,
    )


def differences(statistics: Mapping) -> Table:
    """TVP minus the baselines on the same images, pairs and seeds; with one data set its mean over data sets is it."""
    several = len(statistics["metrics"]) > 1
    entries = [e for e in statistics["differences"] if several or not e["data"]]
    rows = [
        [" − ".join(e["methods"]), with_interval(e), p_text(e["p_holm"]), e["over"], e["data"] or "all", counts(e)]
        for e in sorted(entries, key=lambda e: (e["data"], e["over"] != "targets"))
    ]
    caption = (
        f"Paired difference of prompted scores in points; {interval_kind(entries)}; p after Holm's correction; n: test "
        "images."
    )
    return Table(caption, ["methods", "difference", "p (Holm)", "over", "data set", "from"], rows)


def alarms(statistics: Mapping) -> Table:
    """Negative transfer: pairs whose loss holds after correction, the largest loss first."""
    rows = [
        [
            f"{short(e['source'])} → {short(e['target'])}",
            *(with_interval(e), CONTROL_NAMES[e["control"]], p_text(e["p_holm"]), e["method"], e["data"]),
            str(_seeds(e)),
        ]
        for e in sorted(statistics["alarms"], key=lambda e: e["value"])
    ]
    caption = (
        "Negative-transfer alarms: the prompt is worse than the control, and that holds after Holm's correction over "
        f"the matrix at {statistics['alpha']:g}; 95 % intervals, p one-sided."
    )
    return Table(caption, ["source → target", "gain", "over", "p (Holm)", "method", "data set", "seeds"], rows)


def controls(statistics: Mapping) -> Table:
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
    return Table("Score in % without any learned prompt; 95 % interval over test images.", header, rows)


def by_target(statistics: Mapping, data: str, control: str = "") -> Table:
    """Methods x targets on one data set, averaged over sources other than the target: score, and gains over controls.

    control: only the gain over this one beside the score; "" states all of them in the order of the header.
    """
    pairs = [p for p in statistics["pairs"] if p["data"] == data and not is_own(p)]
    chosen = [control] if control else list(statistics["controls"])
    targets = sorted({p["target"] for p in pairs})
    rows = []
    for method in method_order(p["method"] for p in pairs):
        of_method = [p for p in pairs if p["method"] == method]
        rows.append([method, *(_target_cell([p for p in of_method if p["target"] == t], chosen) for t in targets)])
    names = ", ".join(CONTROL_NAMES[c] for c in chosen)
    metric = statistics["metrics"][data]
    caption = (
        f"{data}: prompted {metric} in % (gain in points over {names}), mean over "
        f"{_range({len({p['source'] for p in pairs if p['target'] == t}) for t in targets})} other sources and "
        f"{_range({_seeds(p) for p in pairs})} seeds, n {_range({p['n'] for p in pairs})} test images; intervals of "
        "every pair are in the report."
    )
    return Table(caption, ["method", *map(short, targets)], rows)


def _target_cell(pairs: Sequence[Mapping], chosen: Sequence[str]) -> str:
    if not pairs:
        return "–"
    gains = [[p["gains"][c]["value"] for p in pairs if c in p["gains"]] for c in chosen]
    texts = [change(sum(values) / len(values)) if values else "–" for values in gains]
    return f"{score(sum(p['value'] for p in pairs) / len(pairs))} ({', '.join(texts)})"


def _range(numbers: set[int]) -> str:
    low, high = min(numbers, default=0), max(numbers, default=0)
    return str(low) if low == high else f"{low}-{high}"


def shared(statistics: Mapping) -> Table:
    """Average target gain by what source and target have in common."""
    cells = {(e["method"], e["shared"], e["control"]): e for e in statistics["shared"]}
    keys = sorted(
        {(m, s) for m, s, _ in cells}, key=lambda key: (method_order(m for m, *_ in cells).index(key[0]), key)
    )
    rows = []
    for method, tag in keys:
        own = [cells.get((method, tag, control)) for control in statistics["controls"]]
        first = next(entry for entry in own if entry)
        rows.append([f"{method}, {tag}", *(with_interval(e) if e else "–" for e in own), counts(first)])
    header = ["method, source and target share", *(f"over {CONTROL_NAMES[c]}" for c in statistics["controls"]), "from"]
    return Table(
        f"Average target gain in points, mean over data sets; {interval_kind(statistics['shared'])}; n: test images.",
        header,
        rows,
    )


def missing(statistics: Mapping) -> Table:
    """Cells that have no result, and why."""
    rows = []
    for entry in statistics["missing"]:
        label = f"{short(entry['source'])}-{entry['data']}-{entry['method']}-s{entry['seed']}"
        rows.append([label, entry["status"], " ".join(str(entry["error"] or "–").split())])
    return Table("Cells of the sweep without a result.", ["cell", "status", "error"], rows)


def result_section(statistics: dict, *, label: str) -> str:
    """README's text on a sweep: what it is, the verdict in words, the headline tables, one table a data set, alarms.

    label: what the sweep is called in the text, e.g. `sweep=embedded`.
    """
    from experiments.report.words import about, verdicts

    data_sets = sorted({cell["data"] for cell in statistics["cells"]})
    parts = [f"{label}: {about(statistics)}", "\n".join(f"* {text}" for text in verdicts(statistics))]
    parts += [markdown_table(headline(statistics)), markdown_table(headline(statistics, "source"))]
    parts += [markdown_table(differences(statistics))]
    parts += [markdown_table(by_target(statistics, data)) for data in data_sets]
    parts += [markdown_table(controls(statistics)), markdown_table(_few(alarms(statistics), 10))]
    return "\n\n".join(part.strip() for part in parts)


def _few(table: Table, most: int) -> Table:
    left = len(table.rows) - most
    more = f" The {most} largest losses; {left} more are in the report." if left > 0 else ""
    return table._replace(caption=table.caption + more, rows=table.rows[:most])
