"""Q-Former checkpoints of LAVIS, MiniGPT-4 and BLIVA as transformers Q-Formers and a `QFormerConnector`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model_zoo.connectors import QFormerConnector
from model_zoo.weights.eva import known_heads, load_vision
from model_zoo.weights.safe import assign_weights_, complain, load_tensors, take_prefix

HEADS = {768: 12}
"""Attention heads by width (BERT base)."""

UNUSED = re.compile(r"bert\.embeddings\.position_ids$|^cls\.")
KNOWN = ("Qformer.", "ln_vision.", "query_tokens")


def convert_qformer(tensors: Mapping[str, Tensor], *, reads_text: bool) -> dict[str, Tensor]:
    """Names below `Qformer.` to those of `InstructBlipQFormerModel` (reads_text) or `Blip2QFormerModel`."""
    norm = "embeddings.layernorm." if reads_text else "layernorm."
    state = {}
    for key, value in tensors.items():
        if UNUSED.search(key):
            continue
        key = key.removeprefix("bert.").replace("embeddings.LayerNorm.", norm)
        state[re.sub(r"\.(cross)?attention\.self\.", r".\1attention.attention.", key)] = value
    return state


def qformer_config(state: Mapping[str, Tensor], heads: int | None, *, reads_text: bool) -> dict[str, Any]:
    """Architecture numbers read off the shapes."""
    layers = 1 + max(int(m[1]) for key in state if (m := re.match(r"encoder\.layer\.(\d+)\.", key)))
    crossing = sorted(
        int(m[1])
        for key in state
        if (m := re.match(r"encoder\.layer\.(\d+)\.crossattention\.attention\.key\.weight", key))
    )
    width, encoder_width = state["encoder.layer.0.crossattention.attention.key.weight"].shape
    numbers = {
        "hidden_size": width,
        "encoder_hidden_size": encoder_width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads or known_heads(HEADS, width, "qformer_heads"),
        "intermediate_size": state["encoder.layer.0.intermediate_query.dense.weight"].shape[0],
        "cross_attention_frequency": crossing[1] - crossing[0] if len(crossing) > 1 else layers,
        "layer_norm_eps": 1e-12,
    }
    if reads_text:
        numbers["vocab_size"] = state["embeddings.word_embeddings.weight"].shape[0]
        numbers["max_position_embeddings"] = state["embeddings.position_embeddings.weight"].shape[0]
    return numbers


def load_qformer(
    tensors: Mapping[str, Tensor], dtype: torch.dtype, source: str, *, reads_text: bool, heads: int | None = None
) -> nn.Module:
    """The Q-Former from a checkpoint's tensors (full names, `Qformer.` in front)."""
    from transformers import (
        Blip2QFormerConfig,
        Blip2QFormerModel,
        InstructBlipQFormerConfig,
        InstructBlipQFormerModel,
    )

    state = convert_qformer(take_prefix(tensors, "Qformer."), reads_text=reads_text)
    needed = ["encoder.layer.0.crossattention.attention.key.weight", "encoder.layer.0.intermediate_query.dense.weight"]
    needed += ["embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight"] if reads_text else []
    complain(source, missing=[f"Qformer.bert.{key}" for key in needed if key not in state])
    config_class = InstructBlipQFormerConfig if reads_text else Blip2QFormerConfig
    model_class = InstructBlipQFormerModel if reads_text else Blip2QFormerModel
    with torch.device("meta"):
        model = model_class(config_class(**qformer_config(state, heads, reads_text=reads_text)))
    if reads_text:
        ids = torch.arange(model.config.max_position_embeddings).unsqueeze(0)
        model.embeddings.register_buffer("position_ids", ids, persistent=False)  # was built on meta
    return assign_weights_(model, state, dtype, source)


def load_linear(tensors: Mapping[str, Tensor], name: str, dtype: torch.dtype, source: str) -> nn.Linear:
    """The projection `name` (weight and bias) of a checkpoint."""
    complain(source, missing=[f"{name}.{part}" for part in ("weight", "bias") if f"{name}.{part}" not in tensors])
    rows, columns = tensors[f"{name}.weight"].shape
    with torch.device("meta"):
        linear = nn.Linear(columns, rows)
    return assign_weights_(linear, take_prefix(tensors, f"{name}."), dtype, source)


def load_connector(
    vision: Path,
    checkpoints: list[Path],
    projection: str,
    dtype: torch.dtype,
    *,
    reads_text: bool = False,
    patch_projection: str | None = None,
    unused: tuple[str, ...] = (),
    vision_heads: int | None = None,
    qformer_heads: int | None = None,
) -> QFormerConnector:
    """Vision tower, Q-Former and projections of a family; later checkpoints override earlier ones.

    `unused` names prefixes a checkpoint may hold besides what is read; any other foreign key is refused by name.
    """
    tensors: dict[str, Tensor] = {}
    for path in checkpoints:
        tensors |= load_tensors(path)
    source = ", ".join(str(path) for path in checkpoints)
    known = (*KNOWN, f"{projection}.", *([f"{patch_projection}."] if patch_projection else []), *unused)
    foreign = [key for key in tensors if not key.startswith(known)]
    required = ("query_tokens", "ln_vision.weight", "ln_vision.bias")
    complain(source, missing=[key for key in required if key not in tensors], unexpected=foreign)
    tower = load_vision(vision, take_prefix(tensors, "ln_vision."), dtype, heads=vision_heads)
    qformer = load_qformer(tensors, dtype, source, reads_text=reads_text, heads=qformer_heads)
    return QFormerConnector(
        tower,
        qformer,
        tensors["query_tokens"].to(dtype),
        load_linear(tensors, projection, dtype, source),
        load_linear(tensors, patch_projection, dtype, source) if patch_projection else None,
        reads_text=reads_text,
    )
