"""Tiny complete Hugging Face folders of today's VLMs, those that `python -m model_zoo tiny` writes and more.

Each is written with `save_pretrained` and read like a downloaded one. Weights are widened, scalar gates opened, sliding
windows shorter than the prefix, so that planted faults show.
"""

from __future__ import annotations

from pathlib import Path

from model_zoo.hf.tiny.families import TINY
from model_zoo.hf.tiny.write import write_model
from support.hf_more import MORE
from support.hf_parts import Family

FITS = {"qwen2_5_vl": 56, "qwen3_vl": 64, "idefics3": None, "smolvlm": None}
FIRST = {name: Family(build, FITS.get(name, 28), 40) for name, build in TINY.items()}
FAMILIES: dict[str, Family] = FIRST | MORE


def write_folder(name: str, folder: Path) -> Path:
    """Write the tiny model of a family; returns the folder."""
    return write_model(*FAMILIES[name].build(), folder)
