"""Prompted test pictures with what every model answered before and after, and the samples a prompt turned wrong."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import NamedTuple

import numpy as np

from experiments.report.load import CellKey, Material
from experiments.report.markup import options, table
from experiments.report.numbers import CONTROL_NAMES, TextTable, is_own, p_text, short, with_interval
from experiments.report.sections.gallery import Gallery
from experiments.report.sections.prompts import first_seeds

WORST_PAIRS, SAMPLES = 3, 6


class Regression(NamedTuple):
    """A sample answered right with the black border and wrong with the prompt. drop: of the right answer's lead."""

    id: str
    label: int
    before: int
    after: int
    drop: float


def examples_section(material: Material, gallery: Gallery) -> str:
    """The first test samples by id, not chosen by outcome, for every source and data set; one group shown at a time."""
    chosen = [c for c in first_seeds(material.cells()) if c.method == material.method and c in material.runs]
    groups = []
    for cell in chosen:
        name = f"{short(cell.source)}, {cell.data}"
        inner = _example_cards(material, cell, gallery)
        if inner:
            groups.append((f"e{len(groups)}", name, f"<h3>{escape(name)}</h3><div class='examples'>{inner}</div>"))
    if not groups:
        return '<p class="none">No per-sample records were found for these prompts.</p>'
    pick = options("Learned on", "pick-example", [(key, name) for key, name, _ in groups], groups[0][0])
    shown = "".join(f'<div class="group" data-group="{key}">{html}</div>' for key, _, html in groups)
    return f'<div class="controls">{pick}</div><div class="groups" data-picker="pick-example">{shown}</div>'


def _example_cards(material: Material, cell: CellKey, gallery: Gallery) -> str:
    records = read_records(material, cell)
    if not records or "black" not in records[0].scores:
        return ""
    run, pictures = material.runs[cell], gallery.of(material.runs[cell])
    cards = []
    for place, key in enumerate(records[0].scores["prompt"].ids[: material.examples]):
        truth = int(records[0].scores["prompt"].labels[place])
        rows = []
        for record in sorted(records, key=lambda r: (r.role != "source", r.target)):
            before, after = (int(record.scores[given].predictions[place]) for given in ("black", "prompt"))
            name = short(record.target) + (" (source)" if record.role == "source" else "")
            rows.append(
                f'<tr><th scope="row">{escape(name)}</th>{_answer(pictures.answer(key, before), before == truth)}'
                f"{_answer(pictures.answer(key, after), after == truth)}</tr>"
            )
        right = pictures.answer(key, truth)
        cards.append(
            f'<figure class="example">{gallery.frame(run, key, f"Test sample {key} with the prompt; right: {right}")}'
            f"<figcaption><b>{escape(right)}</b> <small>{escape(key)}</small></figcaption>"
            '<table><thead><tr><th scope="col">model</th><th scope="col">black border</th>'
            f'<th scope="col">prompt</th></tr></thead><tbody>{"".join(rows)}</tbody></table></figure>'
        )
    return "".join(cards)


def _answer(text: str, right: bool) -> str:
    word = "right" if right else "wrong"
    return f'<td class="{word}"><span aria-label="{word}">{"✓" if right else "✗"}</span> {escape(text)}</td>'


def read_records(material: Material, cell: CellKey) -> list:
    """Per-sample records of one prompt, from samples/ or the run's own scores; none where they are damaged."""
    from experiments.run.folder import run_roles, run_scores
    from experiments.sweep.samples import Record, read_samples

    path = material.folder / "samples" / f"{cell.label}.parquet"
    try:
        if path.is_file():
            return read_samples(path)
        folder = material.runs[cell].folder
        roles, metric = run_roles(folder), material.statistics["metrics"][cell.data]
        return [Record(cell.source, t, *cell[1:], "", metric, roles[t], s) for t, s in run_scores(folder).items()]
    except (OSError, ValueError, KeyError):
        return []


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
                p_text(pair["gains"]["black"]["p_holm"]),
                f"{pair['n']} × {len(pair['seeds'])}",
                pair["data"],
                kind,
            ]
        )
    header = ["source → target", "method"]
    header += [f"over {CONTROL_NAMES[c]}" for c in material.statistics["controls"]] + [
        "p (Holm, black)",
        "n × seeds",
        "data set",
        "they share",
    ]
    caption = (
        f"The {most} lowest gains over the black border among learned prompts, in points, mean over seeds; "
        "95 % interval over test images and seeds."
    )
    return TextTable(caption, header, rows)


def regressions_section(material: Material, gallery: Gallery) -> str:
    """The worst pairs as a table, and samples of the worst pairs of the main method that the prompt turned wrong."""
    parts = [table(regression_table(material), classes="dense")]
    pairs = [p for p in worst_pairs(material, 10**6) if p["method"] == material.method][:WORST_PAIRS]
    for pair in pairs:
        cell = CellKey(pair["source"], pair["data"], pair["method"], pair["seeds"][0])
        record = next((r for r in read_records(material, cell) if r.target == pair["target"]), None)
        if record is not None and "black" in record.scores:
            parts.append(_pair(material, cell, record, gallery))
    return "".join(parts)


def _pair(material: Material, cell: CellKey, record: object, gallery: Gallery) -> str:
    lost, gained = regressions(record)
    title = (
        f"{short(record.target)} with the {cell.method} prompt of {short(cell.source)} on {cell.data}, seed "
        f"{cell.seed}: {len(lost)} of n {len(record.scores['prompt'].ids)} samples turned from right to wrong, "
        f"{gained} from wrong to right"
    )
    cards = "".join(_sample(material, cell, sample, gallery) for sample in lost[:SAMPLES])
    return f"<h3>{escape(title)}</h3><div class='examples'>{cards}</div>"


def regressions(record: object) -> tuple[list[Regression], int]:
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


def _sample(material: Material, cell: CellKey, sample: Regression, gallery: Gallery) -> str:
    pictures = gallery.of(material.runs[cell]) if cell in material.runs else None
    words = [pictures.answer(sample.id, i) if pictures else f"candidate {i}" for i in sample[1:4]]
    shown = (
        gallery.frame(material.runs[cell], sample.id, f"Test sample {sample.id} with the prompt") if pictures else ""
    )
    return (
        f'<figure class="example">{shown}<figcaption><b>{escape(words[0])}</b> <small>{escape(sample.id)}</small>'
        f'</figcaption><p class="turn"><span class="right">✓ {escape(words[1])}</span> → '
        f'<span class="wrong">✗ {escape(words[2])}</span><br><small>lead of the right answer '
        f"{-sample.drop:+.2f} nats a token</small></p></figure>"
    )
