"""Sweep recipes (`experiments/sweeps/*.yaml`): which sources, targets, data sets, methods and seeds make a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.cli import suggest, unknown
from experiments.recipes import first_lines, read_yaml
from model_zoo.registry import get_entry

FOLDER = Path(__file__).resolve().parents[1] / "sweeps"
LISTS = ("sources", "targets", "select", "data", "methods", "seeds")


@dataclass
class SweepData:
    """One data set of a sweep.

    name: the data set. exp: the run recipe its cells start from (null: the sweep's). words: `key: value` for its cells.
    methods: method -> `key: value`, what was tuned for this data set.
    """

    name: str = MISSING
    exp: str | None = None
    words: dict[str, Any] = field(default_factory=dict)
    methods: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass
class SweepMethod:
    """One row of the comparison. name: what the matrix calls it. base: none, vp, evp or tvp (null: the name itself)."""

    name: str = MISSING
    base: str | None = None
    words: dict[str, Any] = field(default_factory=dict)


@dataclass
class Sweep:
    """A transfer matrix: every (source, data set, method, seed) is trained once and scored on every target.

    sweep: its name. label: what a reader must know of its figures. exp: the run recipe cells start from.
    targets: models every prompt is scored on, beside its own source (none: the sources). select: targets that
    may steer, none by default. words: `key: value` for every cell. source_words: source -> `key: value`.
    primary: the two methods whose difference on targets the sweep is made to test, before all other comparisons.
    """

    sweep: str = MISSING
    label: str = ""
    exp: str | None = None
    sources: list[str] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    select: list[str] = field(default_factory=list)
    data: list[SweepData] = field(default_factory=list)
    methods: list[SweepMethod] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [0])
    words: dict[str, Any] = field(default_factory=dict)
    source_words: dict[str, dict[str, Any]] = field(default_factory=dict)
    primary: list[str] = field(default_factory=list)


def list_sweeps() -> dict[str, str]:
    """name -> first comment line."""
    return first_lines(FOLDER)


def load_sweep(name: str, overrides: Sequence[tuple[str, str]] = ()) -> DictConfig:
    """A sweep recipe with `sources=a,b` and the like narrowed, and every other `key=value` added to all cells.

    Raises:
        ValueError: unknown recipe, key, or a name that the recipe does not have.
    """
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise unknown("sweep", name, list(list_sweeps()))
    try:
        sweep = cast("DictConfig", OmegaConf.merge(OmegaConf.structured(Sweep), read_yaml(path)))
    except OmegaConfBaseException as error:
        raise ValueError(f"experiments/sweeps/{path.name}: {str(error).splitlines()[0]}") from None
    _check_primary(sweep)
    for key, value in overrides:
        if key in LISTS:
            _narrow(sweep, key, [word for word in value.split(",") if word])
        else:
            sweep.words[key] = value
    _check(sweep)
    return sweep


def _check_primary(sweep: DictConfig) -> None:
    """Before the methods are narrowed: what is not run leaves the contrast untested, it does not change it."""
    methods = [method.name for method in sweep.methods]
    primary = list(sweep.primary)
    if primary and (len(set(primary)) != 2 or len(primary) != 2 or not set(primary) <= set(methods)):
        raise ValueError(f"primary is {primary}. Expected two methods of the sweep, e.g. [tvp, evp]; it has {methods}.")


def _narrow(sweep: DictConfig, key: str, names: list[str]) -> None:
    """Keep the named entries of a list; seeds and models may also be new ones."""
    if key == "seeds":
        if not names or not all(name.isdigit() for name in names):
            raise ValueError(f"Expected seeds=0,1,2, got seeds={','.join(names)}.")
        sweep.seeds = [int(name) for name in names]
        return
    if key in ("sources", "targets", "select"):
        sweep[key] = names
        return
    known = {entry.name: entry for entry in sweep[key]}
    for name in names:
        if name not in known:
            raise ValueError(f"The sweep has no {key} '{name}'.{suggest(name, list(known))} It has {', '.join(known)}.")
    sweep[key] = [known[name] for name in names]


def _check(sweep: DictConfig) -> None:
    for key in ("sources", "data", "methods", "seeds"):
        if not sweep[key]:
            raise ValueError(f"The sweep has no {key}. Expected at least one; give {key}=NAME,NAME.")
    for key in ("sources", "targets", "select"):
        for name in sweep[key]:
            get_entry(name)  # an unknown model is refused here, with a suggestion
    for key in ("sources", "targets", "seeds"):
        twice = [name for name in sweep[key] if list(sweep[key]).count(name) > 1]
        if twice:
            raise ValueError(f"{key} names {twice[0]} twice. Expected each once.")
    targets = list(sweep.targets or sweep.sources)
    strangers = [name for name in sweep.select if name not in targets]
    if strangers:
        raise ValueError(f"select names {strangers[0]}, which is no target. Targets: {', '.join(targets)}.")
