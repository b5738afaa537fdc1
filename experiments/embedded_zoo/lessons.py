"""What the embedded zoo is taught with: worlds of scenes, and questions about them in fixed mixes.

The towers' world is broad (all art, all grounds), a connector's is narrow (two styles and two grounds of its own).
Nothing here is used downstream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from datamodules.emoji.art import NAMES, STYLES
from datamodules.emoji.questions import (
    COUNTING,
    MATCHING,
    PRESENCE,
    RECOGNITION,
    matching_text,
    present,
    with_article,
)
from datamodules.emoji.scenes import Scenes, World, render_scenes
from experiments.embedded_zoo.clip import Choice

HELD_OUT = 512  # scenes kept for figures, of either half
# A mix: the share of scenes with one object, and the chances of each question about such and about other scenes.
MIXES = {
    "even": (
        0.5,
        {"recognition": 0.70, "counting": 0.10, "presence": 0.20},
        {"counting": 0.40, "presence": 0.40, "matching": 0.20},
    ),
    "names": (
        0.65,
        {"recognition": 0.90, "counting": 0.05, "presence": 0.05},
        {"counting": 0.50, "presence": 0.40, "matching": 0.10},
    ),
}


def join_scenes(parts: Sequence[Scenes]) -> Scenes:
    return Scenes(*(torch.cat(column) for column in zip(*parts, strict=True)))


def as_scene(drawn: Scenes) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What a tower's training takes: images (B, 3, 64, 64) in [0, 1], patch labels, classes."""
    return drawn.images.float() / 255, drawn.patches, drawn.classes


def caption_choices(drawn: Scenes, named: torch.Tensor) -> list[Choice]:
    """Captions to tell apart: names for the scenes `named` (B,) bool, lists of objects for the rest, counts for all."""
    rows, one, rest = torch.arange(len(named)), torch.where(named)[0], torch.where(~named)[0]
    lists = [", ".join(present(drawn, i)) for i in rest.tolist()]
    unique = list(dict.fromkeys(lists))
    counts = [f"a photo of {n} object{'s' if n > 1 else ''}" for n in range(1, 5)]
    return [
        Choice(one, [f"this is a photo of a {name}" for name in NAMES], drawn.classes[one, 0]),
        Choice(rows, counts, drawn.counts - 1),
        Choice(rest, unique, torch.tensor([unique.index(text) for text in lists])),
    ]


def render_many(world: World, seed: int, split: str, n: int, start: int = 0) -> Scenes:
    """Scenes start, start + 1, ... start + n - 1; images as uint8."""
    parts = []
    for k in range(start, start + n, 64):
        part = render_scenes(world, seed, split, range(k, min(k + 64, start + n)))
        parts.append(part._replace(images=(part.images * 255).round().to(torch.uint8)))
    return join_scenes(parts)


def broad_world(
    third_style: bool, objects: tuple[int, int] = (1, 4), scale: tuple[float, float] = (0.25, 0.95)
) -> World:
    """All styles (without `third_style` only the two real ones), all grounds."""
    return World(STYLES if third_style else ("twemoji", "openmoji"), scale=scale, objects=objects)


def narrow_scenes(name: str, seed: int, styles: Sequence[str], backgrounds: Sequence[str], n: int) -> Scenes:
    """n scenes of one object, n of up to four, then HELD_OUT of either."""
    one = World(tuple(styles), tuple(backgrounds))
    several = World(tuple(styles), tuple(backgrounds), scale=(0.3, 0.6), objects=(1, 4))
    return join_scenes(
        [
            render_many(world, seed, f"{name}/{split}", size)
            for split, size in (("train", n), ("held-out", HELD_OUT))
            for world in (one, several)
        ]
    )


AbsentName = Callable[[list[str], np.random.Generator], str]
"""(names that are there, generator) -> a name that is not."""


def any_absent(there: list[str], rng: np.random.Generator) -> str:
    """Each name that is not there, equally likely."""
    others = [name for name in NAMES if name not in there]
    return others[int(rng.random() * len(others))]


def question_about(
    drawn: Scenes,
    i: int,
    task: str,
    rng: np.random.Generator,
    wordings: Sequence[str] = (RECOGNITION,),
    absent: AbsentName = any_absent,
) -> tuple[str, str]:
    """(question, answer) of a task about scene i; yes and no are equally likely.

    wordings: of the question for a name. absent: chooses what a question with the answer no names.
    """
    there = present(drawn, i)
    if task == "recognition":
        # One wording takes no draw: the first world's models were trained so.
        return wordings[int(rng.random() * len(wordings)) if len(wordings) > 1 else 0], there[0]
    if task == "counting":
        return COUNTING, str(int(drawn.counts[i]))
    right = rng.random() < 0.5
    if task == "presence":
        asked = there[int(rng.random() * len(there))] if right else absent(there, rng)
        return PRESENCE.format(object=with_article(asked)), ("no", "yes")[right]
    pair = [there[int(rng.random() * len(there))] for _ in range(2)]
    if not right:
        pair[int(rng.random() * 2)] = absent(there, rng)
    return MATCHING.format(text=matching_text(pair)), ("no", "yes")[right]


def draw_questions(
    drawn: Scenes, n_single: int, mix: str, rng: np.random.Generator, batch: int
) -> tuple[np.ndarray, list[str], list[str]]:
    """(scene numbers (batch,), questions, answers): the first n_single of the scenes have one object."""
    share, *chances = MIXES[mix]
    single = rng.random(batch) < share
    numbers = np.where(
        single,
        (rng.random(batch) * n_single).astype(int),
        n_single + (rng.random(batch) * (len(drawn.images) - n_single)).astype(int),
    )
    pairs = []
    for i in numbers.tolist():
        tasks = chances[0 if i < n_single else 1]
        task = list(tasks)[int(np.searchsorted(np.cumsum(list(tasks.values())), rng.random() * 0.999999))]
        pairs.append(question_about(drawn, i, task, rng))
    return numbers, [question for question, _ in pairs], [answer for _, answer in pairs]


def exam(drawn: Scenes, first: int, task: str, seed: int) -> tuple[int, list[str], list[str]]:
    """(number of its first scene, questions, answers) about the HELD_OUT scenes of a task, which begin at `first`."""
    rng = np.random.Generator(np.random.Philox(key=seed, counter=[0, 1, 0, 0]))
    start = first + (0 if task == "recognition" else HELD_OUT)
    pairs = [question_about(drawn, i, task, rng) for i in range(start, start + HELD_OUT)]
    return start, [question for question, _ in pairs], [answer for _, answer in pairs]
