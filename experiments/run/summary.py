"""What a finished run shows: its table beside the committed comparison of methods, and its pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from experiments.cli import markdown
from experiments.kept import kept_statistics
from experiments.run.folder import RunFolder
from experiments.run.offsets import offset_record, one_list
from experiments.run.preflight import left_out_text
from experiments.tracking.run import draw_prompt, draw_samples
from lightning_modules.atomic import replace_file
from lightning_modules.metrics import Estimate, Scores, estimate, paired_gain
from lightning_modules.prompts import Prompt
from lightning_modules.vocabulary import CONTROLS, INPUT_NAMES, MAPPED, METHODS

COMPARISONS = {world: f"{world}_one_source" for world in ("fashion", "web", "embedded")}
"""What begins a recipe's name -> the committed sweep of one source with that recipe's settings: `make table`."""

OFFSETS_NAME = "full + offsets"
OFFSETS_NOTE = (
    f"{OFFSETS_NAME}: the full image, with one number added to the score of each candidate, fitted on the validation "
    "labels of the very model it is shown for (no prompt has seen a held-out model's): what a repair blind to the "
    "image wins."
)


def points(value: float) -> str:
    return f"{100 * value:.1f}"


def gain_text(gain: Estimate) -> str:
    return f"{100 * gain.value:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"


def count_text(scores: Scores) -> str:
    """Rows, and how many pictures they are about where that is fewer."""
    units = scores.unit_numbers
    return str(len(scores.ids)) if units is None else f"{len(scores.ids)} on {units.max() + 1} pictures"


def model_rows(
    metric: str,
    records: Mapping[str, Mapping[str, Scores]],
    roles: Mapping[str, str],
    offsets: Mapping[str, Scores] | None = None,
) -> list[list[str]]:
    """One row per model: every input's score, and the gain over every control with its 95 % interval.

    offsets: mllm -> record of the full image with offsets; a column beside the controls where it is given.
    """
    rows = []
    for name, of_input in records.items():
        prompted = of_input["prompt"]
        cells = [points(estimate(metric, of_input[i]).value) if i in of_input else "-" for i in INPUT_NAMES]
        if offsets:
            cells.insert(len(CONTROLS), points(estimate(metric, offsets[name]).value) if name in offsets else "-")
        gains = [gain_text(paired_gain(metric, prompted, of_input[c])) if c in of_input else "-" for c in CONTROLS]
        rows.append([f"{name} ({roles[name]})", count_text(prompted), *cells, *gains])
    return rows


def write_summary(config: DictConfig, folder: RunFolder, callback: Any, prompt: Prompt, *, note: str = "") -> dict:
    """Print and save the table, draw the pictures, return the scores for the artefact's manifest.

    note: a line that belongs below the table.
    """
    records, metric = callback.latest["test"], callback.scorer.metric
    roles = {spec.name: spec.role for spec in callback.models}
    title = (
        f"{config.exp}: method {config.method.name}, seed {config.seed}, bounds {config.prompt.bounds}, test {metric} "
        "in %, gains in points with 95 % paired intervals"
    )
    headline = headline_text(metric, records, roles)
    print(headline)
    table = f"{headline}\n\n" + show_records(title, metric, records, roles, offset_records(callback))
    table += show_mapped(callback.scorer, "test", roles)
    table += "\n" + left_out_text(callback.scorer.datamodule, ("train", "val", "test"))
    if note:
        print(note)
        table += f"{note}\n"
    comparison = comparison_text(config)
    print(comparison)
    replace_file(folder.path / "table.md", f"{table}\n{comparison}\n".encode())
    draw_pictures(folder, callback, prompt)
    print(f"Pictures and table: {folder.path}/pictures, {folder.path}/table.md; the prompt as a file: {folder.prompt}")
    return {
        name: {given: estimate(metric, scores)._asdict() for given, scores in of_input.items()}
        for name, of_input in records.items()
    } | {"metric": metric, "split": "test"}


def headline_text(metric: str, records: Mapping[str, Mapping[str, Scores]], roles: Mapping[str, str]) -> str:
    """One line: the plain full-size picture against the framed one, on the source and on each model it never saw."""
    parts: dict[bool, list[str]] = {True: [], False: []}
    for name, of_input in records.items():
        if "full" not in of_input:
            continue
        plain, framed = (points(estimate(metric, of_input[given]).value) for given in ("full", "prompt"))
        gain = gain_text(paired_gain(metric, of_input["prompt"], of_input["full"]))
        parts[roles[name] == "source"].append(f"{name} {plain} -> {framed} ({gain})")
    learned, unseen = ("; ".join(parts[own]) for own in (True, False))
    heading = f"{metric} in %, plain full-size picture -> with the prompt (change, 95 %)"
    others = f" | on models that never saw it: {unseen}" if unseen else ""
    return f"{heading}: on {learned}, where it was learned{others}"


def offset_records(callback: Any) -> dict[str, Scores]:
    """mllm -> the full image's test record with K offsets fitted on its validation record.

    Both are what was scored or stored already; nothing where offsets mean nothing: rows with candidates of their own,
    a metric they cannot change, validation rows out of test (official).
    """
    scorer, found = callback.scorer, {}
    full = next((control for control in scorer.controls if control.name == "full"), None)
    if full is None or scorer.metric == "auroc" or one_list(scorer.datamodule, scorer.sizes) is None:
        return {}
    for spec in callback.models:
        val = callback.latest.get("val", {}).get(spec.name, {}).get("full")
        if val is not None and val.written:
            continue  # a written answer has no scores to add a number to
        if val is None:  # a run continued after its last validation
            val = scorer.store.load(full, **scorer.store_key(spec, "val", scorer.sizes["val"]))
        record = offset_record(val, callback.latest["test"][spec.name].get("full"))
        if record is not None:
            found[spec.name] = record
    return found


def show_records(
    title: str, metric: str, records: Mapping, roles: Mapping[str, str], offsets: Mapping[str, Scores] | None = None
) -> str:
    """Print the table of scores and gains and the PNG's difference; return the same as Markdown.

    offsets: as in `model_rows`.
    """
    names = [*INPUT_NAMES.values()]
    if offsets:
        names.insert(len(CONTROLS), OFFSETS_NAME)
    header = ["model", "n", *names, *(f"gain over {INPUT_NAMES[control]}" for control in CONTROLS)]
    rows = model_rows(metric, records, roles, offsets)
    print_table(title, header, rows, scores=len(names))
    difference = png_difference(metric, records)
    if offsets:
        difference = f"{OFFSETS_NOTE}\n{difference}"
    print(difference)
    groups = group_rows(metric, records)
    if groups:
        by_group = markdown(["model: group", "n", *INPUT_NAMES.values()], groups)
        print(by_group)
        difference = f"{difference}\n\n{by_group}"
    return f"# {title}\n\n{markdown(header, rows)}\n{difference}\n"


def show_mapped(scorer: Any, split: str, roles: Mapping[str, str]) -> str:
    """`show_records` of the scores read through label maps (`targets.label_mapping`); empty where none was fitted."""
    mapped = {name: scorer.mapped[split, name] for name in roles if (split, name) in scorer.mapped}
    if not mapped:
        return ""
    title = f"The same through label maps ({MAPPED}), fitted on validation labels of the very model they are shown for"
    return "\n" + show_records(title, scorer.metric, mapped, roles)


def group_rows(metric: str, records: Mapping[str, Mapping[str, Scores]]) -> list[list[str]]:
    """One row per model and sub-test (POPE's random, popular, adversarial), where there are several: every score."""
    rows = []
    for name, of_input in records.items():
        groups = sorted(set(of_input["prompt"].groups))
        for group in groups if len(groups) > 1 else []:
            at = np.array([i for i, own in enumerate(of_input["prompt"].groups) if own == group])
            parts = {given: scores.take(at) for given, scores in of_input.items()}
            cells = [points(estimate(metric, parts[i]).value) if i in parts else "-" for i in INPUT_NAMES]
            rows.append([f"{name}: {group or 'no group'}", count_text(parts["prompt"]), *cells])
    return rows


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], scores: int) -> None:
    """Tables for people, one model a row: the scores (so many), then the gains; in a narrow terminal two at a time."""
    console = Console(width=None if Console().is_terminal else 160)
    cut, most = 2 + scores, len(CONTROLS) if console.width >= 110 else 2
    gains = [[0, *range(at, min(at + most, len(header)))] for at in range(cut, len(header), most)]
    for columns in ([*range(cut)], *gains):
        table = Table(title=title if 1 in columns else None, title_justify="left")
        for column in columns:
            justify: Any = "right" if column else "left"
            table.add_column(header[column], justify=justify, no_wrap=column == 0 or column >= cut)
        for row in rows:
            table.add_row(*(row[column] for column in columns))
        console.print(table)


def png_difference(metric: str, records: Mapping[str, Mapping[str, Scores]]) -> str:
    """How far the score of the PNG read back from disk is from the float prompt's, per model."""
    parts = []
    for name, of_input in records.items():
        if "png" in of_input:
            gain = paired_gain(metric, of_input["png"], of_input["prompt"])
            parts.append(f"{name} {100 * gain.value:+.2f}")
    return "PNG read back from disk minus float prompt, in points: " + ", ".join(parts)


def comparison_text(config: DictConfig) -> str:
    """What the committed sweep of one source found on this data set, for the recipes it is made of."""
    world = next((world for world in COMPARISONS if config.exp.startswith(world)), None)
    found = kept_statistics(COMPARISONS[world]) if world else {"metrics": {}}
    if config.data.name not in found["metrics"]:
        return f"No committed comparison of methods for '{config.exp}' on {config.data.name}."
    gains = {
        (e["method"], e["over"], e["control"]): Estimate(e["value"], e["low"], e["high"], e["interval"], e["n"])
        for e in found["methods"]
        if e["data"] == (config.data.name if len(found["metrics"]) > 1 else "")
    }
    sides = [(over, control) for over in ("source", "targets") for control in ("full", "black", "replicate")]
    names = sorted({e["method"] for e in found["methods"]}, key=lambda m: (METHODS.index(m) if m in METHODS else 99, m))
    rows = [[m, *(gain_text(gains[m, *side]) for side in sides)] for m in names]
    whose = {"source": "own source", "targets": "other models"}
    source, seeds = found["pairs"][0]["source"], found["methods"][0]["seeds"]
    where = f"{source}, {config.data.name}, {seeds} seeds"
    title = f"Committed comparison of recipe '{world}' (`make table EXP={world}` makes it): {where}, gain in points"
    header = ["method", *(f"{whose[over]}: over {INPUT_NAMES[control]}" for over, control in sides)]
    return f"{title}:\n\n{markdown(header, rows)}"


def draw_pictures(folder: RunFolder, callback: Any, prompt: Prompt) -> None:
    """The border magnified, and a contact sheet of prompted test examples with the source's answers."""
    pictures = folder.path / "pictures"
    pictures.mkdir(exist_ok=True)
    draw_prompt(prompt).save(pictures / "prompt.png")
    draw_samples(callback, prompt, "test", "test examples").save(pictures / "examples.png")
