"""The text of `python -m datamodules list`: each data set, its size and licence, and what of it is below the root."""

from __future__ import annotations

from pathlib import Path

from datamodules.prepare.catalogue import PUBLISHED
from datamodules.prepare.catalogue_entry import Archive, PublishedData
from datamodules.prepare.manifest import Manifest
from datamodules.whole_files.disk import megabytes

OWN = {
    "imagefolder": "your own pictures, one folder per class: root=DIR with train/<class>/*.jpg, or <class>/*.jpg",
    "vqa_jsonl": "your own questions: .jsonl lines with image, question, answer and candidates",
    "emoji_*": "small rendered scenes from emoji art; come with the package, nothing to prepare",
}


def show_all(root: Path) -> str:
    """The published data sets, then those that need no preparation. Reads only manifests."""
    lines = []
    for name, published in PUBLISHED.items():
        lines += [f"{name:14} {published.task:14} {_size(published):>8}  {published.licence}"]
        lines += [f"{'':14} {published.what}", f"{'':14} {published.homepage}"]
        lines += [f"{'':14} {line}" for line in _states(name, published, root)]
    lines += ["", "Without preparation:", *(f"{name:14} {what}" for name, what in OWN.items())]
    return "\n".join(lines)


def _size(published: PublishedData) -> str:
    size = sum(choices[0].size or 0 for choices in published.parts())
    return megabytes(size) if size else "by hand"


def _states(name: str, published: PublishedData, root: Path) -> list[str]:
    try:
        dates = {target: part["date"] for target, part in Manifest(root, name).parts.items()}
    except ValueError as error:
        return [f"MISSING  {error}"]
    return [_state(choices, root, dates) for choices in published.parts()]


def _state(choices: list[Archive], root: Path, dates: dict[str, str]) -> str:
    for archive in choices:
        if (root / archive.target).exists():
            since = dates.get(archive.target)
            return f"there     {root / archive.target}" + (f" (prepared {since})" if since else " (not recorded yet)")
    return f"missing   {root / choices[0].target}"
