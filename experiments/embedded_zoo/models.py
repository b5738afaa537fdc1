"""Training of a connector and its LLM through the adapter's own code, on cached features of the frozen tower.

Called by `__main__.py`. Questions and scenes come in as plain lists and tensors, so this file knows no data set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from experiments.embedded_zoo.fit import fit
from model_zoo.base import MLLM
from model_zoo.embedded.config import tower_prefix

VARIANTS = (("cls", False), ("cls", True), ("infer", False), ("vqa", False))
"""(template style, ranking layout): training loss, candidate ranking, free and short generation."""


class Asked(NamedTuple):
    """A training batch: scene numbers (B,), questions, answers, and which of VARIANTS each row is laid out as."""

    scenes: Tensor
    questions: list[str]
    answers: list[str]
    variants: list[int]


@torch.no_grad()
def tower_features(model: Any, name: str, images: Tensor, batch: int = 128) -> tuple[Tensor, ...]:
    """The frozen tower on images (N,3,64,64), in float16: CNN (tokens,), ViT (last features, block before)."""
    convolutional = tower_prefix(name) == "tower."
    rows = []
    for part in images.split(batch):
        pixels = model.prepare(part.float() / 255 if part.dtype == torch.uint8 else part)
        rows.append((model.tower(pixels),) if convolutional else model.connector.see(pixels))
    return tuple(torch.cat([r[k] for r in rows]).half() for k in range(len(rows[0])))


@contextmanager
def from_cache(model: Any, name: str, features: tuple[Tensor, ...]) -> Iterator[None]:
    """Inside, `images` are scene numbers (B,) and the tower answers from `features`; everything else runs as ever."""
    convolutional = tower_prefix(name) == "tower."

    def look(numbers: Tensor) -> Any:
        found = tuple(f[numbers].float() for f in features)
        return found[0] if convolutional else found

    host, attribute = (model.tower, "forward") if convolutional else (model.connector, "see")
    object.__setattr__(model, "prepare", lambda numbers: numbers)
    object.__setattr__(host, attribute, look)
    try:
        yield
    finally:
        object.__delattr__(model, "prepare")
        object.__delattr__(host, attribute)


@contextmanager
def laid_out(model: Any, variants: Sequence[int]) -> Iterator[None]:
    """Inside, row i of `answer_loss` uses the token layout VARIANTS[variants[i]] instead of the training layout."""
    original, turn = model.prefix_ids, iter(variants)

    def layout(*args: Any, ranking: bool, style: str = "cls") -> list[int]:
        style, ranking = VARIANTS[next(turn)]
        return original(*args, ranking=ranking, style=style)

    object.__setattr__(model, "prefix_ids", layout)
    try:
        yield
    finally:
        object.__delattr__(model, "prefix_ids")


def train_model(
    model: MLLM,
    name: str,
    features: tuple[Tensor, ...],
    asked: Callable[[int], Asked],
    steps: int,
    lr: float,
    slow: Sequence[nn.Parameter] = (),
    slow_share: float = 1.0,
) -> float:
    """Train everything but the tower, in place, `slow` at a share of the rate.

    Returns the final mean loss in nats per token.
    """
    prefix = tower_prefix(name)
    parameters = []
    for key, parameter in model.named_parameters():
        parameter.requires_grad_(not key.startswith(prefix))
        parameters += [parameter] if parameter.requires_grad else []

    def loss_at(step: int) -> Tensor:
        batch = asked(step)
        with laid_out(model, batch.variants):
            nats, tokens = model.answer_loss(batch.scenes, batch.questions, batch.answers)
        return nats.sum() / tokens.sum()

    with from_cache(model, name, features):
        return fit(parameters, loss_at, steps, lr, name, slow, slow_share)


@torch.no_grad()
def accuracy(
    model: MLLM,
    name: str,
    features: tuple[Tensor, ...],
    questions: list[str],
    answers: list[str],
    candidates: list[str],
    first: int = 0,
    batch: int = 64,
) -> float:
    """Top-1 of ranking `candidates` on scenes first, first + 1, ...: one question and answer each."""
    hits = 0
    with from_cache(model, name, features):
        for k in range(0, len(questions), batch):
            some = questions[k : k + batch]
            scores = model.score(torch.arange(first + k, first + k + len(some)), some, candidates)
            hits += sum(
                candidates[i] == a for i, a in zip(scores.argmax(1).tolist(), answers[k : k + batch], strict=True)
            )
    return round(hits / len(questions), 4)
