"""Paired, alternating timing, and how often a side calls the vision tower and the LLM."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

Side = Callable[[], Any]
"""One pass of what is timed: a pass of ranking, or one training step."""


def seconds(call: Side) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def paired(sides: Iterable[Side], rounds: int) -> dict[Side, float]:
    """Median seconds of each side over the rounds.

    The sides take turns within a round, and every other round in reverse, so that a drifting machine hits all alike.
    """
    times: dict[Side, list[float]] = {side: [] for side in sides}
    for turn in range(rounds):
        for side in list(times)[:: -1 if turn % 2 else 1]:
            times[side].append(seconds(side))
    return {side: statistics.median(values) for side, values in times.items()}


@contextmanager
def counted(model: Any) -> Iterator[dict[str, int]]:
    """Forward calls made inside the `with`: {"vision": n, "llm": n}, from hooks on the first layer of each stack.

    An encoder-decoder LLM counts its encoder and its decoder: one pass through both is 2.
    """
    calls = {"vision": 0, "llm": 0}

    def hook(what: str) -> Callable:
        def add(*_: Any) -> None:
            calls[what] += 1

        return add

    watched = {"vision": vision_layers(model), "llm": first_layers(model.llm)}
    handles = [first.register_forward_pre_hook(hook(what)) for what, layers in watched.items() for first in layers]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def vision_layers(model: Any) -> list[nn.Module]:
    """The first layer of the vision tower; of a model of the hub, of the first stack outside its LLM."""
    if hasattr(model.connector, "vision"):
        return first_layers(model.connector.vision)
    return [layer for layer in first_layers(model.model) if layer not in first_layers(model.llm)][:1]


def first_layers(module: nn.Module) -> list[nn.Module]:
    """The first member of every outermost `nn.ModuleList`: one per stack of transformer blocks."""
    found: list[nn.Module] = []
    for child in module.children():
        found += [child[0]] if isinstance(child, nn.ModuleList) else first_layers(child)
    return found
