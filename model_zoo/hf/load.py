"""An adapter from a local Hugging Face folder: safetensors only, no remote code, nothing from the network."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from model_zoo.hf.families import family_of
from model_zoo.hf.folder import model_type, require_folder

TILES = ("one", "official")
OFFLINE: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


def load_hf(
    *,
    name: str,
    weights: Path,
    dtype: str = "float32",
    official: bool = False,
    tiles: str = "one",
    **options: Any,
) -> Any:
    """The adapter of `hf:ORG/MODEL` or of a named entry, from its folder below the weights root.

    Args:
        tiles: `one` tile a picture, or as many as the `official` processor cuts.
        options: see `HuggingFaceMLLM`.

    Raises FileNotFoundError listing what is missing, ValueError for a folder that cannot work, saying why.
    """
    if tiles not in TILES:
        raise ValueError(f"Unknown tiles {tiles!r}. Expected one of {', '.join(TILES)}.")
    folder = require_folder(name, weights)
    return load_folder(name, folder, dtype=dtype, official=official, tiles=tiles, **options)


def load_folder(
    name: str, folder: Path, *, dtype: str = "float32", official: bool = False, tiles: str = "one", **options: Any
) -> Any:
    """See `load_hf`."""
    family = family_of(model_type(folder))
    config = AutoConfig.from_pretrained(folder, **OFFLINE)
    processor = AutoProcessor.from_pretrained(folder, **OFFLINE)
    model = AutoModelForImageTextToText.from_pretrained(
        folder, config=config, dtype=getattr(torch, dtype), use_safetensors=True, **OFFLINE
    )
    one = tiles == "one"
    if one and family.pinpoints:
        one_tile_(processor, model)
    module, kind = family.adapter.split(":")
    adapter = getattr(import_module(module), kind)(
        name,
        model,
        processor,
        tiles=tiles,
        options=family.one_tile if one else {},
        suffix=family.suffix and not processor.chat_template,
        official=official,
        **options,
    )
    return adapter.freeze_()


def one_tile_(processor: Any, model: Any) -> None:
    """Leave a single tile to choose from, where processor and model both hold the list."""
    size = processor.image_processor.size
    side = size["shortest_edge"] if "shortest_edge" in size else size["height"]
    processor.image_processor.image_grid_pinpoints = model.config.image_grid_pinpoints = [[side, side]]
