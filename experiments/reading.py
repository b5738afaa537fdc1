"""Every image a run will use, read before it trains; what `data.max_corrupt` leaves out, reported."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

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
