"""The runs behind the page: scores, files, settings, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from experiments.report import tables
from experiments.report.load import CellKey, Material, Run, cell_of
from experiments.report.markup import details, paragraph, table
from experiments.report.numbers import CONTROL_NAMES, TextTable, change, is_own
from experiments.report.settings import as_text, common

MANY = 24
"""More runs than this are folded away."""


def runs_section(material: Material) -> str:
    """Every finished prompt with its scores, and its configuration: what all share once, the rest with each."""
    shared = common([run.config for run in material.runs.values() if run.config])
    rows = [_run_row(material, cell, shared) for cell in material.cells()]
    caption = (
        f"Learned prompts: prompted score on the source, and mean gain over the {CONTROL_NAMES[material.control]} "
        "on other targets in points (one seed each, no interval: the matrix has them)."
    )
    header = ["run", "state", "source score %", "mean target gain", "targets × n", "files", "its settings"]
    everything = details("Settings all runs share", f"<pre>{escape(as_text(shared))}</pre>")
    content = table(TextTable(caption, header, []), rows=rows)
    return everything + (details(f"All {len(rows)} runs", content) if len(rows) > MANY else content)


def _run_row(material: Material, cell: CellKey, shared: Mapping) -> str:
    entries = [e for e in material.statistics["cells"] if cell_of(e) == cell]
    own = [tables.score(e["value"]) for e in entries if is_own(e)]
    gains = [e["gains"][material.control]["value"] for e in entries if not is_own(e) and material.control in e["gains"]]
    run = material.runs.get(cell)
    texts = [
        run.state if run else "folder gone",
        own[0] if own else "–",
        change(sum(gains) / len(gains)) if gains else "–",
        f"{len(gains)} × {entries[0]['n']}",
    ]
    cells = "".join(f"<td>{escape(text)}</td>" for text in texts)
    return f'<tr><th scope="row">{escape(cell.label)}</th>{cells}{_files(run)}{_settings(run, shared)}</tr>'


def _files(run: Run | None) -> str:
    if run is None:
        return "<td>–</td>"
    base = "" if run.link == "." else f"{run.link}/"
    names = {"config": "config.yaml", "results": "results.jsonl", "prompt": "prompt/prompt.png"}
    links = [
        f'<a href="{escape(base + file)}">{word}</a>' for word, file in names.items() if (run.folder / file).exists()
    ]
    return f"<td>{' '.join(links)}</td>"


def _settings(run: Run | None, shared: Mapping) -> str:
    if run is None or not run.config:
        return "<td>config.yaml is missing or damaged</td>"
    own = {key: value for key, value in run.config.items() if key not in shared}
    return f"<td>{details(f'{len(own)} settings', f'<pre>{escape(as_text(own))}</pre>')}</td>"


def missing_section(material: Material) -> str:
    content = tables.missing(material.statistics)
    if content.rows:
        return table(content)
    return paragraph("Nothing is missing: every cell of the sweep has finished.")
