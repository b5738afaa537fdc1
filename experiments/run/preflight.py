"""What is looked at before a run begins: missing weights and data, and every picture it will use."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datamodules.writable import note_unwritable_caches, require_writable
from experiments.run.build import RunParts, used_splits
from lightning_modules.atomic import replace_file
from model_zoo.hf.catalogue import TINY_PREFIX
from model_zoo.hf.folder import folder_of
from model_zoo.registry import canonical, is_served, missing_clip, missing_files
from model_zoo.weights.layouts import fetch_hint


def read_images(parts: RunParts, folder: Path | None) -> None:
    """One that cannot be read stops the run here, named, before anything is trained.

    It is the fingerprints that read the images, which are needed later anyway. folder: where `left_out.json` goes;
    None on all ranks but the first.
    """
    used = used_splits(parts.config)
    for split, n in used.items():
        parts.datamodule.fingerprint(split, n)
    if folder is not None:
        report_left_out(parts.datamodule, list(used), folder)


def report_left_out(datamodule: Any, splits: Sequence[str], folder: Path | None) -> None:
    """Print what is left out of these splits, and write it to `left_out.json`; nothing where nothing is."""
    text = left_out_text(datamodule, splits)
    if text:
        print(text)
    if text and folder is not None:
        rows = {split: [row._asdict() for row in datamodule.left_out(split)] for split in splits}
        replace_file(folder / "left_out.json", (json.dumps(rows, indent=1) + "\n").encode())


def left_out_text(datamodule: Any, splits: Sequence[str]) -> str:
    """Which rows `max_corrupt` left out of these splits and why, a line each; empty when none."""
    lines = []
    for split in splits:
        gone = datamodule.left_out(split)
        if gone:
            lines.append(f"Left out of {split}, as the image cannot be read (max_corrupt): {len(gone)} row(s)")
            lines += [f"  {row.id}: {row.reason}" for row in gone]
    return "\n".join([*lines, ""]) if lines else ""


def require_places(parts: RunParts, folder: Path | None = None) -> None:
    """Try every folder the run writes; a cache that cannot be written is only said, as the run can do without.

    folder: that of a run that goes on. On all ranks but the first nothing is tried: the folder is the first one's.
    Raises: OSError naming the folder and the setting that chooses it.
    """
    config = parts.config
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return
    if folder is not None:
        setting = "resume=DIR (a copy of it)"
        require_writable(folder, "the run folder", setting, inside=True)
    else:
        require_writable(config.out or Path("runs", config.exp), "the run folder", "out=DIR")
    wanted = ["controls", "images"]
    wanted += ["features"] if config.train.feature_cache != "off" and config.method.fca else []
    wanted += ["decoded"] if config.data.cache else []
    note_unwritable_caches(wanted)


def write_tiny_models(parts: RunParts) -> None:
    """Write the tiny random models of a run that are not there: no hub holds them, so nothing else could bring them."""
    from model_zoo.hf.tiny.families import TINY
    from model_zoo.hf.tiny.write import write_tiny

    for spec in parts.models:
        family = spec.name.removeprefix(TINY_PREFIX)
        if spec.name.startswith(TINY_PREFIX) and family in TINY:
            folder = folder_of(spec.name, spec.weights)
            if write_tiny(family, folder):
                print(f"Wrote a tiny random {family} into '{folder}'.")


def require_everything(parts: RunParts) -> None:
    """Every missing weight and data file, all at once and before anything is created.

    Raises:
        FileNotFoundError: one block per missing thing: what, where to put it, where it is published.
        ValueError: an unknown model or data set, or a monitor that reads what it may not.
    """
    blocks = missing_things(parts)
    if blocks:
        raise FileNotFoundError("\n".join([*blocks, "See docs/models.md and docs/data.md. Nothing was created."]))


def missing_things(parts: RunParts) -> list[str]:
    """A block of text for every model, and for the data set, whose files are not all there."""
    config, folders = parts.config, {(spec.name, spec.weights): None for spec in parts.models}
    _ = parts.monitor  # refuses what may not steer
    wanted = [
        (f"answer of {name}" if is_served(name) else f"{name} weights in '{weights}'", missing_with_hint(name, weights))
        for name, weights in folders
    ]
    if config.method.tse:
        weights = config.source.weights
        wanted.append((f"CLIP weights for the TSE loss in '{weights}'", missing_clip(config.method.clip, weights)))
    wanted.append((f"{config.data.name} data in '{config.data.root}'", parts.datamodule.missing()))
    return ["\n  ".join([f"No {what}. Expected:", *lines]) for what, lines in wanted if lines]


def missing_with_hint(name: str, weights: str) -> list[str]:
    """The missing files of a model and the command that gets them; empty when none is missing."""
    lines = missing_files(name, weights)
    return [*lines, *fetch_hint(canonical(name), Path(weights))] if lines else []
