"""An adapter from a local Hugging Face folder: safetensors only, no remote code, nothing from the network."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from model_zoo.hf.families import Family, family_of
from model_zoo.hf.folder import model_type, require_folder, shards_of
from model_zoo.weights.headers import merged_headers

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
    model = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=getattr(torch, dtype), use_safetensors=True, **OFFLINE
    )
    return build_hf(name, folder, model, official=official, tiles=tiles, **options)


def build_hf(name: str, folder: Path, model: Any, *, official: bool = False, tiles: str = "one", **options: Any) -> Any:
    """An adapter around a model that is there, with the folder's processor."""
    family = family_of(model_type(folder))
    processor = load_processor(folder, family, tiles)
    if tiles == "one" and family.pinpoints:
        model.config.image_grid_pinpoints = processor.image_processor.image_grid_pinpoints
    module, kind = family.adapter.split(":")
    adapter = getattr(import_module(module), kind)(
        name,
        model,
        processor,
        tiles=tiles,
        options=tile_options(family, tiles),
        suffix=family.suffix and not processor.chat_template,
        official=official,
        **options,
    )
    return adapter.freeze_()


def load_processor(folder: Path, family: Family, tiles: str) -> Any:
    """The folder's processor; for one tile with a single tile to choose from, where it holds a list."""
    processor = AutoProcessor.from_pretrained(folder, **OFFLINE)
    if tiles == "one" and family.pinpoints:
        size = processor.image_processor.size
        side = size["shortest_edge"] if "shortest_edge" in size else size["height"]
        processor.image_processor.image_grid_pinpoints = [[side, side]]
    return processor


def tile_options(family: Family, tiles: str) -> dict[str, Any]:
    """Options of every call of the processor."""
    return dict(family.one_tile) if tiles == "one" else {}


def dry_load_hf(name: str, weights: Path, tiles: str = "one") -> Any:
    """What `load_hf` would return, on the meta device: no tensor is read, every shard's header is.

    Raises what `load_hf` raises, and ValueError where the shards do not hold the model's number of parameters.
    """
    folder = require_folder(name, weights)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder, **OFFLINE))
    model.tie_weights()
    there = sum(value.numel() for value in merged_headers(shards_of(name, weights)).values())
    wanted = sum(parameter.numel() for parameter in model.parameters())
    # A tied head may be stored twice; buffers may be stored or not.
    if not 0.99 * wanted <= there <= 1.5 * wanted:
        raise ValueError(
            f"{folder} holds {there / 1e6:,.1f} M numbers. Expected {wanted / 1e6:,.1f} M, as its config.json says; "
            "get the weights again."
        )
    return build_hf(name, folder, model, tiles=tiles)
