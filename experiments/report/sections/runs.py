"""The runs behind the page: scores, files, settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.report.load import CellKey, Material, Run, cell_of
from experiments.report.numbers import change, is_own, score
from experiments.report.settings import as_text, common
from lightning_modules.vocabulary import CONTROL_NAMES

HEADER = ["run", "state", "source score %", "mean target gain", "targets × n", "files", "its settings"]
FILES = {"config": "config.yaml", "results": "results.jsonl", "prompt": "prompt/prompt.png"}


def runs_section(material: Material) -> dict[str, Any]:
    """Every finished prompt with its scores, and its configuration: what all share once, the rest with each."""
    shared = common([run.config for run in material.runs.values() if run.config])
    caption = (
        f"Learned prompts: prompted score on the source, and mean gain over the {CONTROL_NAMES[material.control]} "
        "on other targets in points (one seed each, no interval: the matrix has them)."
    )
    rows = [_row(material, cell, shared) for cell in material.cells()]
    return {"settings": as_text(shared), "table": {"caption": caption, "header": HEADER, "rows": rows}}


def _row(material: Material, cell: CellKey, shared: Mapping) -> list[Any]:
    """Label, texts, (word, link) of every file there is, the settings that not all share."""
    entries = [e for e in material.statistics["cells"] if cell_of(e) == cell]
    own = [score(e["value"]) for e in entries if is_own(e)]
    gains = [e["gains"][material.control]["value"] for e in entries if not is_own(e) and material.control in e["gains"]]
    run = material.runs.get(cell)
    texts = [
        run.state if run else "folder gone",
        own[0] if own else "–",
        change(sum(gains) / len(gains)) if gains else "–",
        f"{len(gains)} × {entries[0]['n']}",
    ]
    return [cell.label, texts, _links(run) if run else None, _settings(run, shared) if run else None]


def _links(run: Run) -> list[tuple[str, str]]:
    base = "" if run.link == "." else f"{run.link}/"
    return [(word, base + file) for word, file in FILES.items() if (run.folder / file).exists()]


def _settings(run: Run, shared: Mapping) -> dict[str, Any] | None:
    """None where config.yaml could not be read."""
    own = {key: value for key, value in run.config.items() if key not in shared}
    return {"count": len(own), "text": as_text(own)} if run.config else None
