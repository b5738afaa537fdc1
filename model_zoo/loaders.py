"""Factories of the published MLLMs from their original checkpoint files (`published.py` says which).

All take `weights` (the directory), `dtype`, `official`, `vision_heads` and `qformer_heads` (which shapes do not tell;
known for the published widths, else from a manifest, see `head_counts`) and options for the adapter. They raise one
FileNotFoundError that lists every missing file, and ValueError for files that do not fit.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model_zoo.base import MLLM
from model_zoo.published import BERT, EVA, FILES, require_files
from model_zoo.weights.llm import load_llm, load_tokenizer
from model_zoo.weights.qformer import load_connector
from model_zoo.weights.safe import as_dtype

LLM_PREFIXES = ("t5_proj.", "opt_proj.")
"""Projections to another LLM that a Q-Former checkpoint may hold besides."""


def head_counts(weights: Path, options: dict[str, Any]) -> dict[str, int | None]:
    """Take vision_heads and qformer_heads out of `options`, else read them from a manifest.

    A manifest is a config.json in the weights directory or beside it with vision.heads and
    qformer.num_attention_heads, as small test checkpoints have. None leaves the published numbers.
    """
    given = {key: options.pop(key, None) for key in ("vision_heads", "qformer_heads")}
    for path in (weights / "config.json", weights.resolve().parent / "config.json"):
        if path.is_file():
            manifest = json.loads(path.read_text())
            found = {
                "vision_heads": manifest.get("vision", {}).get("heads"),
                "qformer_heads": manifest.get("qformer", {}).get("num_attention_heads"),
            }
            return {key: given[key] or found[key] for key in given}
    return given


def load_minigpt4(
    weights: str | Path = "weights",
    dtype: str | torch.dtype = "float32",
    official: bool = False,
    **options: Any,
) -> MLLM:
    """MiniGPT-4 (Vicuna-v0-7B): Q-Former of the BLIP-2 flan-t5-xxl file, `llama_proj` of its own."""
    from model_zoo.minigpt4 import MiniGPT4

    require_files("minigpt4", weights)
    root, dtype = Path(weights), as_dtype(dtype)
    _, qformer, projection, folder = (root / item.path for item in FILES["minigpt4"])
    connector = load_connector(
        root / EVA.path,
        [qformer, projection],
        "llama_proj",
        dtype,
        unused=LLM_PREFIXES,
        **head_counts(root, options),
    )
    options = {"image_size": connector.vision.config.image_size, **options}
    llm, tokenizer = load_llm(folder, dtype), load_tokenizer(folder)
    return MiniGPT4(connector, llm, tokenizer, official=official, **options).freeze_()


def load_blip2(
    weights: str | Path = "weights",
    dtype: str | torch.dtype = "float32",
    official: bool = False,
    **options: Any,
) -> MLLM:
    """BLIP-2 (FlanT5-XL). The feed-forward activation is the exact GELU: LAVIS overrides the folder's gelu_new."""
    from model_zoo.blip2 import Blip2T5

    require_files("blip2", weights)
    root, dtype = Path(weights), as_dtype(dtype)
    _, checkpoint, folder = (root / item.path for item in FILES["blip2"])
    connector = load_connector(
        root / EVA.path,
        [checkpoint],
        "t5_proj",
        dtype,
        **head_counts(root, options),
    )
    options = {"image_size": connector.vision.config.image_size, **options}
    llm, tokenizer = load_llm(folder, dtype, dense_act_fn="gelu"), load_tokenizer(folder)
    return Blip2T5(connector, llm, tokenizer, official=official, **options).freeze_()


def load_instructblip(
    weights: str | Path = "weights",
    dtype: str | torch.dtype = "float32",
    official: bool = False,
    *,
    extra_rows: tuple[Tensor, Tensor] | None = None,
    **options: Any,
) -> MLLM:
    """InstructBLIP (Vicuna-7B v1.1). `extra_rows`: the embedding and head row LAVIS adds at random for [PAD]."""
    from model_zoo.instructblip import InstructBLIP

    parts = _text_reading_parts("instructblip", weights, as_dtype(dtype), options, None, extra_rows)
    return InstructBLIP(*parts, official=official, **options).freeze_()


def load_bliva(
    weights: str | Path = "weights", dtype: str | torch.dtype = "float32", official: bool = False, **options: Any
) -> MLLM:
    """BLIVA (Vicuna-7B)."""
    from model_zoo.bliva import BLIVA

    parts = _text_reading_parts("bliva", weights, as_dtype(dtype), options, "vision_project", None)
    return BLIVA(*parts, official=official, **options).freeze_()


def _text_reading_parts(
    name: str,
    weights: str | Path,
    dtype: torch.dtype,
    options: dict[str, Any],
    patch_projection: str | None,
    extra_rows: tuple[Tensor, Tensor] | None,
) -> tuple[Any, ...]:
    """(connector, llm, tokenizer, qformer tokenizer); takes the head counts out of `options`, adds image_size."""
    require_files(name, weights)
    root = Path(weights)
    _, checkpoint, folder, _ = (root / item.path for item in FILES[name])
    connector = load_connector(
        root / EVA.path,
        [checkpoint],
        "llm_proj",
        dtype,
        reads_text=True,
        patch_projection=patch_projection,
        **head_counts(root, options),
    )
    options.setdefault("image_size", connector.vision.config.image_size)
    bert = load_tokenizer((root / BERT.path).parent)
    return connector, load_llm(folder, dtype, extra_rows=extra_rows), load_tokenizer(folder), bert
