"""Q-Former checkpoints of LAVIS, MiniGPT-4 and BLIVA as transformers Q-Formers and a `QFormerConnector`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model_zoo.connectors import QFormerConnector, random_qformer
from model_zoo.weights.eva import build_vision, convert_eva, known_heads, meta_vision
from model_zoo.weights.filling import Blueprint, Feed
from model_zoo.weights.headers import merged_headers
from model_zoo.weights.safe import Tensors, check_fit, complain, take_prefix

HEADS = {768: 12}
"""Attention heads by width (BERT base)."""

UNUSED = re.compile(r"bert\.embeddings\.position_ids$|^cls\.")
KNOWN = ("Qformer.", "ln_vision.", "query_tokens")


def convert_qformer(tensors: Tensors, *, reads_text: bool) -> dict[str, Tensor]:
    """Names below `Qformer.` to those of `InstructBlipQFormerModel` (reads_text) or `Blip2QFormerModel`."""
    norm = "embeddings.layernorm." if reads_text else "layernorm."
    state = {}
    for key, value in tensors.items():
        if UNUSED.search(key):
            continue
        key = key.removeprefix("bert.").replace("embeddings.LayerNorm.", norm)
        state[re.sub(r"\.(cross)?attention\.self\.", r".\1attention.attention.", key)] = value
    return state


def qformer_config(state: Tensors, heads: int | None, *, reads_text: bool) -> dict[str, Any]:
    """Architecture numbers read off the shapes."""
    layers = 1 + max(int(m[1]) for key in state if (m := re.match(r"encoder\.layer\.(\d+)\.", key)))
    crossing = [n for n in range(layers) if f"encoder.layer.{n}.crossattention.attention.key.weight" in state]
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


def build_qformer(tensors: Tensors, source: str, *, reads_text: bool, heads: int | None = None) -> nn.Module:
    """The Q-Former on the meta device, fit to a checkpoint's tensors (full names, `Qformer.` in front)."""
    state = convert_qformer(take_prefix(tensors, "Qformer."), reads_text=reads_text)
    needed = ["encoder.layer.0.crossattention.attention.key.weight", "encoder.layer.0.intermediate_query.dense.weight"]
    needed += ["embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight"] if reads_text else []
    complain(source, missing=[f"Qformer.bert.{key}" for key in needed if key not in state])
    qformer = meta_qformer(qformer_config(state, heads, reads_text=reads_text), reads_text=reads_text)
    check_fit(qformer, state, source)
    return qformer


def meta_qformer(config: Mapping[str, Any], *, reads_text: bool) -> Any:
    """An `InstructBlipQFormerModel` (reads_text) or `Blip2QFormerModel` on the meta device."""
    with torch.device("meta"):
        model = random_qformer(config, reads_text=reads_text)
    if reads_text:
        ids = torch.arange(model.config.max_position_embeddings).unsqueeze(0)
        model.embeddings.register_buffer("position_ids", ids, persistent=False)  # was built on meta
    return model


def meta_connector(
    vision: Mapping[str, Any],
    qformer: Mapping[str, Any],
    n_query: int,
    llm_width: int,
    *,
    reads_text: bool,
    patches: bool = False,
) -> QFormerConnector:
    """A connector on the meta device, from the numbers of its tower and Q-Former; `patches`: it projects those too."""
    tower, bert = meta_vision(vision), meta_qformer(qformer, reads_text=reads_text)
    width = bert.config.hidden_size
    return QFormerConnector(
        tower,
        bert,
        torch.empty(1, n_query, width, device="meta"),
        meta_linear(width, llm_width),
        meta_linear(tower.config.hidden_size, llm_width) if patches else None,
        reads_text=reads_text,
    )


def build_linear(tensors: Tensors, name: str, source: str) -> nn.Linear:
    """The projection `name` (weight and bias) of a checkpoint, on the meta device."""
    complain(source, missing=[f"{name}.{part}" for part in ("weight", "bias") if f"{name}.{part}" not in tensors])
    linear = meta_linear(*reversed(tensors[f"{name}.weight"].shape))
    check_fit(linear, take_prefix(tensors, f"{name}."), source)
    return linear


def meta_linear(columns: int, rows: int) -> nn.Linear:
    """A linear layer from `columns` to `rows` on the meta device."""
    with torch.device("meta"):
        return nn.Linear(columns, rows)


def plan_connector(
    vision: Path,
    checkpoints: Sequence[Path],
    projection: str,
    *,
    reads_text: bool = False,
    patch_projection: str | None = None,
    unused: tuple[str, ...] = (),
    vision_heads: int | None = None,
    qformer_heads: int | None = None,
) -> Blueprint:
    """Vision tower, Q-Former and projections of a family, checked against headers; later checkpoints win.

    `unused` names prefixes a checkpoint may hold besides what is read; any other foreign key is refused by name.
    """
    tensors, eva = merged_headers(checkpoints), merged_headers([vision])
    source = ", ".join(str(path) for path in checkpoints)
    names = {projection: "projection"} | ({patch_projection: "patch_projection"} if patch_projection else {})
    known = (*KNOWN, *(f"{name}." for name in names), *unused)
    foreign = [key for key in tensors if not key.startswith(known)]
    required = ("query_tokens", "ln_vision.weight", "ln_vision.bias")
    complain(source, missing=[key for key in required if key not in tensors], unexpected=foreign)
    connector = QFormerConnector(
        build_vision(eva, take_prefix(tensors, "ln_vision."), str(vision), heads=vision_heads),
        build_qformer(tensors, source, reads_text=reads_text, heads=qformer_heads),
        tensors["query_tokens"],
        *(build_linear(tensors, name, source) for name in names),
        reads_text=reads_text,
    )

    def convert_tower(tensors: Tensors) -> dict[str, Tensor]:
        return {f"vision.{key}": value for key, value in convert_eva(tensors).items()}

    convert = partial(convert_checkpoint, projections=names, reads_text=reads_text)
    how = f"connector {names} {reads_text}"
    feeds = [Feed(vision, convert_tower, "tower"), *(Feed(path, convert, how) for path in checkpoints)]
    return Blueprint(connector, feeds)


def convert_checkpoint(tensors: Tensors, *, projections: Mapping[str, str], reads_text: bool) -> dict[str, Tensor]:
    """A checkpoint's names to a `QFormerConnector`'s; projections are {theirs: ours}."""
    bert = convert_qformer(take_prefix(tensors, "Qformer."), reads_text=reads_text)
    moves = {"ln_vision": "vision.post_layernorm", **projections}
    moved = {
        f"{new}.{key}": value for old, new in moves.items() for key, value in take_prefix(tensors, f"{old}.").items()
    }
    queries = {"query_tokens": tensors["query_tokens"]} if "query_tokens" in tensors else {}
    return {f"qformer.{key}": value for key, value in bert.items()} | moved | queries
