"""Cuts a full golden set down to the compact copy that travels with the tests.

    python tests/support/make_golden_copy.py FULL_GOLDEN_FOLDER [tests/data/golden] [model ...]

Keeps the weights and what the plain (EVP) step, the losses and the scores need; drops the recordings of the TSE and FCA
steps, which need a CLIP beside them, and the largest arrays whose norm is recorded as well. No file over 2 MB,
the whole under 10 MB.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np

DROPPED = ("train_tse", "train_fca_tse", "train_readme", "image_normalized", "loss_mixed_image_grad")
DROPPED_OF = {"blip2_t5": ("train_plain_step0_grad_mean",)}
UNUSED = ("bert-base-uncased", "generation_config.json")
MAX_FILE, MAX_ALL = 2_000_000, 10_000_000
MODELS = ("minigpt4", "blip2_t5")


def copy_model(source: Path, target: Path) -> None:
    """One model's folder: JSON as it is, arrays trimmed, weights without what this model does not read."""
    reads_text = (source / "weights" / "lmsys").exists() or source.name == "bliva"
    unused = UNUSED[1:] if reads_text else UNUSED
    shutil.copytree(source / "weights", target / "weights", ignore=shutil.ignore_patterns(*unused))
    for name in ("config.json", "golden.json"):
        shutil.copy(source / name, target / name)
    dropped = DROPPED + DROPPED_OF.get(source.name, ())
    with np.load(source / "golden.npz") as arrays:
        kept = {name: arrays[name] for name in arrays.files if not name.startswith(dropped)}
    np.savez_compressed(target / "golden.npz", **kept)


def check_sizes(folder: Path) -> int:
    """Total bytes. Raises ValueError when a file or the whole is too large for a repository."""
    sizes = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    large = [f"{path} ({size} bytes)" for path, size in sizes.items() if size > MAX_FILE]
    if large or sum(sizes.values()) > MAX_ALL:
        raise ValueError(f"The copy is too large: {sum(sizes.values())} bytes, files over {MAX_FILE}: {large}.")
    return sum(sizes.values())


def main(source: str, target: str = "tests/data/golden", *models: str) -> None:
    for model in models or MODELS:
        folder = Path(target) / model
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        copy_model(Path(source) / model, folder)
        for path in folder.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
    print(f"{target}: {check_sizes(Path(target))} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
