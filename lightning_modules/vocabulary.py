"""The words of results, said once: inputs and controls, methods, tasks with their metrics, roles, splits. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

from datamodules.splits import SPLITS as SPLITS
from lightning_modules.prompt_kinds import prompt_kind

CONTROL_NAMES = {
    "full": "full image",
    "black": "black border",
    "constant": "best constant border (own labels)",
    "replicate": "replicate padding",
}
"""Inputs without a learned prompt that a gain is stated against, with their names for people.

own labels: the colour is chosen by labelled validation rows of the very model it stands beside (docs/method.md).
"""

CONTROLS = tuple(CONTROL_NAMES)

INPUT_NAMES = CONTROL_NAMES | {"prompt": "prompted", "png": "from PNG"}
"""All inputs a model is scored on; `png` is the prompt read back from its 8-bit file."""


def file_part(name: str) -> str:
    """A model's name as part of a file's name.

    >>> file_part("hf:Qwen/Qwen3-VL-2B-Instruct")
    'hf--Qwen--Qwen3-VL-2B-Instruct'
    """
    return name.replace(":", "--").replace("/", "--")


METHODS = ("none", "vp", "evp", "tvp")
"""In the order of tables; any other method follows by name."""

TASK_METRICS = {
    "recognition": ("top1", "top5"),
    "counting": ("accuracy", "mae"),
    "reasoning": ("auroc", "accuracy"),
    "hallucination": ("accuracy", "precision", "recall", "f1", "yes_ratio"),
}
"""Task -> its metrics, the primary one first (see `metrics.py`)."""

MAPPED = "top1_mapped"
"""top1 as read through a label map (see `label_mapping.py`)."""

ROLES = ("source", "select", "heldout")
"""What a model is to a run: learned on; a target that may steer choices; a target that may not."""


def members(source: str) -> list[str]:
    """The models a prompt was learned on: several where a source is called `a+b`."""
    return source.split("+")


INITS = ("zero", "normal", "grey", "replicate")
"""What a prompt can start from."""


def check_init(how: str, kind: str, bounds: str = "image") -> None:
    """Raises ValueError for a start that a kind of prompt cannot have: what is added to pixels is no border itself."""
    if prompt_kind(kind).is_added and how in ("grey", "replicate"):
        raise ValueError(
            f"prompt.init={how} is a border by itself, and a prompt of kind {kind} is ADDED to pixels the image "
            "already has there. Expected prompt.init=zero or normal, or a prompt that pads (prompt.kind=pad or scaled; "
            "the methods evp and tvp do by themselves)."
        )
    if bounds == "sigmoid" and how == "zero":
        raise ValueError(
            "prompt.init=zero is black, which a sigmoid never reaches and where it has no gradient. Expected "
            "prompt.init=grey, replicate or normal beside prompt.bounds=sigmoid."
        )


THROUGH = ("8bit", "png", "jpeg", "resize")
"""What prompted frames can go through while a prompt is learned; a PNG is 8 bits."""


def check_through(ways: Sequence[str]) -> None:
    """Raises ValueError for a word that is none of THROUGH, or one that comes twice."""
    for way in ways:
        if way not in THROUGH:
            raise ValueError(f"Unknown '{way}' in method.through. Available: {', '.join(THROUGH)}.")
    if len(set(ways)) < len(ways):
        raise ValueError(f"method.through names one change twice: {', '.join(ways)}. Expected each at most once.")


def read_sent(ways: Sequence[str]) -> list[tuple[str, float]]:
    """`8bit`, `jpeg:75`, `resize:0.5` as (way, number), what frames go through before they are scored.

    Raises:
        ValueError: an unknown way, or a number that is missing, not asked for or out of range.
    """
    found = []
    for word in ways:
        way, colon, text = word.partition(":")
        number = _number(text) if colon else None
        whole = way == "jpeg" and number is not None and number == int(number) and 1 <= number <= 100
        if not (whole or (way == "resize" and number is not None and 0 < number <= 4)) and word not in ("8bit", "png"):
            raise ValueError(
                f"Cannot read '{word}' of targets.through. Expected 8bit, png, jpeg:QUALITY from 1 to 100, or "
                "resize:FACTOR of the side, up to 4; for example [resize:0.5,jpeg:75]."
            )
        found.append((way, number or 0.0))
    return found


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
