"""The run of the recipe `modern_smoke`, in a folder of its own; a further target may be added."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiments.recipes import load_experiment

RECIPE = load_experiment([("exp", "modern_smoke")])
SOURCE, TARGETS = RECIPE.source.name, tuple(RECIPE.targets.heldout)
UPDATES = 30


def modern_words(out: Path, weights: Path, more: Sequence[str] = ()) -> list[str]:
    """Words of `python -m experiments.train`; more: targets beside the recipe's own."""
    heldout = ",".join((*TARGETS, *more))
    return ["exp=modern_smoke", f"out={out}", f"source.weights={weights}", f"targets.heldout=[{heldout}]"]
