"""The MLLMs by name, as data. Importing this loads neither torch nor transformers; `load_mllm` does."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from model_zoo.base import MLLM


class WeightFile(NamedTuple):
    """A file or folder below the weights directory. `folder` entries need a config, a tokenizer and their shards."""

    path: str
    what: str
    source: str
    folder: bool = False


class MLLMEntry(NamedTuple):
    """How to build one MLLM.

    factory: "module:function", called with weights, dtype, official and the options.
    parameters: approximate count, for a memory plan before anything is loaded.
    files: what must lie in the weights directory; empty for models whose weights ship inside the package.
    """

    factory: str
    description: str
    parameters: int
    files: tuple[WeightFile, ...] = ()


EVA = WeightFile(
    "hub/checkpoints/eva_vit_g.pth",
    "EVA-CLIP ViT-g/14 vision tower",
    "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2/eva_vit_g.pth",
)
QFORMER_XXL = WeightFile(
    "hub/checkpoints/blip2_pretrained_flant5xxl.pth",
    "BLIP-2 Q-Former, queries and ln_vision",
    "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2/blip2_pretrained_flant5xxl.pth",
)
VICUNA_V0 = WeightFile(
    "model_weights/vicuna-7b-v0",
    "Vicuna-7B v0: config.json, tokenizer.model and the weight shards",
    "lmsys/vicuna-7b-delta-v0 applied to LLaMA-7B",
    folder=True,
)
MINIGPT4 = WeightFile(
    "model_weights/prerained_minigpt4_7b.pth",
    "MiniGPT-4 llama_proj",
    "the checkpoint linked as 'Vicuna 7B' in the MiniGPT-4 repository",
)

EMBEDDED_FACTORY = "model_zoo.embedded.build:load_embedded"

REGISTRY: dict[str, MLLMEntry] = {
    "minigpt4": MLLMEntry(
        "model_zoo.loaders:load_minigpt4",
        "MiniGPT-4 (Vicuna-v0-7B): EVA ViT-g/14, BLIP-2 Q-Former, linear projection",
        7_830_000_000,
        (EVA, QFORMER_XXL, MINIGPT4, VICUNA_V0),
    ),
    "embedded_minigpt4": MLLMEntry(
        EMBEDDED_FACTORY, "tiny trained MiniGPT-4, 64 px, ships with the package", 1_000_000
    ),
    "embedded_instructblip": MLLMEntry(
        EMBEDDED_FACTORY, "tiny trained InstructBLIP, 64 px, ships with the package", 1_000_000
    ),
    "embedded_blip2": MLLMEntry(EMBEDDED_FACTORY, "tiny trained BLIP-2 T5, 64 px, ships with the package", 1_000_000),
    "embedded_bliva": MLLMEntry(EMBEDDED_FACTORY, "tiny trained BLIVA, 64 px, ships with the package", 1_000_000),
    "embedded_llava": MLLMEntry(
        EMBEDDED_FACTORY, "tiny trained LLaVA with a CNN tower, ships with the package", 1_000_000
    ),
}


def list_mllms() -> list[str]:
    """Registered names, sorted."""
    return sorted(REGISTRY)


def get_entry(name: str) -> MLLMEntry:
    """The registry entry. Raises ValueError with a suggestion for an unknown name."""
    if name in REGISTRY:
        return REGISTRY[name]
    close = get_close_matches(str(name).lower().replace("-", ""), REGISTRY, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    raise ValueError(f"Unknown MLLM '{name}'.{hint} Available: {', '.join(list_mllms())}")


def load_mllm(
    name: str, *, weights: str | Path = "weights", dtype: str = "float32", official: bool = False, **options: object
) -> MLLM:
    """A frozen MLLM with its weights. `options` go to the factory (`scoring`, `max_nodes`, head counts, ...).

    Raises ValueError for an unknown name, FileNotFoundError listing every missing file at once.
    """
    module, function = get_entry(name).factory.split(":")
    if is_embedded(name):
        options["name"] = name
    return getattr(import_module(module), function)(weights=weights, dtype=dtype, official=official, **options)


def is_embedded(name: str) -> bool:
    """Whether the weights ship inside the package."""
    return get_entry(name).factory == EMBEDDED_FACTORY


def weight_files(name: str, weights: str | Path = "weights") -> list[Path]:
    """Every existing file whose bytes decide the model's outputs, folders expanded to config, tokenizer and shards."""
    if is_embedded(name):
        return list(import_module("model_zoo.embedded.build").embedded_files(name))
    found: list[Path] = []
    for item in get_entry(name).files:
        path = Path(weights) / item.path
        found += folder_files(path) if item.folder else [path] if path.is_file() else []
    return found


def folder_files(folder: Path) -> list[Path]:
    """The weight shards (safetensors when present, else .bin) of a Hugging Face folder, sorted."""
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))


def missing_files(name: str, weights: str | Path = "weights") -> list[str]:
    """One line per missing file: its path, what it is, where it is published. Empty when all are there."""
    if is_embedded(name):
        files = import_module("model_zoo.embedded.build").embedded_files(name)
        return [f"{path}: part of the package; reinstall it" for path in files if not Path(path).exists()]
    return missing_lines(get_entry(name).files, weights)


def missing_lines(files: Sequence[WeightFile], weights: str | Path) -> list[str]:
    """`missing_files` for a list of files."""
    lines: list[str] = []
    for item in files:
        lines += [f"{path}: {item.what}. Published: {item.source}" for path in _absent(item, Path(weights))]
    return lines


def _absent(item: WeightFile, weights: Path) -> list[str]:
    path = weights / item.path
    if not item.folder:
        return [] if path.is_file() else [item.path]
    if not path.is_dir():
        return [item.path + "/"]
    from model_zoo.weights.index import shard_names

    wanted = ["config.json", *shard_names(path)]
    return [f"{item.path}/{name}" for name in wanted if not (path / name).is_file()]


def require_files(name: str, weights: str | Path = "weights") -> None:
    """Raise ONE FileNotFoundError that lists every missing file of an MLLM."""
    if lines := missing_files(name, weights):
        listing = "\n  ".join(lines)
        raise FileNotFoundError(
            f"No complete {name} weights in '{weights}'. Missing:\n  {listing}\nSee README, \"Weights\"."
        )


def model_fingerprint(name: str, weights: str | Path = "weights") -> str:
    """sha256 over the model's weight tensors, see `model_zoo.weights.fingerprint`."""
    from model_zoo.weights.fingerprint import fingerprint

    return fingerprint(weight_files(name, weights))
