"""What a tuning searches: which numbers and choices, from where to where, and how a range grows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

Value = float | int | str | bool
EDGE = 0.05  # the outer twentieth of a range, on its log scale, is its edge
GROWTH = 4.0  # how far, as a factor, a range grows where the best value lies on its edge


@dataclass(frozen=True)
class Range:
    """Numbers from low to high on a log scale, which may grow as far as least and most. whole: integers only."""

    low: float
    high: float
    least: float
    most: float
    whole: bool = False

    def at(self, place: float) -> float:
        """The number at a place in [0, 1] of the range, as `rounded`."""
        return self.rounded(self.low * (self.high / self.low) ** place)

    def rounded(self, value: float) -> float:
        """Three significant digits, or a whole number: what a person can read in a recipe, and still in the range."""
        if self.whole:
            return min(max(round(value), int(self.low)), int(self.high))
        return min(max(float(f"{value:.3g}"), self.low), self.high)

    def edge(self, value: float, tried: Sequence[float]) -> str:
        """`lower`, `upper` or nothing: no value below, or above, was tried, or the range ends there.

        tried: the values that were, this one among them.
        """
        if self.low == self.high:
            return ""
        place = math.log(value / self.low) / math.log(self.high / self.low)
        if place < EDGE or value == min(tried):
            return "lower"
        return "upper" if place > 1 - EDGE or value == max(tried) else ""

    def can_grow(self, edge: str) -> bool:
        """Whether there is room beyond an edge."""
        return self.low > self.least if edge == "lower" else self.high < self.most

    def grown(self, edge: str) -> Range:
        """The range with more room beyond an edge."""
        if edge == "lower":
            low = max(self.low / GROWTH, self.least)
            return replace(self, low=max(1, int(low)) if self.whole else float(f"{low:.3g}"))
        high = min(self.high * GROWTH, self.most)
        return replace(self, high=int(high) if self.whole else float(f"{high:.3g}"))

    def strip(self, before: Range) -> Range:
        """What growing has added to the range `before`; the range itself where it has not grown."""
        if self.low < before.low:
            return replace(self, high=before.low)
        return replace(self, low=before.high) if self.high > before.high else self


class Dimension(NamedTuple):
    """One thing that is searched for.

    only: (another dimension, its value) without which this one is not asked for.
    """

    values: Range | tuple[Value, ...]
    only: tuple[str, Value] | None = None


Space = dict[str, Dimension]

# How long a step may be, in pixel units, by the rule of the update: where the search starts, not where it must end.
RATES = {"normalized": (3.0, 30.0), "sgd": (0.03, 1.0), "adam": (0.003, 0.1)}
# The paper's FCA (mean token distance), the scale-free one (over the tokens' norm), and TSE (a cosine times about 100).
FCA, FCA_RELATIVE, TSE = (0.001, 0.1), (0.03, 3.0), (0.0003, 0.03)

# Words that fix a dimension of the search.
FIXES = {"method.lr": "lr", "prompt.init": "init", "train.max_steps": "steps", "train.epochs": "steps"}


class Arm(NamedTuple):
    """A method as it is tuned. base: `method=` of its runs. fca, tse: the losses whose weight is searched for.

    words: `key: value` of every run of it beside what is searched for: its kind of prompt, of step, of frames.
    """

    name: str
    base: str
    fca: bool = False
    tse: bool = False
    words: Mapping[str, Any] = {}


# fca and tse are evp with one loss more.
METHODS = {
    "vp": Arm("vp", "vp"),
    "evp": Arm("evp", "evp"),
    "fca": Arm("fca", "tvp", fca=True),
    "tse": Arm("tse", "tvp", tse=True),
    "tvp": Arm("tvp", "tvp", fca=True, tse=True),
}


def initial_space(arm: Arm, optimizer: str, max_steps: int, inits: tuple[str, ...]) -> Space:
    """Where the search for a method starts.

    optimizer: rule of its update. max_steps: most updates of a trial. inits: the values of prompt.init it may take.
    """

    def numbers(ends: tuple[float, float], least: float, most: float) -> Range:
        return Range(*ends, least=least, most=most)

    space: Space = {"lr": Dimension(numbers(RATES[optimizer], 1e-6, 1e4))}
    space["steps"] = Dimension(Range(max(1, max_steps // 8), max_steps, 1, max_steps, whole=True))
    space["init"] = Dimension(inits)
    if arm.fca:
        space["fca_relative"] = Dimension((False, True))
        space["fca"] = Dimension(numbers(FCA, 1e-5, 1e3), only=("fca_relative", False))
        space["fca_scale_free"] = Dimension(numbers(FCA_RELATIVE, 1e-4, 1e4), only=("fca_relative", True))
    if arm.tse:
        space["tse"] = Dimension(numbers(TSE, 1e-6, 1e2))
    return space


def asked(space: Space, params: Mapping[str, Value], name: str) -> bool:
    """Whether a dimension is asked for beside the parameters chosen so far."""
    only = space[name].only
    return only is None or params.get(only[0]) == only[1]


def edges_of(space: Space, best: Mapping[str, Value], tried: Sequence[Mapping[str, Value]]) -> dict[str, str]:
    """Dimension -> `lower` or `upper`, of those where the best point lies on an edge among all that were tried."""
    found = {}
    for name, dimension in space.items():
        if name in best and isinstance(dimension.values, Range):
            others = [float(params[name]) for params in tried if name in params]
            found[name] = dimension.values.edge(float(best[name]), others)
    return {name: edge for name, edge in found.items() if edge}


def range_of(space: Space, name: str) -> Range:
    """The range of a numeric dimension."""
    values = space[name].values
    assert isinstance(values, Range), f"{name} is a choice"
    return values


def grown(space: Space, edges: Mapping[str, str]) -> Space:
    """The space with more room beyond these edges (`edges_of`), where there may be more; else the same space."""
    moving = {name: edge for name, edge in edges.items() if range_of(space, name).can_grow(edge)}
    return space | {n: space[n]._replace(values=range_of(space, n).grown(edge)) for n, edge in moving.items()}


def words_of(arm: Arm, params: Mapping[str, Value], steps_per_epoch: int) -> dict[str, Any]:
    """The `key: value` words of a run of a method with these parameters; a sweep's cell takes them over."""
    words: dict[str, Any] = {}
    if "lr" in params:
        words["method.lr"] = params["lr"]
    if "steps" in params:
        # Two validations whatever the length: the best of more would be better by chance alone, and each costs a small
        # model as much as thirty updates.
        steps = int(params["steps"])
        words |= {"train.max_steps": steps, "train.epochs": math.ceil(steps / steps_per_epoch)}
        words |= {"train.val_every_steps": math.ceil(steps / 2)}
    if "init" in params:
        words["prompt.init"] = params["init"]
    if arm.base == "tvp":
        relative = bool(params.get("fca_relative", False))
        words |= {"method.fca_relative": relative}
        words |= {"method.fca": params.get("fca_scale_free" if relative else "fca", 0.0)}
        words |= {"method.tse": params.get("tse", 0.0)}
    return {key: value for key, value in words.items() if key not in arm.words}
