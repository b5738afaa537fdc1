"""What a folder costs, before its weights are read: tokens of a picture, and the sizes that memory follows from."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from model_zoo.hf.catalogue import hub_sizes
from model_zoo.hf.families import family_of
from model_zoo.hf.folder import model_type
from model_zoo.hf.load import OFFLINE, load_processor, tile_options
from model_zoo.hf.pixels import differentiable
from model_zoo.hf.prompt import Prompter
from model_zoo.memory.sizes import Sizes, Tower, language_of


@lru_cache(maxsize=64)
def visual_tokens(folder: Path, tiles: str, frame: int) -> int:
    """How many tokens the LLM reads of a frame's picture; the processor runs once, no weights are read."""
    return _looked_at(folder, tiles, frame)[1]


def _looked_at(folder: Path, tiles: str, frame: int) -> tuple[int, int]:
    """(patches the tower reads, tokens the LLM reads) of a frame."""
    family, config = family_of(model_type(folder)), AutoConfig.from_pretrained(folder, **OFFLINE)
    processor = load_processor(folder, family, tiles)
    suffix = family.suffix and not processor.chat_template
    images = differentiable(processor.image_processor)
    prompter = Prompter(processor, images, tile_options(family, tiles), suffix=suffix)
    pixels, vision = prompter.picture(frame).inputs["pixel_values"], config.vision_config
    numbers = 3 * one(vision.patch_size) ** 2 * one(getattr(vision, "temporal_patch_size", 1))
    return pixels.numel() // numbers, prompter.row("", frame).ids.count(config.image_token_id)


def folder_sizes(folder: Path, tiles: str, frame: int = 224) -> Sizes:
    """What memory follows from, of a model with a tower and an LLM of LLaMA's kind, from its configuration."""
    config = AutoConfig.from_pretrained(folder, **OFFLINE)
    vision, text = config.vision_config, config.get_text_config()
    patches, tokens = _looked_at(folder, tiles, frame)
    mlp = getattr(vision, "intermediate_size", None) or 4 * vision.hidden_size
    patch = one(vision.patch_size)
    layers = getattr(vision, "num_hidden_layers", None) or vision.depth
    heads = getattr(vision, "num_attention_heads", None) or vision.num_heads
    tower = Tower(vision.hidden_size, layers, mlp, heads, patches, round((patches * patch**2) ** 0.5), patch)
    tied = bool(getattr(config, "tie_word_embeddings", False))
    llm = language_of(text)._replace(kind="llama", tied=tied)
    return hub_sizes(tower, llm, tokens)


def one(sides: Any) -> int:
    """A size, of which a configuration may hold one for each axis."""
    return int(sides if isinstance(sides, int) else sides[0])
