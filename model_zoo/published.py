"""Which original files every published MLLM needs, and where they are published. Data only; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from model_zoo.weights.index import shard_names

LAVIS = "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models"


LLAMA = ("config.json", "tokenizer.model")


class WeightFile(NamedTuple):
    """A file below the weights directory, or a folder that `holds` the named files besides its weight shards."""

    path: str
    what: str
    source: str
    holds: tuple[str, ...] = ()


EVA = WeightFile("hub/checkpoints/eva_vit_g.pth", "EVA-CLIP ViT-g/14 vision tower", f"{LAVIS}/BLIP2/eva_vit_g.pth")
BERT = WeightFile("bert-base-uncased/vocab.txt", "the Q-Former's tokenizer", "google-bert/bert-base-uncased (hub)")
VICUNA_V0 = WeightFile(
    "model_weights/vicuna-7b-v0",
    "Vicuna-7B v0: config.json, tokenizer.model, weight shards",
    "lmsys/vicuna-7b-delta-v0 (hub) applied to LLaMA-7B",
    holds=LLAMA,
)
VICUNA_V11 = WeightFile(
    "lmsys/vicuna-7b-v1.1",
    "Vicuna-7B v1.1: config.json, tokenizer.model, weight shards",
    "lmsys/vicuna-7b-delta-v1.1 (hub) applied to LLaMA-7B",
    holds=LLAMA,
)
FLAN_XL = WeightFile(
    "google/flan-t5-xl",
    "FlanT5-XL: config.json, spiece.model, weight shards",
    "google/flan-t5-xl (hub)",
    holds=("config.json", "spiece.model"),
)

FILES: dict[str, tuple[WeightFile, ...]] = {
    "minigpt4": (
        EVA,
        WeightFile(
            "hub/checkpoints/blip2_pretrained_flant5xxl.pth",
            "BLIP-2 Q-Former, queries and ln_vision",
            f"{LAVIS}/BLIP2/blip2_pretrained_flant5xxl.pth",
        ),
        WeightFile(
            "model_weights/prerained_minigpt4_7b.pth",
            "MiniGPT-4 llama_proj",
            "the 'Checkpoint Aligned with Vicuna 7B' linked in the Vision-CAIR/MiniGPT-4 README",
        ),
        VICUNA_V0,
    ),
    "instructblip": (
        EVA,
        WeightFile(
            "hub/checkpoints/instruct_blip_vicuna7b_trimmed.pth",
            "InstructBLIP Q-Former, queries, ln_vision and llm_proj",
            f"{LAVIS}/InstructBLIP/instruct_blip_vicuna7b_trimmed.pth",
        ),
        VICUNA_V11,
        BERT,
    ),
    "blip2": (
        EVA,
        WeightFile(
            "hub/checkpoints/blip2_pretrained_flant5xl.pth",
            "BLIP-2 Q-Former, queries, ln_vision and t5_proj",
            f"{LAVIS}/BLIP2/blip2_pretrained_flant5xl.pth",
        ),
        FLAN_XL,
    ),
    "bliva": (
        EVA,
        WeightFile(
            "model_weights/bliva_vicuna7b.pth",
            "BLIVA Q-Former, queries, ln_vision, llm_proj and vision_project",
            "mlpc-lab/BLIVA_Vicuna (hub)",
        ),
        VICUNA_V0,
        BERT,
    ),
}


def missing_lines(files: Sequence[WeightFile], weights: str | Path) -> list[str]:
    """One line per missing file: its path, what it is, where it is published."""
    return [f"{path}: {item.what}. Published: {item.source}" for item in files for path in _absent(item, Path(weights))]


def existing_files(files: Sequence[WeightFile], weights: str | Path) -> list[Path]:
    """The tensor files that exist, folders expanded to their shards."""
    found: list[Path] = []
    for item in files:
        path = Path(weights) / item.path
        parts = [path / name for name in shard_names(path)] if item.holds else [path]
        found += [part for part in parts if part.is_file() and part.suffix != ".txt"]
    return found


def require_files(name: str, weights: str | Path) -> None:
    """Raise ONE FileNotFoundError that lists every missing file of a published MLLM."""
    raise_missing(name, missing_lines(FILES[name], weights), weights)


def raise_missing(name: str, lines: Sequence[str], weights: str | Path) -> None:
    """Raise FileNotFoundError with the lines of missing files; nothing if there are none."""
    if lines:
        listing = "\n  ".join(lines)
        raise FileNotFoundError(
            f"No complete {name} weights in '{weights}'. Expected:\n  {listing}\nSee README, \"Weights\"."
        )


def _absent(item: WeightFile, weights: Path) -> list[str]:
    path = weights / item.path
    if not item.holds:
        return [] if path.is_file() else [item.path]
    if not path.is_dir():
        return [f"{item.path}/"]
    return [f"{item.path}/{name}" for name in (*item.holds, *shard_names(path)) if not (path / name).is_file()]
