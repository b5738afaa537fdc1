"""`python -m model_zoo check`: one finding per item, from the files to the names and shapes of every key."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from model_zoo.registry import canonical, contact_of, dry_load, get_entry, missing_files, weight_files
from model_zoo.weights.catalogue import PUBLISHED, WeightFile
from model_zoo.weights.layouts import WeightsLayout, complete_layout, converted_folder, folder_lines
from model_zoo.weights.structure import MISSING, NOTE, OK, WRONG, WeightsFinding, guarded, structure_findings


def check_all(name: str, weights: Path, *, show: Callable[[WeightsFinding], None]) -> list[WeightsFinding]:
    """Every finding, each handed to `show` as soon as it is known; later steps need the earlier ones to be well.

    Raises ValueError for an unknown name.
    """
    get_entry(name)
    name = canonical(name)
    findings: list[WeightsFinding] = []
    for item, step in ((str(weights), _files), ("structure", _structure), ("keys", _keys)):
        for finding in guarded(item, partial(step, name, weights)):
            show(finding)
            findings.append(finding)
        if any(finding.state in (WRONG, MISSING) for finding in findings):
            break
    return findings


def _files(name: str, weights: Path) -> list[WeightsFinding]:
    """Is every file there, a file (or folder) as it should be, and readable?"""
    if get_entry(name).embedded:
        absent = [WeightsFinding(MISSING, "package", line) for line in missing_files(name, weights)]
        return absent or [WeightsFinding(OK, path.name, _size(path)) for path in weight_files(name, weights)]
    if get_entry(name).served:
        there = contact_of(name, weights)
        text = f"{there.server} lists it; read by {there.way}. {there.why}".rstrip()
        return [WeightsFinding(OK, there.url, text)]
    if get_entry(name).hf:
        absent = [WeightsFinding(MISSING, *line.split(": ", 1)) for line in missing_files(name, weights)]
        return absent or [WeightsFinding(OK, path.name, _size(path)) for path in weight_files(name, weights)]
    if layout := other_layout(name, weights):
        text = f"the {layout.kind} layout; it is loaded instead of the original files"
        found = [WeightsFinding(OK, path.name, _size(path)) for path in layout.files]
        return [WeightsFinding(NOTE, str(layout.folder), text), *found]
    if folder := converted_folder(name, weights):
        return [WeightsFinding(MISSING, str(folder), line) for line in folder_lines(folder)]
    findings = []
    for item in PUBLISHED[name].files:
        findings += guarded(item.path, partial(_item, item, weights))
    return findings


def other_layout(name: str, weights: Path) -> WeightsLayout | None:
    """The converted or hub folder that would be loaded; None when the original files are what counts."""
    layout = complete_layout(name, weights)
    return layout if layout and layout.kind != "original" else None


def _item(item: WeightFile, weights: Path) -> list[WeightsFinding]:
    if item.holds and (weights / item.path).is_file():
        text = f"is a file. Expected a folder with {item.what}. Published: {item.source}"
        return [WeightsFinding(WRONG, item.path, text)]
    return [_file(part, weights / part, item) for part in item.parts(weights)]


def _file(label: str, path: Path, item: WeightFile) -> WeightsFinding:
    published = f"{item.what}. Published: {item.source}"
    if path.is_dir():
        return WeightsFinding(WRONG, label, f"is a folder. Expected the file itself: {published}")
    if not path.exists():
        return WeightsFinding(MISSING, label, published)
    if not os.access(path, os.R_OK):
        return WeightsFinding(WRONG, label, f"cannot be read. Expected read permission; try: chmod +r {path}")
    return WeightsFinding(OK, label, _size(path))


def _size(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 2**30:.2f} GiB" if size > 2**29 else f"{size:,} bytes"


def _structure(name: str, weights: Path) -> list[WeightsFinding]:
    if not get_entry(name).files or other_layout(name, weights) is not None:
        return []  # one folder of one model: its manifest or config names it
    return structure_findings(name, weights)


def _keys(name: str, weights: Path) -> list[WeightsFinding]:
    """Names and shapes of every key: the loader itself, on tensors that stay in their files."""
    if get_entry(name).served:
        return []
    sizes = [parameter.numel() for parameter in dry_load(name, weights).parameters()]
    found = f"{len(sizes)} tensors of the model, {sum(sizes) / 1e6:,.1f} M parameters, all present"
    digest = "no published digest to compare with; values are not checked"
    return [WeightsFinding(OK, "keys", found), WeightsFinding(NOTE, "digest", digest)]
