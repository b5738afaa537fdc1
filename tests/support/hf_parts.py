"""What tests of the hub's families ask, and what they know of each family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

CANDIDATES = ["cat", "carpet", "a red car", "a red cat", "the dog on the mat", "in a house", "cat"]
QUESTIONS = ["what is in the picture?", "a photo of"]
ANSWERS = ["a red car", "dog"]


class Family(NamedTuple):
    """build: () -> (configuration, processor). fits: side of a frame the official processor does not resize, or None.

    other: a side that it does resize. tree: packed in one forward; else candidates as a batch behind a cached prefix.
    """

    build: Callable[[], tuple[Any, Any]]
    fits: int | None
    other: int
    tree: bool = True
