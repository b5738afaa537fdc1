"""Models loaded one after the other: in the order that reads least, two at a time where they fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from model_zoo.memory.parts import Part, total


class Loading(NamedTuple):
    """How models are loaded one after the other.

    order: their names. beside: pairs of names (present, next) that fit in memory together while the present one is
    scored, present "" being what is held all along. extra: most bytes that such a pair takes beyond what is held.
    reads: bytes read until all were loaded, where a model that is beside the next one gives that what both have.
    """

    order: list[str]
    beside: list[tuple[str, str]]
    extra: int
    reads: int

    @property
    def ahead(self) -> list[str]:
        """The models that are beside the one before them."""
        return [after for before, after in pairwise(["", *self.order]) if (before, after) in self.beside]


def plan_loading(
    held: Sequence[Part],
    models: Mapping[str, tuple[Sequence[Part], int]],
    work: int,
    fits: Callable[[int], bool],
    *,
    reorder: bool,
) -> Loading:
    """Plan how models are loaded beside what is held.

    Args:
        held: parts in memory all along, those of the sources.
        models: name -> its parts, and bytes that scoring takes beside them.
        work: bytes that scoring what is held takes.
        fits: whether so many bytes fit beside what is held.
        reorder: whether the order may be another than that of `models`; it never depends on `fits`.
    """
    parts = {name: own for name, (own, _) in models.items()}
    order = loading_order(held, parts) if reorder else [*models]
    present = {"": (list[Part](), work), **models}
    extra = {
        (before, after): new_bytes(held, [*own, *parts[after]]) + busy
        for before, (own, busy) in present.items()
        for after in models
        if before != after
    }
    beside = [pair for pair, size in extra.items() if fits(size)]
    turns = [*pairwise(["", *order])]
    reads = sum(new_bytes([*held, *(present[t[0]][0] if t in beside else ())], parts[t[1]]) for t in turns)
    return Loading(order, beside, max((extra[turn] for turn in turns if turn in beside), default=0), reads)


def loading_order(held: Sequence[Part], models: Mapping[str, Sequence[Part]]) -> list[str]:
    """Names of models in an order in which neighbours have most in common; ties go to the given order.

    A greedy chain from each model, of which the first one counts that reads least.
    """

    def taken(before: str, after: str) -> int:  # from the one before, beyond what it has in any place
        return new_bytes(held, models[after]) - new_bytes([*held, *models[before]], models[after])

    def chain(first: str) -> list[str]:
        found, left = [first], [name for name in models if name != first]
        while left:
            found.append(max(left, key=lambda name: taken(found[-1], name)))
            left.remove(found[-1])
        return found

    chains = [chain(first) for first in models]
    return max(chains, key=lambda names: sum(taken(*pair) for pair in pairwise(names)), default=[])


def new_bytes(held: Sequence[Part], model: Sequence[Part]) -> int:
    """Bytes of a model's parts that are not held."""
    return total([*held, *model]) - total(held)
