"""EVA-CLIP ViT-g in its original layout (`eva_vit_g.pth`) as a transformers `Blip2VisionModel`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Blip2VisionConfig, Blip2VisionModel

from model_zoo.weights.safe import Tensors, check_fit, complain

HEADS = {1408: 16}
"""Attention heads by width: the one number that shapes do not tell (EVA ViT-g)."""

LN_VISION_EPS = 1e-5
"""Of LAVIS's `ln_vision` (torch's default). transformers gives it the blocks' 1e-6: its deviation, not ours."""

UNUSED = ("norm.", "fc_norm.", "head.", "mask_token")
"""Keys of the original file that the original model does not use."""

RENAMES = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj.": "embeddings.patch_embedding.",
    ".norm1.": ".layer_norm1.",
    ".norm2.": ".layer_norm2.",
    ".attn.qkv.": ".self_attn.qkv.",
    ".attn.proj.": ".self_attn.projection.",
}


def count_blocks(tensors: Tensors) -> int:
    """Blocks in the file, the unused last one included."""
    return 1 + max((int(m[1]) for key in tensors if (m := re.match(r"blocks\.(\d+)\.", key))), default=-1)


def convert_eva(tensors: Tensors) -> dict[str, Tensor]:
    """Original names to `Blip2VisionModel` names, the last block and the final norm dropped.

    The file has a query and a value bias and none for the key: qkv.bias = [q, 0, v]. Tensors may be on the meta device.
    """
    last = f"blocks.{count_blocks(tensors) - 1}."
    state: dict[str, Tensor] = {}
    for key, value in tensors.items():
        if key.startswith((*UNUSED, last)) or key.endswith(".attn.v_bias"):
            continue
        if key.endswith(".attn.q_bias"):
            v_bias = tensors[key.replace("q_bias", "v_bias")]
            key, value = key.replace("q_bias", "qkv.bias"), torch.cat([value, torch.zeros_like(v_bias), v_bias])
        for old, new in RENAMES.items():
            key = key.replace(old, new)
        state[re.sub(r"^blocks\.", "encoder.layers.", key)] = value
    return state


def build_vision(tensors: Tensors, ln_vision: Tensors, source: str, *, heads: int | None = None) -> nn.Module:
    """The tower on the meta device, with `ln_vision` {weight, bias} as its post-layernorm; sizes come from shapes.

    Raises ValueError when keys do not fit, or when `heads` is needed and not given.
    """
    needed = ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.mlp.fc1.weight")
    complain(source, missing=[key for key in needed if key not in tensors])
    patch = tensors["patch_embed.proj.weight"].shape[-1]
    width = tensors["cls_token"].shape[-1]
    grid = round((tensors["pos_embed"].shape[1] - 1) ** 0.5)
    numbers = {
        "hidden_size": width,
        "intermediate_size": tensors["blocks.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": count_blocks(tensors) - 1,
        "num_attention_heads": heads or known_heads(HEADS, width, "vision_heads"),
        "image_size": grid * patch,
        "patch_size": patch,
    }
    vision = meta_vision(numbers)
    norm = {f"post_layernorm.{key}": value for key, value in ln_vision.items()}
    check_fit(vision, convert_eva(tensors) | norm, source)
    return vision


def meta_vision(numbers: Mapping[str, Any]) -> Any:
    """A `Blip2VisionModel` on the meta device whose last norm has the epsilon of the original `ln_vision`."""
    with torch.device("meta"):
        vision: Any = Blip2VisionModel(Blip2VisionConfig(**numbers))
    vision.post_layernorm.eps = LN_VISION_EPS
    return vision


def known_heads(table: Mapping[int, int], width: int, option: str) -> int:
    """Published head count for a width. Raises ValueError that names the option to pass otherwise."""
    if width not in table:
        raise ValueError(
            f"Cannot tell the number of attention heads from width {width}. Known: {dict(table)}. Pass {option}=..."
        )
    return table[width]
