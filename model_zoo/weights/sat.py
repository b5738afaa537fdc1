"""VisualGLM-6B in its original layout: SwissArmyTransformer's vision tower and Q-Former beside a ChatGLM-6B v1.

SAT stacks [q; k; v] in one matrix, keeps CLS and queries as word embeddings, and in post-norm order lets a layer begin
with the norm that ends the layer before: the Q-Former's `input_layernorm` of layer N+1 (`final_layernorm` after the
last) is the output norm of BERT's layer N, that of layer 0 its embedding norm. ChatGLM's names are our module's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from model_zoo.chatglm import ChatGLMConfig, ChatGLMForCausalLM
from model_zoo.connectors import QFormerConnector
from model_zoo.weights.eva import HEADS as VISION_HEADS
from model_zoo.weights.eva import known_heads
from model_zoo.weights.filling import Blueprint, Feed
from model_zoo.weights.headers import merged_headers
from model_zoo.weights.index import read_json, shard_paths
from model_zoo.weights.qformer import HEADS as QFORMER_HEADS
from model_zoo.weights.qformer import meta_connector
from model_zoo.weights.safe import Tensors, check_shapes, complain, take_prefix

LLM_HEADS = {4096: 32}
"""Attention heads of ChatGLM-6B by width."""

VISION, QFORMER, PROJECTION = "image_encoder.vit.", "image_encoder.qformer.", "image_encoder.glm_proj."
WORDS, QUERIES, HEAD = "transformer.word_embeddings.weight", "transformer.word_embeddings.weight", "lm_head.weight"
INNER = "transformer.layers.0.mlp.dense_h_to_4h.weight"
COMPUTED = re.compile(r"^transformer\.layers\.\d+\.attention\.rotary_emb\.inv_freq$")
"""Buffers of the file that are computed instead of read."""


class Origin(NamedTuple):
    """Where a tensor of ours comes from: rows part/parts of the original `key`."""

    key: str
    part: int = 0
    parts: int = 1


VISION_RENAMES = {
    "embeddings.class_embedding": "transformer.word_embeddings.weight",
    "embeddings.position_embedding": "transformer.position_embeddings.weight",
    "embeddings.patch_embedding.": "mixins.patch_embedding.proj.",
    "post_layernorm.": "mixins.cls.ln_vision.",
    "encoder.layers.": "transformer.layers.",
    ".layer_norm1.": ".input_layernorm.",
    ".layer_norm2.": ".post_attention_layernorm.",
    ".self_attn.qkv.": ".attention.query_key_value.",
    ".self_attn.projection.": ".attention.dense.",
    ".mlp.fc1.": ".mlp.dense_h_to_4h.",
    ".mlp.fc2.": ".mlp.dense_4h_to_h.",
}
QFORMER_RENAMES = {
    ".crossattention.attention.query.": ".cross_attention.query.",
    ".crossattention.output.dense.": ".cross_attention.dense.",
    ".crossattention.output.LayerNorm.": ".post_cross_attention_layernorm.",
    ".attention.output.dense.": ".attention.dense.",
    ".attention.output.LayerNorm.": ".post_attention_layernorm.",
    ".intermediate_query.dense.": ".mlp.dense_h_to_4h.",
    ".output_query.dense.": ".mlp.dense_4h_to_h.",
}
STACKED = {"attention": ("query_key_value", "query", "key", "value"), "crossattention": ("key_value", "key", "value")}


def vision_origin(key: str) -> Origin:
    """Original of a `Blip2VisionModel` key."""
    for ours, theirs in VISION_RENAMES.items():
        key = key.replace(ours, theirs)
    return Origin(f"{VISION}{key}")


def qformer_origin(key: str, layers: int) -> Origin:
    """Original of a `Blip2QFormerModel` key."""
    key = re.sub(r"^encoder\.layer\.", "layers.", re.sub(r"^layernorm\.", "layers.0.input_layernorm.", key))
    base = f"{QFORMER}transformer."
    if match := re.match(r"layers\.(\d+)\.output_query\.LayerNorm\.(\w+)", key):
        above = int(match[1]) + 1
        norm = "final_layernorm" if above == layers else f"layers.{above}.input_layernorm"
        return Origin(f"{base}{norm}.{match[2]}")
    if match := re.match(r"(layers\.\d+)\.(attention|crossattention)\.attention\.(query|key|value)\.(\w+)", key):
        stack, *parts = STACKED[match[2]]
        if match[3] in parts:
            place = f"{base}{match[1]}.{match[2].replace('crossa', 'cross_a')}.{stack}.{match[4]}"
            return Origin(place, parts.index(match[3]), len(parts))
    for ours, theirs in QFORMER_RENAMES.items():
        key = key.replace(ours, theirs)
    return Origin(f"{base}{key}")


def origins(connector: QFormerConnector, llm: nn.Module) -> dict[str, Origin]:
    """Where every name of ModuleDict({"connector": ..., "llm": ...}) comes from."""
    layers = connector.qformer.config.num_hidden_layers
    return (
        {f"connector.vision.{key}": vision_origin(key) for key in connector.vision.state_dict()}
        | {f"connector.qformer.{key}": qformer_origin(key, layers) for key in connector.qformer.state_dict()}
        | {f"connector.projection.{key}": Origin(f"{PROJECTION}{key}") for key in connector.projection.state_dict()}
        | {"connector.query_tokens": Origin(f"{QFORMER}{QUERIES}")}
        | {f"llm.{key}": Origin(key) for key in llm.state_dict()}
    )


def check_originals(
    whole: nn.Module, places: Mapping[str, Origin], header: Tensors, source: str, unread: Iterable[str]
) -> None:
    """Raise ValueError naming every missing, unexpected and mis-shaped ORIGINAL key; `unread` ones may be there."""
    shapes = {key: value.shape for key, value in whole.state_dict(keep_vars=True).items()}
    expected = {}
    for key, place in places.items():  # in the file: `parts` times the rows, no leading 1 for CLS, positions, queries
        rows, *rest = shapes[key][1:] if len(shapes[key]) == 3 else shapes[key]
        expected[place.key] = (rows * place.parts, *rest)
    check_shapes(expected, header, source, unread)


def count_layers(tensors: Tensors, stated: Mapping[str, Any]) -> int:
    """Layers as config.json states them, so that a cut file is noticed, else as the file has them."""
    found = (int(m[1]) for key in tensors if (m := re.match(r"transformer\.layers\.(\d+)\.", key)))
    return stated.get("num_layers") or 1 + max(found, default=-1)


def vision_numbers(tensors: Tensors, stated: Mapping[str, Any], heads: int | None) -> dict[str, Any]:
    """Those of the tower, from keys below `image_encoder.vit.`; all its blocks count, `ln_vision` is last."""
    width, patch = tensors[WORDS].shape[-1], tensors["mixins.patch_embedding.proj.weight"].shape[-1]
    heads = heads or stated.get("num_attention_heads") or known_heads(VISION_HEADS, width, "vision_heads")
    grid = round((tensors["transformer.position_embeddings.weight"].shape[0] - 1) ** 0.5)
    return {
        "hidden_size": width,
        "intermediate_size": tensors[INNER].shape[0],
        "num_hidden_layers": count_layers(tensors, stated),
        "num_attention_heads": heads,
        "image_size": grid * patch,
        "patch_size": patch,
        "layer_norm_eps": stated.get("layernorm_epsilon", 1e-6),
    }


def qformer_numbers(
    tensors: Tensors, stated: Mapping[str, Any], heads: int | None, vision_width: int
) -> dict[str, Any]:
    """Those of the Q-Former, from keys below `image_encoder.qformer.`; it reads no text."""
    layers, width = count_layers(tensors, stated), tensors[QUERIES].shape[-1]
    crossing = [n for n in range(layers) if f"transformer.layers.{n}.cross_attention.query.weight" in tensors]
    heads = heads or stated.get("num_attention_heads") or known_heads(QFORMER_HEADS, width, "qformer_heads")
    return {
        "hidden_size": width,
        "encoder_hidden_size": vision_width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": tensors[INNER].shape[0],
        "cross_attention_frequency": crossing[1] - crossing[0] if len(crossing) > 1 else layers,
        "layer_norm_eps": stated.get("layernorm_epsilon", 1e-12),
    }


def build_chatglm(tensors: Tensors, stated: Mapping[str, Any]) -> Any:
    """ChatGLM-6B v1 on the meta device for the keys outside `image_encoder.`."""
    vocab, width = tensors[WORDS].shape
    config = ChatGLMConfig(
        vocab_size=vocab,
        hidden_size=width,
        intermediate_size=tensors[INNER].shape[0],
        num_hidden_layers=count_layers(tensors, stated),
        num_attention_heads=stated.get("num_attention_heads") or known_heads(LLM_HEADS, width, "num_attention_heads"),
        layer_norm_eps=stated.get("layernorm_epsilon", 1e-5),
        tie_word_embeddings=stated.get("tie_word_embeddings", True),
    )
    with torch.device("meta"):
        return ChatGLMForCausalLM(config)


def build_parts(header: Tensors, stated: Mapping[str, Any], vision_heads: int | None, qformer_heads: int | None) -> Any:
    """ModuleDict({"connector": ..., "llm": ...}) on the meta device; sizes from shapes, counts from config.json."""
    vision = vision_numbers(take_prefix(header, VISION), stated.get("eva_config", {}), vision_heads)
    queries = take_prefix(header, QFORMER)
    qformer = qformer_numbers(queries, stated.get("qformer_config", {}), qformer_heads, vision["hidden_size"])
    llm = build_chatglm(header, stated)
    connector = meta_connector(vision, qformer, len(queries[QUERIES]), llm.config.hidden_size, reads_text=False)
    return nn.ModuleDict({"connector": connector, "llm": llm})


def plan_visualglm(folder: Path, *, vision_heads: int | None = None, qformer_heads: int | None = None) -> Blueprint:
    """Connector and LLM of a `THUDM/visualglm-6b` folder, checked against the headers of its shards.

    Layer and head counts and epsilons come from config.json, published values where it is silent. Unless it says
    otherwise, embeddings and head are tied, and the head's matrix counts, as in the reference: it is loaded last.

    Raises FileNotFoundError naming every missing shard, ValueError naming every key that does not fit.
    """
    stated, paths = read_json(folder / "config.json"), shard_paths(folder)
    header = {key: value for key, value in merged_headers(paths).items() if not COMPUTED.match(key)}
    sizes = [WORDS, INNER, *(f"{prefix}{key}" for prefix in (VISION, QFORMER) for key in (WORDS, INNER))]
    sizes += [f"{VISION}mixins.patch_embedding.proj.weight", f"{VISION}transformer.position_embeddings.weight"]
    complain(str(folder), missing=[key for key in sizes if key not in header])
    whole = build_parts(header, stated, vision_heads, qformer_heads)
    places, ties = origins(whole["connector"], whole["llm"]), {}
    if whole["llm"].config.tie_word_embeddings:
        ties = {f"llm.{WORDS}": f"llm.{HEAD}"}
        del places[f"llm.{WORDS}"]
        places[f"llm.{HEAD}"] = Origin(HEAD if HEAD in header else WORDS)
    check_originals(whole, places, header, str(folder), [WORDS] if ties else [])
    shapes = {key: value.shape for key, value in whole.state_dict(keep_vars=True).items()}

    def convert(tensors: Tensors) -> dict[str, Tensor]:
        found = {key: place for key, place in places.items() if place.key in tensors}
        parts = {key: tensors[at.key].chunk(at.parts)[at.part].view(shapes[key]) for key, at in found.items()}
        # The original rounds ChatGLM's linear layers and embeddings, biases included, through float16; in the published
        # files they are float16 already. Layer norms keep their precision.
        halved = [key for key in parts if key.startswith("llm.") and "layernorm" not in key]
        return parts | {key: parts[key].half() for key in halved}

    return Blueprint(whole, [Feed(path, convert) for path in paths], ties)
