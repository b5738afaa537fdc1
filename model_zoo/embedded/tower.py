"""The frozen vision towers of the embedded zoo: one ViT shared by four models, one CNN, and heads that train them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from transformers import Blip2VisionConfig, Blip2VisionModel


class ConvTower(nn.Module):
    """Eight 3 x 3 convolutions, (B,3,64,64) -> (B,64,width): an 8 x 8 map as tokens, row by row.

    Args:
        width: channels of the last four layers; the first four have a third, a third, two thirds and two thirds.
        groups: of the group normalisation after each convolution.
    """

    def __init__(self, width: int = 96, groups: int = 8) -> None:
        super().__init__()
        sizes = [3, width // 3, width // 3, 2 * width // 3, 2 * width // 3, width, width, width, width]
        layers: list[nn.Module] = []
        for k, (inner, outer) in enumerate(pairwise(sizes)):
            stride = 2 if k in (0, 2, 4) else 1
            layers += [nn.Conv2d(inner, outer, 3, stride, 1, bias=False), nn.GroupNorm(groups, outer), nn.GELU()]
        self.layers = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(width)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.norm(self.layers(pixels).flatten(2).transpose(1, 2))


class Merge(nn.Module):
    """Each 2 x 2 block of a square map of tokens becomes one: (B, 64, width) -> (B, 16, 4 width)."""

    def forward(self, tokens: Tensor) -> Tensor:
        b, n, width = tokens.shape
        half = round(n**0.5) // 2
        blocks = tokens.view(b, half, 2, half, 2, width).permute(0, 1, 3, 2, 4, 5)
        return blocks.reshape(b, half * half, 4 * width)


class DenseHead(nn.Module):
    """What a tower must know: the class of every patch and which objects are present. Thrown away after training.

    forward: patch tokens (B, P, width) -> patch logits (B, P, 1 + classes), presence logits (B, classes).
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.patch = nn.Linear(width, 1 + classes)
        self.present = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return self.patch(tokens), self.present(tokens.mean(1))


def build_tower(architecture: dict[str, Any]) -> nn.Module:
    """A ViT or a `ConvTower` with random weights, as its numbers say."""
    return build_vit(architecture) if "patch_size" in architecture else ConvTower(**architecture)


def build_vit(config: dict[str, Any]) -> nn.Module:
    """A `Blip2VisionModel` from a plain dict; its post-layernorm plays BLIP-2's `ln_vision`."""
    return Blip2VisionModel(Blip2VisionConfig(**config))


def build_clip_model(config: dict[str, Any], vocab: int, context: int) -> nn.Module:
    """A tiny `open_clip` CLIP with random weights from its sizes.

    Its image tower is CLIP's residual network with attention pooling where `layers` are four numbers, the architecture
    of no MLLM's tower; a ViT where they are one.
    """
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    layers = config["layers"]
    own = {key: config[key] for key in ("patch_size", "head_width") if key in config}
    vision = CLIPVisionCfg(
        layers=layers if isinstance(layers, int) else tuple(layers),
        width=config["width"],
        image_size=config["image_size"],
        **own,
    )
    text = CLIPTextCfg(
        context_length=context, vocab_size=vocab, width=config["text_width"], heads=4, layers=config["text_layers"]
    )
    return CLIP(config["embed_dim"], vision, text)
