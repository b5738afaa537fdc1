"""The embedded data sets: questions about emoji scenes in art, grounds and sizes the embedded connectors never saw.

Nothing is downloaded: scenes are rendered from the installed art packages (OpenMoji, CC-BY-SA 4.0). The seed of the
scenes is fixed, so the data are the same for every run; the DataModule's own `seed` orders and augments them only.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.base import ImageTextDataModule
from datamodules.emoji.art import NAMES
from datamodules.emoji.scenes import Scenes, World, draw_uniforms, render_scenes
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
    """

    square = True
    world: World = DOWNSTREAM

    def __init__(self, *, image_size: int = 48, **options: Any) -> None:
        super().__init__(image_size=image_size, **options)
        self._scenes: dict[str, Scenes] = {}

    def scenes(self, split: str) -> Scenes:
        """All scenes of a split, rendered on first use; images as uint8."""
        if split not in self._scenes:
            parts = [
                render_scenes(self.world, SCENE_SEED, self.row_id(split), range(k, min(k + 64, SIZES[split])))
                for k in range(0, SIZES[split], 64)
            ]
            whole = Scenes(*(torch.cat(column) for column in zip(*parts, strict=True)))
            self._scenes[split] = whole._replace(images=(whole.images * 255).round().to(torch.uint8))
        return self._scenes[split]

    def row_id(self, split: str, index: int | None = None) -> str:
        return f"{self.name}/{split}" + ("" if index is None else f"/{index:05d}")

    def load_image(self, split: str, index: int) -> Tensor:
        return self.scenes(split).images[index]

    def build_rows(self, split: str) -> list[Row]:
        return [self.build_row(split, index) for index in range(SIZES[split])]

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


def matching_text(pair: Sequence[str]) -> str:
    """`a cat and an apple`."""
    return " and ".join(with_article(name) for name in pair)
