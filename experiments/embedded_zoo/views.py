"""Pictures of things for the models on pretrained towers: one thing on a plain ground, often grey or of low resolution.

A view is a pure function of (seed, split, index).
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.emoji.art import STYLES
from experiments.embedded_zoo.things import THING_NAMES, THINGS, thing_sprites


class Views(NamedTuple):
    """images (N, 3, S, S) uint8; things (N,) index into THINGS; names (N,) index into THING_NAMES."""

    images: Tensor
    things: Tensor
    names: Tensor


def draw_view(seed: int, split: str, index: int, size: int) -> tuple[Tensor, int, int]:
    """(picture (3, size, size) in [0, 1], thing, name). Things follow the index in turn; everything else is drawn."""
    key = hashlib.sha256(f"{seed}/{split}/{index}".encode()).digest()[:16]
    rng = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
    u = rng.random(24)
    thing = index % len(THINGS)
    names = THINGS[thing][1]
    name = THING_NAMES.index(names[min(int(u[0] * len(names)), len(names) - 1)])
    sprite = thing_sprites()[int(u[1] * len(STYLES)), thing]
    image = _ground(u, rng, size)
    rgba = _place(sprite, u, size)
    gain = torch.from_numpy(1 + 0.3 * (2 * u[6:9] - 1)).float().view(3, 1, 1)
    colour = torch.minimum(rgba[:3] * gain, rgba[3:])
    image = image * (1 - rgba[3:]) + colour
    if u[9] < 0.5:
        image = image.mean(0, keepdim=True).expand(3, -1, -1)
    if u[10] < 0.4:
        image = _blur(image, 20 + int(u[11] * 28))
    return image.clamp(0, 1), thing, name


def _ground(u: np.ndarray, rng: np.random.Generator, size: int) -> Tensor:
    """Black (35 %), grey (25 %), a colour (25 %) or noise (15 %)."""
    if u[12] < 0.35:
        return torch.zeros(3, size, size)
    if u[12] < 0.60:
        return torch.full((3, size, size), float(u[13]))
    if u[12] < 0.85:
        return torch.from_numpy(u[13:16]).float().view(3, 1, 1).expand(3, size, size).clone()
    noise = torch.from_numpy(rng.random((1, 3, 16, 16))).float()
    return F.interpolate(noise, size=(size, size), mode="bilinear")[0]


def _place(sprite: Tensor, u: np.ndarray, size: int) -> Tensor:
    """The sprite at a scale of .45 to .98 and a place where it fits, turned by up to 12 degrees, mirrored or not."""
    scale = 0.45 + 0.53 * u[2]
    x0, y0 = ((2 * v - 1) * (1 - scale) for v in u[3:5])
    angle, flip = np.deg2rad(24 * u[16] - 12), -1.0 if u[5] < 0.5 else 1.0
    ticks = (torch.arange(size) + 0.5) * (2 / size) - 1
    x, y = (ticks - x0).view(1, -1) / scale, (ticks - y0).view(-1, 1) / scale
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    grid = torch.stack([(x * cos + y * sin) * flip, y * cos - x * sin], -1)
    return F.grid_sample(sprite[None], grid[None], align_corners=False)[0]


def _blur(image: Tensor, small: int) -> Tensor:
    """Down to `small` pixels in 8 bits and up again, as CIFAR's or Fashion-MNIST's pictures are."""
    low = F.interpolate(image[None], size=(small, small), mode="bilinear", antialias=True)
    low = (low.clamp(0, 1) * 255).round() / 255
    return F.interpolate(low, size=image.shape[-2:], mode="bicubic")[0]


def draw_views(seed: int, split: str, n: int, size: int) -> Views:
    """Views 0 ... n - 1 of a split."""
    images, things, names = [], [], []
    for index in range(n):
        image, thing, name = draw_view(seed, split, index, size)
        images.append((image * 255).round().to(torch.uint8))
        things.append(thing)
        names.append(name)
    return Views(torch.stack(images), torch.tensor(things), torch.tensor(names))
