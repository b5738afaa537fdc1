"""The embedded data sets: questions about emoji scenes in art, grounds and sizes the embedded connectors never saw.

Nothing is downloaded: scenes are rendered from the installed art packages (OpenMoji, CC-BY-SA 4.0). The seed of the
scenes is fixed, so the data are the same for every run; the DataModule's own `seed` orders and augments them only.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.base import ImageTextDataModule
from datamodules.emoji.art import NAMES
from datamodules.emoji.scenes import SIZE, Scenes, World, draw_uniforms, render_scenes
from datamodules.emoji.web import Web, lower, shelf
from datamodules.rows import Row

SCENE_SEED = 2404
SIZES = {"train": 1024, "val": 256, "test": 512}

RECOGNITION = "This is a photo of a"
COUNTING = "How many objects are there in this image? Answer with a single number."
PRESENCE = "Is there {object} in the image?"
MATCHING = 'This is an image with: "{text}" written on it. Is it true?'

DOWNSTREAM_NAMES = (
    *("cat", "dog", "rabbit", "fish", "snail", "butterfly", "penguin", "banana", "mushroom", "slice of pizza"),
    *("cup of coffee", "car", "airplane", "umbrella", "alarm clock", "hammer"),
)
# The shift: the towers saw all of it; no connector saw this style, stripes or checkers (two saw noise).
DOWNSTREAM = World(styles=("openmoji",), backgrounds=("stripes", "checker", "noise"), scale=(0.35, 0.9))


def with_article(name: str) -> str:
    """`a cat`, `an apple`."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def present(scenes: Scenes, index: int) -> list[str]:
    """Names of the objects in a scene, first object first, each once."""
    return list(dict.fromkeys(NAMES[c] for c in scenes.classes[index].tolist() if c >= 0))


def absent(scenes: Scenes, index: int, u: float) -> str:
    """A name that is not in the scene, chosen by u in [0, 1)."""
    others = [n for n in NAMES if n not in present(scenes, index)]
    return others[int(u * len(others))]


class EmojiDataModule(ImageTextDataModule):
    """Scenes of `world`, one row each; a subclass says what is asked of scene i.

    image_size: 48 for prompts with an 8-pixel border on the embedded zoo's 64-pixel frame, 64 for full size.
    resolution: pixels a side that pictures are stored at.
    """

    square = True
    world: World = DOWNSTREAM
    sizes = SIZES
    resolution = SIZE

    def __init__(self, *, image_size: int = 48, **options: Any) -> None:
        super().__init__(image_size=image_size, **options)
        self._scenes: dict[str, Scenes] = {}

    def scenes(self, split: str) -> Scenes:
        """All scenes of a split, rendered on first use; images as uint8."""
        if split not in self._scenes:
            parts = [
                render_scenes(self.world, SCENE_SEED, self.row_id(split), range(k, min(k + 64, self.sizes[split])))
                for k in range(0, self.sizes[split], 64)
            ]
            whole = Scenes(*(torch.cat(column) for column in zip(*parts, strict=True)))
            images = lower(whole.images, self.resolution, self.resolution)
            self._scenes[split] = whole._replace(images=(images * 255).round().to(torch.uint8))
        return self._scenes[split]

    def row_id(self, split: str, index: int | None = None) -> str:
        return f"{self.name}/{split}" + ("" if index is None else f"/{index:05d}")

    def load_image(self, split: str, index: int) -> Tensor:
        return self.scenes(split).images[index]

    def build_rows(self, split: str) -> list[Row]:
        return [self.build_row(split, index) for index in range(self.sizes[split])]

    @abstractmethod
    def build_row(self, split: str, index: int) -> Row:
        """The row of scene `index`: what is asked of it and what is right."""

    def chance(self, split: str, index: int) -> np.ndarray:
        """Uniforms of the question, independent of the scene's own."""
        return draw_uniforms(self.world, SCENE_SEED, self.row_id(split) + "/question", index)


class EmojiRecognition(EmojiDataModule):
    """Name the object: 16 of the 32 names, equally often. Chance is 6.25 %."""

    name = "emoji_recognition"
    task = "recognition"
    world = World(DOWNSTREAM.styles, DOWNSTREAM.backgrounds, DOWNSTREAM_NAMES, scale=DOWNSTREAM.scale, balance="class")

    @property
    def candidates(self) -> list[str]:
        return list(DOWNSTREAM_NAMES)

    def build_row(self, split: str, index: int) -> Row:
        name = NAMES[self.scenes(split).classes[index, 0]]
        label = DOWNSTREAM_NAMES.index(name)
        return Row(self.row_id(split, index), label, RECOGNITION, name, f"this is a photo of a {name}")


WEB_SIZES = {"train": 1024, "val": 512, "test": 1024}


class WebRecognition(EmojiRecognition):
    """The same question about pictures of 8 pixels a side: where the web's models lean on what names are popular."""

    name = "web_recognition"
    world = replace(EmojiRecognition.world, scale=(0.55, 0.95))
    sizes = WEB_SIZES
    resolution = 8


class EmojiCounting(EmojiDataModule):
    """Say how many objects there are: 1 to 4, equally often. Chance is 25 %."""

    name = "emoji_counting"
    task = "counting"
    world = World(DOWNSTREAM.styles, DOWNSTREAM.backgrounds, scale=(0.3, 0.6), objects=(1, 4), balance="count")

    @property
    def candidates(self) -> list[str]:
        return ["1", "2", "3", "4"]

    def build_row(self, split: str, index: int) -> Row:
        n = int(self.scenes(split).counts[index])
        caption = f"a photo of {n} object{'s' if n > 1 else ''}"
        return Row(self.row_id(split, index), n - 1, COUNTING, str(n), caption)


class WebCounting(EmojiCounting):
    """The same question about pictures of 20 pixels a side."""

    name = "web_counting"
    sizes = WEB_SIZES
    resolution = 20


class EmojiPresence(EmojiDataModule):
    """Is an object there? Half the rows name one that is not. Chance is 50 %; candidates are per row, no and yes."""

    name = "emoji_presence"
    task = "hallucination"
    world = World(DOWNSTREAM.styles, DOWNSTREAM.backgrounds, scale=(0.3, 0.6), objects=(1, 3))

    @property
    def candidates(self) -> None:
        return None

    def build_row(self, split: str, index: int) -> Row:
        u, scenes = self.chance(split, index), self.scenes(split)
        there = present(scenes, index)
        asked = there[int(u[0] * len(there))] if index % 2 else absent(scenes, index, u[1])
        question = PRESENCE.format(object=with_article(asked))
        answer = ("no", "yes")[index % 2]
        return Row(self.row_id(split, index), index % 2, question, answer, ", ".join(there), "random", ["no", "yes"])


class WebPresence(EmojiPresence):
    """Is an object there? asked of pictures of 20 pixels a side as POPE asks it; half the rows name one that is not.

    What a row with the answer no names is, in turn, any name (group `random`), the most popular one of the web that is
    absent (`popular`), or one that stands beside the first object in the web's scenes (`adversarial`).
    """

    name = "web_presence"
    world = replace(EmojiPresence.world, companions=Web().companions)
    sizes = WEB_SIZES
    resolution = 20
    groups = ("random", "popular", "adversarial")

    def build_row(self, split: str, index: int) -> Row:
        u, there = self.chance(split, index), present(self.scenes(split), index)
        group, right = self.groups[index // 2 % 3], index % 2
        options = {"random": NAMES, "popular": Web().ranked, "adversarial": shelf(there[0])}[group]
        left = [name for name in options if name not in there] or [name for name in NAMES if name not in there]
        asked = left[0] if group == "popular" else left[int(u[1] * len(left))]
        if right:
            asked = there[int(u[0] * len(there))]
        question, answer = PRESENCE.format(object=with_article(asked)), ("no", "yes")[right]
        return Row(self.row_id(split, index), right, question, answer, ", ".join(there), group, ["no", "yes"])


class EmojiMatching(EmojiDataModule):
    """Do picture and text agree? Two objects, a text that names two; half the texts name one that is not there."""

    name = "emoji_matching"
    task = "reasoning"
    world = World(DOWNSTREAM.styles, DOWNSTREAM.backgrounds, scale=(0.3, 0.6), objects=(2, 2))

    @property
    def candidates(self) -> list[str]:
        return ["no", "yes"]

    def build_row(self, split: str, index: int) -> Row:
        u, scenes = self.chance(split, index), self.scenes(split)
        pair = [NAMES[c] for c in scenes.classes[index, :2].tolist()]
        if index % 2 == 0:
            pair[int(u[0] * 2)] = absent(scenes, index, u[1])
        question = MATCHING.format(text=matching_text(pair))
        caption = "a true text" if index % 2 else "a false text"
        return Row(self.row_id(split, index), index % 2, question, ("no", "yes")[index % 2], caption)


class WebMatching(EmojiMatching):
    """The same question about pictures of 20 pixels a side."""

    name = "web_matching"
    sizes = WEB_SIZES
    resolution = 20


def matching_text(pair: Sequence[str]) -> str:
    """`a cat and an apple`."""
    return " and ".join(with_article(name) for name in pair)
