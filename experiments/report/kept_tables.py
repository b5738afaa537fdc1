"""Small tables of committed sweeps for docs/ and README: each study's numbers as a reader needs them."""

from __future__ import annotations

import json
import re
from itertools import chain
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from experiments.cli import markdown
from experiments.kept import RESULTS, kept_matrix, kept_statistics
from experiments.report.numbers import method_order, with_interval
from experiments.sweep.recipe import data_label, load_sweep
from lightning_modules.vocabulary import MAPPED, members

OWN = "all: it is the source"


def result_section(sweep: str) -> str:
    """The long tables of a sweep."""
    from experiments.report.markdown import result_section as section

    return section(kept_statistics(sweep), label=f"`sweep={sweep}`")


def found_table(sweep: str) -> str:
    """A small table: what each method's frame changes over the plain full-size picture, by what models share."""
    from experiments.statistics.sharing import STRONGEST_FIRST

    found = kept_statistics(sweep)
    own = [entry | {"shared": OWN} for entry in found["methods"] if entry["over"] == "source"]
    of = {
        (entry["shared"], entry["method"]): entry
        for entry in (*own, *found["shared"])
        if entry["control"] == "full" and entry["data"] == "" and entry["method"] != "none"
    }
    methods, kinds = method_order(method for _, method in of), {kind for kind, _ in of}
    rows = [
        [kind, str(of[kind, methods[0]]["pairs"]), *(with_interval(of[kind, method]) for method in methods)]
        for kind in (OWN, *STRONGEST_FIRST)
        if kind in kinds
    ]
    header = ["what the model scored shares with the source", "pairs", *(method.upper() for method in methods)]
    return markdown(header, rows).strip()


def directions_table(sweep: str) -> str:
    """What each method's frame changes on models it was not learned on, by the kinds of both towers."""
    rows = [row for row in kept_statistics(sweep)["directions"] if row["control"] == "full" and row["method"] != "none"]
    of = {(row["direction"], row["method"]): row for row in rows}
    methods = method_order(method for _, method in of)
    table = [
        [kind, str(of[kind, methods[0]]["pairs"]), *(with_interval(of[kind, method]) for method in methods)]
        for kind in dict.fromkeys(row["direction"] for row in rows)
    ]
    return markdown(["from the source's tower to the target's", "pairs", *(m.upper() for m in methods)], table).strip()


def study_table(sweep: str) -> str:
    """What frames change on their source and on other models; a row for each form of the data, or each method.

    Rows stand in the order of the recipe.
    """
    found, recipe = kept_statistics(sweep), load_sweep(sweep, [("tuned", "")])
    rows = [row for row in found["methods"] if row["control"] == "full" and row["method"] != "none"]
    of = {(row["data"], row["method"], row["over"]): with_interval(row) for row in rows}
    labels = [label for label in map(data_label, recipe.data) if label in found["metrics"]]
    learned = {row["method"] for row in rows}
    methods = [method.name for method in recipe.methods if method.name in learned]
    sides = {"source": "its source", "targets": "other models"}
    if len(labels) == 1:
        table = [[method, *(of["", method, over] for over in sides)] for method in methods]
        return markdown(["method", *sides.values()], table).strip()
    columns = [(method, over) for over in sides for method in methods]
    table = [[label, *(of.get((label, *column), "–") for column in columns)] for label in labels]
    return markdown(["", *(f"{method.upper()}, {sides[over]}" for method, over in columns)], table).strip()


def pairs_table(sweep: str, *, unseen: bool = False) -> str:
    """Pair by pair, what frames change over the plain full-size picture: a row for each method and source.

    unseen: only models that were in none of the sources.
    """
    pairs = [pair for pair in kept_statistics(sweep)["pairs"] if pair["method"] != "none"]
    of = {(pair["method"], pair["source"], pair["target"]): with_interval(pair["gains"]["full"]) for pair in pairs}
    methods, sources = method_order(method for method, *_ in of), list(dict.fromkeys(source for _, source, _ in of))
    learned_on = {member for source in sources for member in members(source)}
    targets = sorted({target for *_, target in of if not (unseen and target in learned_on)})
    rows = [
        [*([method.upper()] if len(methods) > 1 else []), source, *(of.get((method, source, t), "–") for t in targets)]
        for method in methods
        for source in sources
    ]
    head = ["method", "learned on"] if len(methods) > 1 else [f"{methods[0].upper()}, learned on"]
    return markdown([*head, *targets], rows).strip()


def by_target_table(sweep: str) -> str:
    """Model by model, what frames change over the plain full-size picture: mean over sources, lowest to highest."""
    pairs = [pair for pair in kept_statistics(sweep)["pairs"] if pair["method"] != "none"]
    values: dict[tuple[str, str, str], list[float]] = {}
    for pair in pairs:
        key = (pair["target"], pair["data"], pair["method"])
        values.setdefault(key, []).append(pair["gains"]["full"]["value"])
    columns = list(dict.fromkeys((data, method) for _, data, method in values))

    def spread(found: list[float]) -> str:
        return with_interval({"value": fmean(found), "low": min(found), "high": max(found)})

    targets = sorted({target for target, *_ in values})
    rows = [[target, *(spread(values[target, *column]) for column in columns)] for target in targets]
    return markdown(["model", *(f"{method.upper()}, {data}" for data, method in columns)], rows).strip()


def mapping_table(sweep: str) -> str:
    """What frames change over the plain picture read plainly, where they are read plainly and through label maps.

    Means over models and seeds, 95 % over seeds.
    """
    from scipy.stats import t as student

    lines = [line for line in kept_matrix(sweep) if line["metric"] in ("top1", MAPPED)]
    of = {
        (ln["method"], ln["source"], ln["target"], ln["seed"], ln["control"], ln["metric"]): float(ln["value"])
        for ln in lines
    }
    pairs = sorted({key[:4] for key in of})

    def change(method: str, own: bool, control: str, metric: str) -> str:
        by_seed: dict[str, list[float]] = {}
        for pair in pairs:
            if pair[0] == method and (pair[1] == pair[2]) == own:
                by_seed.setdefault(pair[3], []).append(of[*pair, control, metric] - of[*pair, "full", "top1"])
        means = [fmean(values) for values in by_seed.values()]
        half = float(student.ppf(0.975, len(means) - 1)) * stdev(means) / len(means) ** 0.5
        return with_interval({"value": fmean(means), "low": fmean(means) - half, "high": fmean(means) + half})

    reads = [(own, metric) for own in (True, False) for metric in ("top1", MAPPED)]
    methods = method_order(line["method"] for line in lines)
    plain = ["no frame", *(change(methods[0], own, "full", metric) for own, metric in reads)]
    rows = [[method, *(change(method, own, "", metric) for own, metric in reads)] for method in methods]
    sides = [f"{side}{way}" for side in ("its source", "other models") for way in ("", ", through maps")]
    return markdown(["method", *sides], [plain, *rows]).strip()


def why_tables(sweep: str) -> str:
    """What `experiments.why` found in a sweep: a sentence on the predictor, and the tables, two rows a method."""
    from experiments.report.sections import why

    content = why.read_why(RESULTS / f"sweep_{sweep}")
    assert content, f"no {why.WHY} of this format"
    minutes = f"{content['processor_seconds'] / 60:.0f} minutes of one processor"
    parts = [f"`sweep={sweep}`, {why.seeds_text(content)}; {minutes}."]
    for one in content["sets"]:
        parts += ["\n".join(f"* {text}" for text in why.sentences(one))]
        parts += [why.as_markdown(table).strip() for table in why.why_tables(one, by_share=False)]
    return "\n\n".join(parts)


def own_table(sweep: str) -> str:
    """Source by source, what each method's frame changes on it over the plain full-size picture."""
    pairs = [pair for pair in kept_statistics(sweep)["pairs"] if pair["role"] == "source" and pair["method"] != "none"]
    of = {(pair["method"], pair["source"]): with_interval(pair["gains"]["full"]) for pair in pairs}
    methods = method_order(method for method, _ in of)
    rows = [
        [source, *(of[method, source] for method in methods)] for source in dict.fromkeys(p["source"] for p in pairs)
    ]
    if len(methods) > len(rows):  # long names stand in the first column
        flipped = [[method, *(row[i + 1] for row in rows)] for i, method in enumerate(methods)]
        return markdown(["method", *(row[0] for row in rows)], flipped).strip()
    return markdown(["the source", *(method.upper() for method in methods)], rows).strip()


def one_source_table(sweep: str) -> str:
    """Model by model, what each method's frame changes over the plain full-size picture, in a sweep of one source."""
    pairs = kept_statistics(sweep)["pairs"]
    of = {(pair["method"], pair["target"]): with_interval(pair["gains"]["full"]) for pair in pairs}
    shared = {pair["target"]: "the source" if pair["role"] == "source" else pair["shared"] for pair in pairs}
    methods = method_order(method for method, _ in of)
    rows = [[model, share, *(of[method, model] for method in methods)] for model, share in shared.items()]
    return markdown(["model", "shares with the source", *(method.upper() for method in methods)], rows).strip()


def commands_table() -> str:
    """The command behind every committed sweep and search, and its minutes on two CPU cores; the sum below.

    Of a sweep the minutes its recipe says to expect, of a search those its trials trained, two at a time.
    """
    folder = RESULTS.parent / "sweeps"
    kept = sorted(path.name.removeprefix("sweep_") for path in RESULTS.glob("sweep_*"))
    sweeps = [_stated(folder / f"{name}.yaml") for name in kept]
    found = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("tuning_*.json"))]
    searches = [(_tuning(record["asked"]), _minutes(record["trials"])) for record in found if "asked" in record]
    total = sum(minutes for _, minutes in chain(searches, sweeps)) / 60
    rows = [[f"`{command}`", str(minutes)] for command, minutes in chain(searches, sweeps)]
    return f"{markdown(['command', 'minutes'], rows).strip()}\n\nTogether {total:.1f} hours."


def _stated(recipe: Path) -> tuple[str, int]:
    """The command of a sweep, and the most minutes that its recipe says to expect."""
    text = recipe.read_text()
    minutes = re.search(r"^# Expect: .*?(\d+)(?: to (\d+))? minutes", text, re.MULTILINE)
    if minutes is None:
        raise ValueError(f"'{recipe.name}' says no minutes. Expected a line `# Expect: about N minutes ...`.")
    return f"python -m experiments.transfer_sweep sweep={recipe.stem}", int(minutes[2] or minutes[1])


def _tuning(asked: dict[str, Any]) -> str:
    """The command of a search; a sweep's recipe says what is compared, on what."""
    if asked.get("sweep"):
        words = [f"sweep={asked['sweep']}"]
    else:
        words = [f"{key}={asked[key]}" for key in ("exp", "data")]
        words += [f"{key}={','.join(asked[key])}" for key in ("sources", "methods")]
        words += [f"{key}={word}" for key, word in asked["words"].items()]
    words += [f"{key}={asked[key]}" for key in ("trials", "rounds", "max_steps")]
    return " ".join(["python -m experiments.tune", *words])


def _minutes(trials: list[dict[str, Any]]) -> int:
    return round(sum(trial["seconds"] for trial in trials) / 60 / 2)
