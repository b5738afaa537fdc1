"""A published MLLM from its files with every tensor left where it is: mapped, not read into memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model_zoo.base import MLLM


def dry_load(name: str, weights: Path) -> MLLM:
    """What `load_mllm` would return, through the same converters, with tensors mapped from their files.

    Raises what `load_mllm` raises.
    """
    from model_zoo.layouts import find_layout
    from model_zoo.loaders import build_adapter, load_parts
    from model_zoo.registry import get_entry, load_mllm

    if get_entry(name).embedded:
        return load_mllm(name)  # a megabyte: nothing to save
    return build_adapter(name, load_parts(name, find_layout(name, weights), None))
