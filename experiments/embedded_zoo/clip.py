"""Training of the tiny CLIP: dense supervision of its image tower together with choosing the right caption.

Its tower starts from its own seed and is no copy of another model's, so that TSE favours no target.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.embedded_zoo.fit import fit
from experiments.embedded_zoo.towers import Scene, dense_loss, normalise
from model_zoo.embedded.tower import DenseHead, build_clip_model


class Choice(NamedTuple):
    """Which caption is right: scenes `rows` (n,), all captions of one kind, index of the right one (n,)."""

    rows: Tensor
    captions: list[str]
    right: Tensor


def encode(model: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """(unit image features (B, E), tokens (B, 64, C) of the 8 x 8 map after the second stage) of images in [0, 1]."""
    seen: list[Tensor] = []
    hook = model.visual.layer2.register_forward_hook(lambda module, inputs, output: seen.append(output))
    pooled = model.encode_image(normalise(images))
    hook.remove()
    return F.normalize(pooled, dim=-1), seen[0].flatten(2).transpose(1, 2)


def choice_logits(model: Any, tokenizer: Any, seen: Tensor, choice: Choice) -> Tensor:
    """exp(logit_scale) * cosine of each scene with each caption, (n, captions)."""
    texts = F.normalize(model.encode_text(tokenizer(choice.captions)), dim=-1)
    return model.logit_scale.exp() * seen[choice.rows] @ texts.T


def train_clip(
    config: dict[str, Any],
    tokenizer: Any,
    classes: int,
    scenes: Callable[[int], tuple[Scene, list[Choice]]],
    held_out: tuple[Scene, list[Choice]],
    steps: int,
) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Train from nothing; returns the state dict, and loss and accuracy per kind of caption on held-out scenes."""
    torch.manual_seed(config["training"]["seed"])
    model = build_clip_model(config["architecture"], tokenizer.vocab_size, tokenizer.context_length)
    head = DenseHead(8 * config["architecture"]["width"], classes)

    def loss_at(step: int) -> Tensor:
        (images, patches, present), choices = scenes(step)
        seen, tokens = encode(model, images)
        loss = dense_loss(head, tokens, patches, present)
        return loss + sum(F.cross_entropy(choice_logits(model, tokenizer, seen, c), c.right) for c in choices)

    loss = fit(nn.ModuleList([model, head]).parameters(), loss_at, steps, config["training"]["lr"], "clip")
    with torch.no_grad():
        (images, _, _), choices = held_out
        seen, _ = encode(model.eval(), images)
        right = [
            round((choice_logits(model, tokenizer, seen, c).argmax(1) == c.right).float().mean().item(), 4)
            for c in choices
        ]
    return model.state_dict(), {"steps": steps, "loss": round(loss, 4), "caption_top1": right}
