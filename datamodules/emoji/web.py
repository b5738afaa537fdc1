"""Pictures as a web holds them: scenes shrunk, blurred, framed and printed about, under names of unequal popularity.

What a model meets here before a prompt is ever learned: borders of many kinds and widths, resolutions down to 8 pixels,
names that follow Zipf's law in one order for all models of one web, and pictures whose object cannot be seen, so that
only little symbols in the margin tell what it was. A picture is a pure function of (web, seed, split, index).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.emoji.art import NAMES, STYLES, load_sprites
from datamodules.emoji.scenes import ALL_STYLES, GRID, SIZE, Scenes, World, render_scenes

_DRAWS, _SYMBOLS = 24, 8  # uniforms of a picture, and the most symbols in its margin
_NOISE = 16
FILLS = ("black", "grey", "white", "colour", "replicate", "gradient", "noise", "blocks", "diagonals", "discs")


@dataclass(frozen=True)
class Web:
    """What pictures and names are like.

    styles, backgrounds, scale: of the scenes, see `World`; several: scale of the objects where there are many.
    resolutions: pixels a side that a picture with one object was stored at, equally often; many_resolutions: others.
    pads: widths of the border, equally often; wide_pads: where the margin has to tell.
    fills: how often a border is filled which way, in the order of FILLS; those beyond the last one never.
    popularity: Zipf's exponent of the names of scenes with one object; popularity_many: of the others.
    names: the names that occur.
    order: which order of popularity the names have; another number is another web.
    companions: chance that a further object comes from the same shelf of four names as the first one.
    hidden: share of pictures with one object in which it cannot be seen: covered, or `unreadable` pixels a side.
    symbols: smallest and largest symbol, never wider than its margin; companion_symbols: how often other margins of
        bordered pictures with one object hold symbols too. A symbol is always of the picture's own class.
    """

    styles: tuple[str, ...] = STYLES
    backgrounds: tuple[str, ...] = ("solid", "gradient", "noise", "stripes", "checker")
    scale: tuple[float, float] = (0.4, 0.95)
    several: tuple[float, float] = (0.3, 0.6)
    resolutions: tuple[int, ...] = (64, 32, 24, 16, 12, 12, 10, 8)
    many_resolutions: tuple[int, ...] = (64, 48, 32, 24, 20, 16)
    pads: tuple[int, ...] = (0, 0, 0, 0, 0, 0, 4, 8, 8, 8, 8, 8, 8, 10, 12, 16)
    wide_pads: tuple[int, ...] = (8, 10, 12, 16)
    fills: tuple[float, ...] = (0.30, 0.04, 0.06, 0.22, 0.10, 0.12, 0.06, 0.10)
    popularity: float = 1.5
    popularity_many: float = 0.7
    order: int = 0
    companions: float = 0.5
    hidden: float = 0.27
    unreadable: int = 3
    symbols: tuple[int, int] = (8, 14)
    companion_symbols: float = 0.3
    names: tuple[str, ...] = field(default=NAMES, repr=False)  # no part of the key of the draws, which are older

    def __post_init__(self) -> None:
        for key, value in vars(self).items():  # as JSON gives them
            if isinstance(value, list):
                object.__setattr__(self, key, tuple(value))
        unknown = [name for name in self.names if name not in NAMES]
        if unknown or not self.names:
            raise ValueError(f"Unknown names {unknown}. Available: {', '.join(NAMES)}.")
        if self.companions and set(self.names) != set(NAMES):
            raise ValueError("companions are drawn from all names: with some of them only, set companions to 0.")
        if len(self.fills) > len(FILLS) or abs(sum(self.fills) - 1) > 1e-6:
            raise ValueError(f"fills must be at most {len(FILLS)} shares that add up to 1, got {self.fills}.")
        if not 0 < self.symbols[0] <= self.symbols[1]:
            raise ValueError(f"symbols must be an increasing pair of pixels, got {self.symbols}.")

    @property
    def ranked(self) -> tuple[str, ...]:
        """The names, the most popular first."""
        order = np.random.Generator(np.random.Philox(key=self.order)).permutation(len(NAMES))
        return tuple(NAMES[i] for i in order if NAMES[i] in self.names)

    def named(self, exponent: float) -> tuple[str, ...]:
        """The names, each as often as it is popular (at least once in about 256)."""
        share = np.arange(1, len(self.names) + 1) ** -exponent
        counts = np.maximum(1, np.round(256 * share / share.sum())).astype(int)
        return tuple(name for name, count in zip(self.ranked, counts, strict=True) for _ in range(count))

    def world(self, kind: str, *, balanced: bool = False) -> World:
        """The scenes behind the pictures. kind: `one` object that is seen, `hidden` one, `several`.

        balanced: names equally often, for towers, so that what is popular is a matter of connectors and LLMs alone.
        """
        base = World(self.styles, self.backgrounds, self.names, scale=self.scale)
        if kind in ("one", "hidden"):
            return base if balanced else replace(base, names=self.named(self.popularity))
        names = self.names if balanced else self.named(self.popularity_many)
        return replace(base, names=names, scale=self.several, objects=(1, 4), companions=self.companions)


def shelf(name: str) -> tuple[str, ...]:
    """The four names, itself among them, that stand together in scenes with several objects."""
    first = NAMES.index(name) // 4 * 4
    return NAMES[first : first + 4]


def draw_pictures(web: Web, kind: str, seed: int, split: str, n: int, *, balanced: bool = False) -> Scenes:
    """n pictures, `images` uint8; patch labels follow the object to its place, and symbols are labelled."""
    world, parts = web.world(kind, balanced=balanced), []
    for start in range(0, n, 64):
        indices = range(start, min(start + 64, n))
        scenes = render_scenes(world, seed, f"{split}/{kind}", indices)
        parts.append(lay_out(web, scenes, uniforms(web, seed, f"{split}/{kind}", indices), hidden=kind == "hidden"))
    return Scenes(*(torch.cat(column) for column in zip(*parts, strict=True)))


def uniforms(web: Web, seed: int, split: str, indices: Sequence[int]) -> np.ndarray:
    """All the randomness of the layout of some pictures, (B, number)."""
    rows = []
    for index in indices:
        key = hashlib.sha256(f"web/{seed}/{split}/{index}/{web!r}".encode()).digest()[:16]
        generator = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
        rows.append(generator.random(_DRAWS + 4 * _SYMBOLS + 3 * _NOISE * _NOISE))
    return np.stack(rows)


def lay_out(web: Web, scenes: Scenes, u: np.ndarray, *, hidden: bool) -> Scenes:
    """Scenes as the web shows them. u: `uniforms`. hidden: the object cannot be seen, the margin tells what it is.

    Scenes come as floats in [0, 1] or uint8, and leave as uint8.
    """
    images = scenes.images.float() / 255 if scenes.images.dtype == torch.uint8 else scenes.images
    single = (scenes.counts == 1).numpy()
    pads = _choose(u[:, 0], web.wide_pads if hidden else web.pads)
    sizes = np.where(single, _choose(u[:, 1], web.resolutions), _choose(u[:, 1], web.many_resolutions))
    patches = scenes.patches
    if hidden:
        covered = u[:, 2] < 0.5
        sizes = np.where(covered, sizes, web.unreadable)
        images = _cover(images, scenes.boxes[:, 0], torch.from_numpy(u[:, 3:6]).float(), torch.from_numpy(covered))
        patches = torch.zeros_like(patches)
    canvas, inside = _borders(web, u), torch.zeros(len(images), 3, SIZE, SIZE)
    replicated = torch.from_numpy(_fills(web, u) == "replicate")
    for pad, size in sorted(set(zip(pads.tolist(), sizes.tolist(), strict=True))):
        at = torch.from_numpy((pads == pad) & (sizes == size))
        small = lower(images[at], min(size, SIZE - 2 * pad), SIZE - 2 * pad)
        inside[at] = F.pad(small, [pad] * 4, mode="replicate")
    wide = torch.from_numpy(pads)
    margin = _margin(wide)
    keep = (~margin | replicated.view(-1, 1, 1))[:, None]
    pictures = torch.where(keep, inside, canvas)
    patches = _moved(patches, wide)
    telling = np.full(len(u), hidden) | (single & (u[:, 7] < web.companion_symbols))
    for i in np.flatnonzero(telling & (pads >= 4)).tolist():
        draws = u[i, _DRAWS : _DRAWS + 4 * _SYMBOLS].reshape(_SYMBOLS, 4)
        _print_symbols(web, pictures[i], patches[i], int(scenes.classes[i, 0]), int(pads[i]), draws, float(u[i, 8]))
    return Scenes((pictures.clamp(0, 1) * 255).round().to(torch.uint8), scenes.classes, scenes.boxes, patches)


def lower(images: Tensor, size: int, shown: int) -> Tensor:
    """Images (B, 3, S, S) in [0, 1] stored at `size` pixels in 8 bits and shown at `shown`."""
    if size != images.shape[-1]:
        images = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
        images = (images.clamp(0, 1) * 255).round() / 255
    if shown != size:
        images = F.interpolate(images, size=(shown, shown), mode="bicubic").clamp(0, 1)
    return images


def _choose(u: np.ndarray, options: Sequence, shares: Sequence[float] | None = None) -> np.ndarray:
    edges = np.cumsum(shares or [1 / len(options)] * len(options))
    return np.asarray(options)[np.minimum(np.searchsorted(edges, u, side="right"), len(options) - 1)]


def _margin(pads: Tensor) -> Tensor:
    """Which pixels (B, SIZE, SIZE) belong to borders of these widths (B,)."""
    ticks = torch.arange(SIZE)
    off = (ticks < pads[:, None]) | (ticks >= SIZE - pads[:, None])
    return off[:, :, None] | off[:, None, :]


def _cover(images: Tensor, boxes: Tensor, colours: Tensor, covered: Tensor) -> Tensor:
    """A card of one colour (B, 3) over the object and a little beyond, on the pictures that are `covered`."""
    ticks = torch.arange(SIZE) + 0.5
    reach = 0.15 * (boxes[:, 2] - boxes[:, 0])[:, None]
    across = (ticks > boxes[:, :1] - reach) & (ticks < boxes[:, 2:3] + reach)
    down = (ticks > boxes[:, 1:2] - reach) & (ticks < boxes[:, 3:4] + reach)
    card = down[:, :, None] & across[:, None, :] & covered.view(-1, 1, 1)
    return torch.where(card[:, None], colours[:, :, None, None], images)


def _fills(web: Web, u: np.ndarray) -> np.ndarray:
    """How the border of each picture is filled, (B,)."""
    return _choose(u[:, 6], FILLS[: len(web.fills)], web.fills)


def _borders(web: Web, u: np.ndarray) -> Tensor:
    """What a border would show all over the picture, (B, 3, SIZE, SIZE); black where it repeats the edge."""
    kinds = _fills(web, u)
    first, second = (torch.from_numpy(u[:, k : k + 3]).float()[:, :, None, None] for k in (9, 12))
    grey = first[:, :1].expand(-1, 3, -1, -1)
    ramp = torch.linspace(0, 1, SIZE).view(1, 1, 1, SIZE)
    ramp = torch.where(torch.from_numpy(u[:, 15] < 0.5).view(-1, 1, 1, 1), ramp, ramp.transpose(2, 3))
    field = torch.from_numpy(u[:, -3 * _NOISE * _NOISE :]).float().view(-1, 3, _NOISE, _NOISE)
    flat = torch.zeros(len(u), 3, SIZE, SIZE)
    ticks = torch.arange(SIZE)
    diagonals = ((ticks + ticks[:, None]) // 5 % 2).float()
    discs = ((ticks % 8 - 3.5) ** 2 + (ticks[:, None] % 8 - 3.5) ** 2 < 9).float()
    shown = {
        "grey": flat + grey,
        "white": flat + 1,
        "colour": flat + first,
        "gradient": first + ramp * (second - first),
        "noise": F.interpolate(field, size=(SIZE, SIZE), mode="bilinear"),
        "blocks": F.interpolate(field[:, :, :8, :8].round(), size=(SIZE, SIZE), mode="nearest"),
        "diagonals": first + diagonals * (second - first),
        "discs": first + discs * (second - first),
    }
    canvas = flat.clone()
    for kind, picture in shown.items():
        at = torch.from_numpy(kinds == kind)
        canvas[at] = picture[at]
    return canvas


def _moved(patches: Tensor, pads: Tensor) -> Tensor:
    """Patch labels (B, GRID, GRID) of scenes shrunk into borders of these widths: the label at each centre."""
    centres = (torch.arange(GRID) + 0.5) * SIZE / GRID
    source = (centres - pads[:, None]) * GRID / (SIZE - 2 * pads[:, None])  # in patches of the scene
    within = (source >= 0) & (source < GRID)
    at = source.clamp(0, GRID - 1e-3).long()
    moved = patches.gather(1, at[:, :, None].expand(-1, -1, GRID)).gather(2, at[:, None, :].expand(-1, GRID, -1))
    return torch.where(within[:, :, None] & within[:, None, :], moved, 0)


@lru_cache(maxsize=64)
def _small_sprites(size: int) -> Tensor:
    """Every sprite of every style at `size` pixels: (styles * names, 4, size, size)."""
    full = torch.cat([load_sprites()[style] for style in ALL_STYLES])
    return F.interpolate(full, size=(size, size), mode="bilinear", antialias=True)


def _print_symbols(
    web: Web, picture: Tensor, patches: Tensor, label: int, pad: int, draws: np.ndarray, u: float
) -> None:
    """3 to 8 symbols of one class along the border, in place; patches they cover by a quarter bear their label."""
    low, high = min(web.symbols[0], pad), min(web.symbols[1], pad)
    cell = SIZE // GRID
    for place, side, bigness, look in draws[: 3 + int(u * (_SYMBOLS - 2))]:
        size = low + int(bigness * (high - low + 1))
        along, edge = int(place * (SIZE - size + 1)), int(side * 4)
        depth = (pad - size) // 2
        far = SIZE - depth - size
        y, x = [(depth, along), (far, along), (along, depth), (along, far)][edge]
        style = ALL_STYLES.index(web.styles[int(look * len(web.styles))])
        sprite = _small_sprites(size)[style * len(NAMES) + label]
        window = picture[:, y : y + size, x : x + size]
        window.mul_(1 - sprite[3:]).add_(sprite[:3])
        cover = torch.zeros(SIZE, SIZE)
        cover[y : y + size, x : x + size] = sprite[3]
        patches[F.avg_pool2d(cover[None, None], cell)[0, 0] > 0.25] = 1 + label


def picture_source(web: Web, seed: int, split: str, n: int) -> Callable[[int, int], Scenes]:
    """Balanced pictures for a tower: (step, batch) -> pictures, from n rendered scenes of each kind, laid out anew."""
    kinds = ("one", "hidden", "several")
    pools = {}
    for kind in kinds:
        world = web.world(kind, balanced=True)
        parts = [render_scenes(world, seed, f"{split}/{kind}", range(k, min(k + 64, n))) for k in range(0, n, 64)]
        pools[kind] = Scenes(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def at(step: int, batch: int) -> Scenes:
        rng = np.random.Generator(np.random.Philox(key=seed, counter=[step, 7, 0, 0]))
        hidden = round(batch * web.hidden / 2)
        sizes = {"hidden": hidden, "several": batch // 2, "one": batch - batch // 2 - hidden}
        parts = []
        for kind, size in sizes.items():
            rows = torch.from_numpy(rng.integers(0, n, size))
            some = Scenes(*(column[rows] for column in pools[kind]))
            u = rng.random((size, _DRAWS + 4 * _SYMBOLS + 3 * _NOISE * _NOISE))
            parts.append(lay_out(web, some, u, hidden=kind == "hidden"))
        return Scenes(*(torch.cat(column) for column in zip(*parts, strict=True)))

    return at
