"""What the models on pretrained towers learn the names of: emoji, and two pullovers, which no emoji shows.

A thing is one picture; names after the first are synonyms, used by chance. No photograph is among them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from datamodules.emoji.art import OBJECTS, SPRITE, STYLES, build_sketch, build_sticker, fit_sprite
from datamodules.emoji.art import load_openmoji as openmoji
from datamodules.emoji.art import load_twemoji as twemoji

CLOTHES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("1f455", ("t-shirt",)),
    ("1f456", ("trousers", "jeans")),
    ("1f457", ("dress",)),
    ("1f9e5", ("coat", "jacket")),
    ("1f461", ("sandal",)),
    ("1fa74", ("sandal", "flip-flop")),
    ("1f454", ("shirt", "shirt and tie")),
    ("1f45a", ("shirt", "blouse")),
    ("1f45f", ("sneaker", "running shoe")),
    ("1f45c", ("bag", "handbag")),
    ("1f45d", ("bag", "pouch")),
    ("1f97e", ("ankle boot", "hiking boot")),
    ("1f462", ("boot", "ankle boot")),
    ("1f458", ("kimono",)),
    ("1f459", ("bikini",)),
    ("1f45b", ("purse",)),
    ("1f45e", ("leather shoe",)),
    ("1f460", ("high heel",)),
    ("1f97f", ("flat shoe",)),
    ("1fa70", ("ballet shoe",)),
    ("1fa71", ("swimsuit",)),
    ("1fa72", ("briefs",)),
    ("1fa73", ("shorts",)),
    ("1f97b", ("sari",)),
    ("1f97c", ("lab coat",)),
    ("1f9ba", ("safety vest",)),
    ("1f94b", ("karate suit",)),
    ("1f3bd", ("running shirt",)),
    ("1f9e6", ("socks",)),
    ("1f9e4", ("gloves",)),
    ("1f9e3", ("scarf",)),
    ("1f392", ("backpack",)),
    ("1f4bc", ("briefcase",)),
    ("1f9f3", ("suitcase",)),
    ("1f9e2", ("cap",)),
    ("1f452", ("sun hat",)),
    ("1f3a9", ("top hat",)),
    ("1f393", ("graduation cap",)),
    ("1f453", ("glasses",)),
    ("1f97d", ("goggles",)),
    ("26f8", ("ice skate",)),
)

OTHERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("1f42d", ("mouse",)),
    ("1f42e", ("cow",)),
    ("1f437", ("pig",)),
    ("1f981", ("lion",)),
    ("1f42f", ("tiger",)),
    ("1f43b", ("bear",)),
    ("1f43c", ("panda",)),
    ("1f989", ("owl",)),
    ("1f986", ("duck",)),
    ("1f40d", ("snake",)),
    ("1f433", ("whale",)),
    ("1f347", ("grapes",)),
    ("1f34b", ("lemon",)),
    ("1f955", ("carrot",)),
    ("1f33d", ("corn",)),
    ("1f35e", ("bread",)),
    ("1f369", ("doughnut",)),
    ("1f37a", ("glass of beer",)),
    ("1f3e0", ("house",)),
    ("1f68c", ("bus",)),
    ("1f682", ("train",)),
    ("26f5", ("sailing boat",)),
    ("1f3b8", ("guitar",)),
    ("1f3ba", ("trumpet",)),
    ("1f4f7", ("camera",)),
    ("1f4f1", ("mobile phone",)),
    ("1f4da", ("books",)),
    ("2702", ("scissors",)),
    ("1fa91", ("chair",)),
    ("1f6cf", ("bed",)),
    ("1f33b", ("sunflower",)),
    ("1f335", ("cactus",)),
    ("2693", ("anchor",)),
)

PULLOVERS = (("crew", ("pullover", "sweater")), ("roll", ("pullover", "sweater")))

THINGS: tuple[tuple[str, tuple[str, ...]], ...] = (
    *((code, (name,)) for name, code in OBJECTS.items()),
    *CLOTHES,
    *OTHERS,
    *PULLOVERS,
)
THING_NAMES: tuple[str, ...] = tuple(dict.fromkeys(name for _, names in THINGS for name in names))


def draw_pullover(collar: str, outlined: bool) -> Tensor:
    """A knitted pullover with long sleeves, `crew` neck or `roll` neck: (4, SPRITE, SPRITE) premultiplied RGBA."""
    art = Image.new("RGBA", (288, 288))
    pen = ImageDraw.Draw(art)
    body, band = ("#5C913B", "#3E721D") if collar == "crew" else ("#92D3F5", "#61B2E4")
    line: dict[str, Any] = {"outline": "black", "width": 7} if outlined else {}
    for sign in (-1, 1):  # sleeves, then their cuffs

        def at(x: float, y: float, sign: int = sign) -> tuple[float, float]:
            return 144 + sign * x, y

        pen.polygon([at(44, 44), at(82, 58), at(128, 214), at(96, 224), at(62, 122)], fill=body, **line)
        pen.polygon([at(128, 212), at(133, 234), at(100, 244), at(95, 222)], fill=band, **line)
    pen.polygon([(98, 44), (190, 44), (214, 96), (210, 240), (78, 240), (74, 96)], fill=body, **line)
    pen.rectangle((78, 238, 210, 260), fill=band, **line)
    if collar == "crew":
        pen.chord((104, 20, 184, 74), 0, 180, fill=band, **line)
    else:
        pen.rectangle((112, 18, 176, 56), fill=band, **line)
    for x in range(92, 206, 16):  # ribs
        pen.line((x, 242, x, 257), fill=body, width=3)
    return fit_sprite(art)


@lru_cache(maxsize=1)
def thing_sprites() -> Tensor:
    """All things in all styles of `STYLES`: (styles, things, 4, SPRITE, SPRITE) premultiplied RGBA."""
    drawn = [code for code, _ in PULLOVERS]
    flat = torch.stack([draw_pullover(c, False) if c in drawn else twemoji(c) for c, _ in THINGS])
    lined = torch.stack([draw_pullover(c, True) if c in drawn else openmoji(c) for c, _ in THINGS])
    made = {"twemoji": flat, "openmoji": lined, "sketch": build_sketch(lined), "sticker": build_sticker(flat)}
    sprites = torch.stack([made[style] for style in STYLES])
    assert sprites.shape[-1] == SPRITE
    return sprites
