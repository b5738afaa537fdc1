"""What is looked at before a run begins: missing weights and data, and every picture it will use."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from experiments.run.build import build_datamodule, monitor_key, source_specs, target_specs
from lightning_modules.atomic import replace_file


def read_images(config: DictConfig, datamodule: Any, folder: Path | None) -> None:
    """One that cannot be read stops the run here, named, before anything is trained.

    It is the fingerprints that read the images, which are needed later anyway. folder: where `left_out.json` goes;
    None on all ranks but the first.
    """
    sizes = {"train": None, "val": config.targets.n, "test": config.data.n_test}
    used = [split for split, n in sizes.items() if n != 0]
    for split in used:
        datamodule.fingerprint(split, sizes[split])
    if folder is not None:
        report_left_out(datamodule, used, folder)


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


def require_everything(config: DictConfig) -> None:
    """Every missing weight and data file, all at once and before anything is created.

    Raises:
        FileNotFoundError: one block per missing thing: what, where to put it, where it is published.
        ValueError: an unknown model or data set, or a monitor that reads what it may not.
    """
    blocks = missing_things(config)
    if blocks:
        raise FileNotFoundError("\n".join([*blocks, "See docs/models.md and docs/data.md. Nothing was created."]))


def missing_things(config: DictConfig) -> list[str]:
    """A block of text for every model, and for the data set, whose files are not all there."""
    from lightning_modules.metrics import primary_metric
    from model_zoo.registry import missing_files

    datamodule = build_datamodule(config)
    monitor_key(config, primary_metric(datamodule.task))
    blocks = []
    for name in dict.fromkeys(spec.name for spec in (*source_specs(config), *target_specs(config))):
        lines = missing_files(name, config.source.weights)
        if lines:
            blocks.append(f"No {name} weights in '{config.source.weights}'. Expected:\n  " + "\n  ".join(lines))
    if config.method.tse:
        blocks += _missing_clip(config)
    lines = datamodule.missing()
    if lines:
        blocks.append(f"No {config.data.name} data in '{config.data.root}'. Expected:\n  " + "\n  ".join(lines))
    return blocks


def _missing_clip(config: DictConfig) -> list[str]:
    from model_zoo.registry import missing_clip

    lines = missing_clip(config.method.clip, config.source.weights)
    return (
        ["\n  ".join([f"No CLIP weights for the TSE loss in '{config.source.weights}'. Expected:", *lines])]
        if lines
        else []
    )
