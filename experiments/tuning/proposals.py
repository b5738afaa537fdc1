"""Which settings to try next: a function of the seed and of what was recorded, and of nothing else."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from experiments.tuning.space import Dimension, Range, Space, Value, asked, range_of

Params = dict[str, Value]
# One column each, the same for every method: methods start from the same lr, steps and init.
COLUMNS = ("lr", "steps", "init", "fca_relative", "fca", "fca_scale_free", "tse")
PRIMES = (2, 3, 5, 7, 11, 13, 17)


class Told(NamedTuple):
    """A trial that is over. value: its score, None where it failed."""

    params: Params
    value: float | None


def places(seed: int, number: int) -> dict[str, float]:
    """Column -> place in [0, 1) of the given point of a seeded quasi-random (Weyl) sequence."""
    shift = random.Random(seed)
    return {name: (shift.random() + number * math.sqrt(p)) % 1 for name, p in zip(COLUMNS, PRIMES, strict=True)}


def first_proposals(space: Space, seed: int, count: int) -> list[Params]:
    """Points spread evenly over the whole space."""
    return [_point(space, places(seed, number)) for number in range(count)]


def _point(space: Space, place: dict[str, float]) -> Params:
    params: Params = {}
    for name, dimension in space.items():
        if asked(space, params, name):
            params[name] = _value(dimension, place[name])
    return params


def _value(dimension: Dimension, place: float) -> Value:
    values = dimension.values
    return values.at(place) if isinstance(values, Range) else values[int(place * len(values))]


def next_proposals(space: Space, told: Sequence[Told], seed: int, count: int) -> list[Params]:
    """`count` points by TPE, from the trials that are over, in their order. seed: of these points alone."""
    return _ask(space, told, seed, [{} for _ in range(count)])


def proposals_beyond(before: Space, space: Space, told: Sequence[Told], seed: int, count: int) -> list[Params]:
    """As `next_proposals`, with values spread over what the ranges have gained since `before`."""
    wider = [name for name in space if space[name] != before[name]]
    strips = {name: range_of(space, name).strip(range_of(before, name)) for name in wider}
    fixed: list[Params] = []
    for number in range(count):
        there: Params = {name: strip.at(places(seed, number)[name]) for name, strip in strips.items()}
        fixed.append(there | {only[0]: only[1] for name in wider if (only := space[name].only)})
    return _ask(space, told, seed, fixed)


def _ask(space: Space, told: Sequence[Told], seed: int, fixed: Sequence[Params]) -> list[Params]:
    """A fresh study is told everything in order and asked once: what is proposed depends on no process that went on."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=0, constant_liar=True)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    # A failed trial counts as the worst there is; left out, it would be proposed again.
    worst = min((trial.value for trial in told if trial.value is not None), default=0.0)
    for trial in told:
        known: dict[str, BaseDistribution] = {name: _distribution(space[name]) for name in trial.params}
        value = worst if trial.value is None else trial.value
        study.add_trial(optuna.trial.create_trial(params=dict(trial.params), distributions=known, value=value))
    found = []
    for params in fixed:
        if params:
            study.enqueue_trial(dict(params))
        asking = study.ask()
        point: Params = {}
        for name in space:
            if asked(space, point, name):
                point[name] = _suggested(asking, name, space[name])
        found.append(point)
    return found


def _suggested(asking: optuna.Trial, name: str, dimension: Dimension) -> Value:
    values = dimension.values
    if not isinstance(values, Range):
        return cast(Value, asking.suggest_categorical(name, list(values)))
    if values.whole:
        return asking.suggest_int(name, int(values.low), int(values.high), log=True)
    return values.rounded(asking.suggest_float(name, values.low, values.high, log=True))


def _distribution(dimension: Dimension) -> Any:
    values = dimension.values
    if not isinstance(values, Range):
        return CategoricalDistribution(list(values))
    if values.whole:
        return IntDistribution(int(values.low), int(values.high), log=True)
    return FloatDistribution(values.low, values.high, log=True)


def derived_seed(*parts: object) -> int:
    """A seed of 32 bits that names what it is for."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:4])
