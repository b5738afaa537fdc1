"""Dense pre-training of a vision tower: the class of every patch and the objects present. Called by `__main__.py`.

Scenes come in as a function, so this file knows no data set: `scenes(step)` gives images (B,3,64,64) in [0,1], patch
labels (B,8,8) with 0 = background, and classes (B,4) with -1 = none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.embedded_zoo.fit import fit
from model_zoo.base import CLIP_MEAN, CLIP_STD
from model_zoo.embedded.tower import ConvTower, DenseHead, build_tower

Scene = tuple[Tensor, Tensor, Tensor]


def normalise(images: Tensor) -> Tensor:
    """CLIP's statistics, as every adapter applies them."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    return (images - mean) / std


def tokens_of(tower: nn.Module, images: Tensor) -> Tensor:
    """Patch tokens (B, 64, width) of a tower, CLS left out."""
    if isinstance(tower, ConvTower):
        return tower(normalise(images))
    return tower(pixel_values=normalise(images)).last_hidden_state[:, 1:]


def multi_hot(classes: Tensor, n: int) -> Tensor:
    """Which objects occur: (B, 4) with -1 = none to (B, n) of 0 and 1."""
    hot = torch.zeros(len(classes), n + 1)
    return hot.scatter_(1, (classes + 1), 1.0)[:, 1:]


def dense_loss(head: DenseHead, tokens: Tensor, patches: Tensor, classes: Tensor) -> Tensor:
    """Cross-entropy of the patches (background counts .3) plus binary cross-entropy of the objects present."""
    per_patch, present = head(tokens)
    weight = torch.ones(per_patch.shape[-1])
    weight[0] = 0.3
    loss = F.cross_entropy(per_patch.flatten(0, 1), patches.flatten(), weight=weight)
    hot = multi_hot(classes, present.shape[-1])
    return loss + 2 * F.binary_cross_entropy_with_logits(present, hot, pos_weight=torch.tensor(4.0))


@torch.no_grad()
def dense_accuracy(head: DenseHead, tokens: Tensor, patches: Tensor, classes: Tensor) -> dict[str, float]:
    """Accuracy on patches with an object, and how often the likeliest object of a scene is one of those present."""
    per_patch, present = head(tokens)
    drawn = patches.flatten(1) > 0
    right = (per_patch.argmax(-1) == patches.flatten(1))[drawn].float().mean()
    hit = multi_hot(classes, present.shape[-1]).gather(1, present.argmax(1, keepdim=True)).mean()
    return {"patch_accuracy": round(right.item(), 4), "presence_top1": round(hit.item(), 4)}


def train_tower(
    name: str,
    config: dict[str, Any],
    classes: int,
    stage: int,
    start: dict[str, Tensor] | None,
    scenes: Callable[[int], Scene],
    held_out: Scene,
    steps: int,
) -> tuple[dict[str, Tensor], dict[str, object]]:
    """One stage of a tower, from nothing or from the tensors `start`, with a new head.

    Returns the tower's state dict and what to record beside it.
    """
    torch.manual_seed(config["training"]["seed"] + stage)
    tower = build_tower(config["architecture"])
    if start is not None:
        tower.load_state_dict({key: value.float() for key, value in start.items()})
    width = config["architecture"].get("hidden_size") or config["architecture"]["width"]
    head = DenseHead(width, classes)

    def loss_at(step: int) -> Tensor:
        images, patches, present = scenes(step)
        return dense_loss(head, tokens_of(tower, images), patches, present)

    parts = nn.ModuleList([tower, head])
    loss = fit(parts.parameters(), loss_at, steps, config["training"]["stages"][stage]["lr"], f"{name} {stage + 1}")
    with torch.no_grad():
        figures = dense_accuracy(head, tokens_of(tower.eval(), held_out[0]), held_out[1], held_out[2])
    return tower.state_dict(), {"steps": steps, "loss": round(loss, 4), **figures}
