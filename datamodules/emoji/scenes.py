"""Little scenes with known contents: emoji on a coloured ground, rendered in torch, no image files.

A scene is a pure function of (world, seed, split, index): a Philox generator keyed by their sha256 gives it a fixed
number of uniforms and every property is arithmetic on them. Pixels are rounded to 8 bits, as a file would hold them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.emoji.art import FAR_STYLES, NAMES, STYLES, load_sprites

SIZE = 64  # side of a scene in pixels
GRID = 8  # patch labels are GRID x GRID
MAX_OBJECTS = 4
BACKGROUNDS = ("solid", "gradient", "noise", "stripes", "checker")
FAR_BACKGROUNDS = ("rings", "dots")  # of one web only, as art.FAR_STYLES
ALL_STYLES, ALL_BACKGROUNDS = STYLES + FAR_STYLES, BACKGROUNDS + FAR_BACKGROUNDS
_HEAD, _EACH, _NOISE = 16, 16, 16  # uniforms for the scene, for each object, side of the noise field
_DRAWS = _HEAD + MAX_OBJECTS * _EACH + _NOISE * _NOISE


@dataclass(frozen=True)
class World:
    """The distribution scenes are drawn from.

    styles, backgrounds: which art and grounds occur, equally often.
    names: the objects that occur.
    scale: side of an object as a fraction of the scene; above one object at most .5.
    objects: smallest and largest number of objects, in cells of a 2 x 2 grid when above one.
    rotation: largest angle in degrees; jitter: strength of the colour gain per channel.
    balance: `class` (first object's name), `count` (number of objects) or "" follow the index in turn.
    companions: chance that a further object is one of the four names that begin at a multiple of four with the first.
    """

    styles: tuple[str, ...] = STYLES
    backgrounds: tuple[str, ...] = BACKGROUNDS
    names: tuple[str, ...] = NAMES
    scale: tuple[float, float] = (0.3, 0.95)
    objects: tuple[int, int] = (1, 1)
    rotation: float = 30.0
    jitter: float = 0.25
    balance: str = ""
    companions: float = field(default=0.0, repr=False)  # no part of the key of the draws, which are older than it

    def __post_init__(self) -> None:
        for values, known, what in (
            (self.styles, ALL_STYLES, "style"),
            (self.backgrounds, ALL_BACKGROUNDS, "background"),
        ):
            unknown = [v for v in values if v not in known]
            if unknown or not values:
                raise ValueError(f"Unknown {what} {unknown}. Available: {', '.join(known)}.")
        if not 1 <= self.objects[0] <= self.objects[1] <= MAX_OBJECTS:
            raise ValueError(f"objects must be an increasing pair within 1..{MAX_OBJECTS}, got {self.objects}.")


class Scenes(NamedTuple):
    """B scenes. images (B,3,64,64) in [0,1], multiples of 1/255; classes (B,4) index into NAMES, -1 = none;
    boxes (B,4,4) x0 y0 x1 y1 in pixels, before rotation; patches (B,8,8) 1 + class of the patch, 0 = background."""

    images: Tensor
    classes: Tensor
    boxes: Tensor
    patches: Tensor

    @property
    def counts(self) -> Tensor:
        """Number of objects of each scene, (B,)."""
        return (self.classes >= 0).sum(1)


def draw_uniforms(world: World, seed: int, split: str, index: int) -> np.ndarray:
    """The (_DRAWS,) uniforms of one scene: all the randomness it has."""
    key = hashlib.sha256(f"{seed}/{split}/{index}/{world!r}".encode()).digest()[:16]
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little"))).random(_DRAWS)


def _pick(u: np.ndarray, n: int) -> np.ndarray:
    return np.minimum((u * n).astype(np.int64), n - 1)


def layout(world: World, u: np.ndarray, indices: np.ndarray) -> dict[str, np.ndarray]:
    """Place objects: uniforms (B, _DRAWS) to arrays (B, 4[, ..]) of class, style, centre, scale, angle, flip, gain."""
    low, high = world.objects
    head, each = u[:, :_HEAD], u[:, _HEAD : _HEAD + MAX_OBJECTS * _EACH].reshape(len(u), MAX_OBJECTS, _EACH)
    count = low + (indices % (high - low + 1) if world.balance == "count" else _pick(head[:, 0], high - low + 1))
    chosen = _pick(each[..., 0], len(world.names))
    if world.balance == "class":
        chosen[:, 0] = indices % len(world.names)
    classes = np.array([NAMES.index(n) for n in world.names])[chosen]
    if world.companions:
        beside = classes[:, :1] // 4 * 4 + _pick(each[:, 1:, 11], 4)
        classes[:, 1:] = np.where(each[:, 1:, 10] < world.companions, beside, classes[:, 1:])
    classes = np.where(np.arange(MAX_OBJECTS) < count[:, None], classes, -1)
    several = count[:, None] > 1
    small = np.where(several, min(world.scale[0], 0.4), world.scale[0])
    scale = small + each[..., 1] * (np.where(several, min(world.scale[1], 0.5), world.scale[1]) - small)
    cells = np.argsort(head[:, 1:5], axis=1)  # which cell of the 2 x 2 grid each object gets
    cell = np.stack([cells % 2, cells // 2], -1) - 0.5
    room = np.where(several, np.maximum(0.5 - scale, 0.04), np.maximum(1 - scale, 0.0))[..., None]
    centre = np.where(several[..., None], cell, 0.0) + (2 * each[..., 2:4] - 1) * room
    return {
        "classes": classes,
        "styles": np.array([ALL_STYLES.index(s) for s in world.styles])[_pick(each[..., 4], len(world.styles))],
        "centre": centre,
        "scale": scale,
        "angle": np.deg2rad((2 * each[..., 5] - 1) * world.rotation),
        "flip": np.where(each[..., 6] < 0.5, -1.0, 1.0),
        "gain": 1 + world.jitter * (2 * each[..., 7:10] - 1),
    }


@lru_cache(maxsize=1)
def _textures() -> list[Tensor]:
    """All sprites of all styles as one (styles * names, 4, s, s) tensor, at full and at half size."""
    full = torch.cat([load_sprites()[style] for style in ALL_STYLES])
    return [full, F.avg_pool2d(full, 2)]


def _axes() -> tuple[Tensor, Tensor]:
    ticks = (torch.arange(SIZE) + 0.5) * (2 / SIZE) - 1
    return ticks.view(1, 1, SIZE), ticks.view(1, SIZE, 1)


def paint_background(world: World, u: np.ndarray) -> Tensor:
    """The ground of each scene: uniforms (B, _DRAWS) to (B, 3, 64, 64)."""
    head = torch.from_numpy(u[:, :_HEAD]).float()
    first, second = (0.1 + 0.8 * c[:, :, None, None] for c in (head[:, 5:8], head[:, 8:11]))
    angle = u[:, 11] * 2 * np.pi
    dx, dy = (torch.from_numpy(f(angle)).float().view(-1, 1, 1) for f in (np.cos, np.sin))
    x, y = _axes()
    along, across = x * dx + y * dy, y * dx - x * dy
    turns = (1.5 + 2 * head[:, 12]).view(-1, 1, 1)
    ramp = (along * 0.35 + 0.5).clamp(0, 1)
    stripe = ((along * turns).floor() % 2).abs()
    checker = ((along * turns).floor() + (across * turns).floor()).remainder(2)
    noise = torch.from_numpy(u[:, -_NOISE * _NOISE :]).float().view(-1, 1, _NOISE, _NOISE)
    noise = F.interpolate(noise, size=(SIZE, SIZE), mode="bilinear")[:, 0]
    rings = ((along**2 + across**2).sqrt() * turns).floor() % 2
    dots = (((along * turns) % 1 - 0.5) ** 2 + ((across * turns) % 1 - 0.5) ** 2 < 0.1).float()
    mixes = torch.stack([torch.zeros_like(ramp), ramp, noise, stripe, checker, rings, dots], 1)
    kind = np.array([ALL_BACKGROUNDS.index(b) for b in world.backgrounds])[_pick(u[:, 13], len(world.backgrounds))]
    mix = mixes[torch.arange(len(u)), torch.from_numpy(kind)][:, None]
    return first + mix * (second - first)


def _sample(plan: dict[str, np.ndarray]) -> Tensor:
    """Every object drawn on its own transparent canvas: (B, 4, 4, 64, 64) premultiplied RGBA."""
    b = len(plan["scale"])

    def column(values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).float().view(-1, 1, 1)

    x, y = _axes()
    x, y = x - column(plan["centre"][..., 0]), y - column(plan["centre"][..., 1])
    cos, sin, scale = column(np.cos(plan["angle"])), column(np.sin(plan["angle"])), column(plan["scale"])
    grid = torch.stack([(x * cos + y * sin) / scale * column(plan["flip"]), (y * cos - x * sin) / scale], -1)
    ids = torch.from_numpy(plan["styles"] * len(NAMES) + plan["classes"].clip(0)).view(-1)
    small = torch.from_numpy(plan["scale"] < 0.7).view(-1)
    drawn = torch.zeros(len(ids), 4, SIZE, SIZE)
    present = torch.from_numpy(plan["classes"] >= 0).view(-1)
    for texture, level in zip(_textures(), (present & ~small, present & small), strict=True):
        drawn[level] = F.grid_sample(texture[ids[level]], grid[level], align_corners=False)
    drawn[:, :3] *= torch.from_numpy(plan["gain"]).float().view(-1, 3, 1, 1)
    drawn[:, :3] = torch.minimum(drawn[:, :3], drawn[:, 3:])
    return drawn.view(b, MAX_OBJECTS, 4, SIZE, SIZE)


def render_scenes(world: World, seed: int, split: str, indices: Sequence[int]) -> Scenes:
    """Render the scenes (world, seed, split, index) of each index; nothing depends on which others are asked for."""
    u = np.stack([draw_uniforms(world, seed, split, i) for i in indices])
    plan = layout(world, u, np.asarray(indices, dtype=np.int64))
    drawn = _sample(plan)
    images = paint_background(world, u)
    shown: list[Tensor] = []
    for k in range(MAX_OBJECTS):
        alpha = drawn[:, k, 3:]
        images = images * (1 - alpha) + drawn[:, k, :3]
        shown = [s * (1 - alpha) for s in shown] + [alpha]
    cover = F.avg_pool2d(torch.cat(shown, 1), SIZE // GRID)  # (B, 4, 8, 8): what part of the patch each object shows
    best, which = cover.max(1)
    classes = torch.from_numpy(plan["classes"])
    patches = torch.where(best > 0.25, 1 + classes.gather(1, which.flatten(1)).view_as(which), 0)
    centre, half = (torch.from_numpy(plan["centre"]) + 1) * SIZE / 2, torch.from_numpy(plan["scale"]) * SIZE / 2
    boxes = torch.cat([centre - half[..., None], centre + half[..., None]], -1).float()
    return Scenes((images.clamp(0, 1) * 255).round() / 255, classes, boxes * (classes >= 0)[..., None], patches)
