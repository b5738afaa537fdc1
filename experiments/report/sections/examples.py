"""Prompted test pictures with what every model answered before and after, and the samples a prompt turned wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from experiments.report.load import CellKey, Group, Material, first_seeds, read_records
from experiments.report.numbers import TextTable, is_own, p_text, short, with_interval
from experiments.report.sections.gallery import Gallery
from experiments.sweep.samples import TransferRecord
from lightning_modules.vocabulary import CONTROL_NAMES

WORST_PAIRS, SAMPLES = 3, 6


class Regression(NamedTuple):
    """A sample answered right with the black border and wrong with the prompt. drop: of the right answer's lead."""

    id: str
    label: int
    before: int
    after: int
    drop: float


def examples_section(material: Material, gallery: Gallery) -> list[Group]:
    """The first test samples by id, not chosen by outcome, for every source and data set; one group shown at a time."""
    groups: list[Group] = []
    for cell in first_seeds(material.cells()):
        if cell.method == material.method and cell in material.runs:
            cards = _example_cards(material, cell, gallery)
            groups += [Group(f"e{len(groups)}", f"{short(cell.source)}, {cell.data}", cards)] if cards else []
    return groups


def _example_cards(material: Material, cell: CellKey, gallery: Gallery) -> list[dict[str, Any]]:
    records, run = read_records(material, cell), material.runs[cell]
    if not records or "black" not in records[0].scores:
        return []
    records = sorted(records, key=lambda r: (r.role != "source", r.target))
    first, cards = records[0].scores["prompt"], []
    for place, key in enumerate(first.ids[: material.examples]):
        truth = int(first.labels[place])
        right = gallery.answer(run, key, truth)
        rows = []
        for record in records:
            given = [int(record.scores[name].predictions[place]) for name in ("black", "prompt")]
            answers = [(gallery.answer(run, key, index), index == truth) for index in given]
            rows.append((short(record.target) + (" (source)" if record.role == "source" else ""), answers))
        image = gallery.frame(run, key, f"Test sample {key} with the prompt; right: {right}")
        cards.append({"id": key, "right": right, "image": image, "rows": rows})
    return cards


# ---- regressions ---------------------------------------------------------------------------------------------------
def worst_pairs(material: Material, most: int) -> list[Mapping]:
    """Pairs of learned methods with the lowest gain over the black border: what the prompt itself did."""
    pairs = [p for p in material.statistics["pairs"] if p["method"] != "none" and "black" in p["gains"]]
    pairs = [p for p in pairs if p["gains"]["black"]["value"] < 0]
    return sorted(pairs, key=lambda p: (p["gains"]["black"]["value"], p["source"], p["target"], p["method"]))[:most]


def regression_table(material: Material, most: int = 10) -> TextTable:
    rows = []
    for pair in worst_pairs(material, most):
        gains = [pair["gains"].get(control) for control in material.statistics["controls"]]
        kind = "the source itself" if is_own(pair) else pair["shared"]
        rows.append(
            [
                f"{short(pair['source'])} → {short(pair['target'])}",
                pair["method"],
                *(with_interval(gain) if gain else "–" for gain in gains),
                p_text(pair["gains"]["black"]["p"]),
                p_text(pair["gains"]["black"]["p_holm"]),
                f"{pair['n']} × {len(pair['seeds'])}",
                pair["data"],
                kind,
            ]
        )
    overs = [f"over {CONTROL_NAMES[c]}" for c in material.statistics["controls"]]
    header = ["source → target", "method", *overs, "p (black)", "p (Holm, black)"]
    header += ["n × seeds", "data set", "they share"]
    caption = (
        f"The {most} lowest gains over the black border among learned prompts, in points, mean over seeds; "
        "95 % interval over test images and seeds."
    )
    return TextTable(caption, header, rows)


def regressions_section(material: Material, gallery: Gallery) -> dict[str, Any]:
    """The worst pairs as a table, and samples of the worst pairs of the main method that the prompt turned wrong."""
    shown = []
    for pair in [p for p in worst_pairs(material, 10**6) if p["method"] == material.method][:WORST_PAIRS]:
        cell = CellKey(pair["source"], pair["data"], pair["method"], pair["seeds"][0])
        record = next((r for r in read_records(material, cell) if r.target == pair["target"]), None)
        if record is not None and "black" in record.scores:
            shown.append(_pair(material, cell, record, gallery))
    return {"worst": regression_table(material), "pairs": shown}


def _pair(material: Material, cell: CellKey, record: TransferRecord, gallery: Gallery) -> dict[str, Any]:
    lost, gained = regressions(record)
    title = (
        f"{short(record.target)} with the {cell.method} prompt of {short(cell.source)} on {cell.data}, seed "
        f"{cell.seed}: {len(lost)} of n {len(record.scores['prompt'].ids)} samples turned from right to wrong, "
        f"{gained} from wrong to right"
    )
    return {"title": title, "samples": [_sample(material, cell, sample, gallery) for sample in lost[:SAMPLES]]}


def _sample(material: Material, cell: CellKey, sample: Regression, gallery: Gallery) -> dict[str, Any]:
    run, indices = material.runs.get(cell), (sample.label, sample.before, sample.after)
    words = [gallery.answer(run, sample.id, index) if run else f"candidate {index}" for index in indices]
    image = gallery.frame(run, sample.id, f"Test sample {sample.id} with the prompt") if run else None
    return {"id": sample.id, "image": image, "drop": sample.drop} | dict(
        zip(("right", "before", "after"), words, strict=True)
    )


def regressions(record: TransferRecord) -> tuple[list[Regression], int]:
    """Samples turned wrong, the largest drop first; and how many were turned right."""
    before, after = record.scores["black"], record.scores["prompt"]
    drops = lead(before.scores, before.labels) - lead(after.scores, after.labels)
    turned = np.flatnonzero((before.correct > 0) & (after.correct == 0))
    order = sorted(turned, key=lambda i: (-drops[i], after.ids[i]))
    lost = [
        Regression(after.ids[i], int(after.labels[i]), int(before.predictions[i]), int(after.predictions[i]), drops[i])
        for i in order
    ]
    return lost, int(((before.correct == 0) & (after.correct > 0)).sum())


def lead(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N,) log-likelihood of the right candidate minus the best wrong one's."""
    rows = np.arange(len(labels))
    others = scores.astype(np.float64).copy()
    others[rows, labels] = -np.inf
    return scores[rows, labels] - others.max(1)
