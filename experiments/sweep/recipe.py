"""Sweep recipes (`experiments/sweeps/*.yaml`): which sources, targets, data sets, methods and seeds make a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, cast

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from datamodules.whole_files.command_line import suggest
from experiments.cli import unknown
from experiments.recipes import first_lines, read_yaml
from experiments.sweep.tuned import read_tuned
from lightning_modules.vocabulary import members
from model_zoo.registry import get_entry, refuse_served_source

FOLDER = Path(__file__).resolve().parents[1] / "sweeps"
LISTS = ("sources", "targets", "select", "data", "methods", "seeds")


@dataclass
class SweepData:
    """One data set of a sweep.

    name: the data set. label: what the matrix calls it (null: its name), so that one data set can come several times
    in other words. exp: the run recipe its cells start from (null: the sweep's). words: `key: value` for its cells.
    methods: method -> `key: value`, what was tuned for this data set. tuned: the data set whose tuned words it takes
    over (null: its own). learned_on: with the sweep's `prompts`, what their sweep calls the data they were learned on
    (null: the only one it has).
    """

    name: str = MISSING
    label: str | None = None
    tuned: str | None = None
    learned_on: str | None = None
    exp: str | None = None
    words: dict[str, Any] = field(default_factory=dict)
    methods: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass
class SweepMethod:
    """One row of the comparison.

    name: what the matrix calls it. base: none, vp, evp or tvp (null: the name itself). tuned: the method of the sweep's
    tunings whose words it takes over (null: the name itself; empty: none, it stays as it is written here).
    """

    name: str = MISSING
    base: str | None = None
    words: dict[str, Any] = field(default_factory=dict)
    tuned: str | None = None


@dataclass
class Sweep:
    """A transfer matrix: every (source, data set, method, seed) is trained once and scored on every target.

    sweep: its name. label: what a reader must know of its figures. exp: the run recipe cells start from.
    sources: models; `a+b` learns one prompt on both at once.
    targets: models every prompt is scored on, beside its own source (none: the sources). select: targets that
    may steer, none by default. words: `key: value` for every cell. source_words: source -> `key: value`.
    tuned: files of `python -m experiments.tune`, one a data set, beside this recipe's: their words for each source,
    data set and method come last; an ensemble that was not tuned takes over those of its first member.
    tuned_as: source that was not tuned -> one that was, whose words it takes over.
    tuned_words: data set -> source -> method -> `key: value`, which they fill.
    like: another recipe, whose keys hold where this one says nothing.
    prompts: a finished sweep, by its folder or its recipe's name, whose prompts are scored instead of learning any:
    those of the same source, method and seed. Words of methods and tunings are then not read.
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
    tuned: list[str] = field(default_factory=list)
    tuned_as: dict[str, str] = field(default_factory=dict)
    tuned_words: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    primary: list[str] = field(default_factory=list)
    prompts: str = ""
    like: str = ""


def data_label(data: Any) -> str:
    """What the matrix calls a data set of a sweep."""
    return data.label or data.name


def tuned_data(data: Any) -> str:
    """The data set whose tuned words a data set of a sweep takes over."""
    return data.tuned or data.name


def list_sweeps() -> dict[str, str]:
    """name -> first comment line."""
    return first_lines(FOLDER)


def load_sweep(name: str, overrides: Sequence[tuple[str, str]] = ()) -> DictConfig:
    """A sweep recipe with `sources=a,b` and the like narrowed, and every other `key=value` added to all cells.

    `tuned=FILE,FILE` takes the place of the recipe's own `tuned`.

    Raises:
        ValueError: unknown recipe, key, or a name that the recipe does not have; a tuning that lacks a cell's words.
        FileNotFoundError: no such tuning.
    """
    path = FOLDER / f"{name}.yaml"
    try:
        said = _read(name)
        if isinstance(said.get("tuned"), str):
            said.tuned = [said.tuned]
        sweep = cast("DictConfig", OmegaConf.merge(OmegaConf.structured(Sweep), said))
    except OmegaConfBaseException as error:
        raise ValueError(f"experiments/sweeps/{path.name}: {str(error).splitlines()[0]}") from None
    _check_primary(sweep)
    tunings = [path.parent / name for name in sweep.tuned]
    for key, value in overrides:
        words = [word for word in value.split(",") if word]
        if key == "tuned":
            sweep.tuned, tunings = words, [Path(word).expanduser() for word in words]
        elif key == "prompts":
            sweep.prompts = value
        elif key in LISTS:
            _narrow(sweep, key, words)
        else:
            sweep.words[key] = value
    _check(sweep)
    if tunings:
        _take_over(sweep, tunings)
    return sweep


def _read(name: str, above: tuple[str, ...] = ()) -> DictConfig:
    """A recipe's keys as they are written, those of the recipe it is `like` below its own.

    above: the recipes that are like this one, so that a circle is one message.
    """
    path = FOLDER / f"{name}.yaml"
    if name in above:
        raise ValueError(f"The sweeps {', '.join(above)} are like each other in a circle. Take `like:` out of one.")
    if not path.is_file():
        raise unknown("sweep", name, list(list_sweeps()))
    said = cast("DictConfig", read_yaml(path))
    return OmegaConf.create({**_read(said.like, (*above, name)), **said}) if said.get("like") else said


def all_targets(sweep: DictConfig) -> list[str]:
    """The models every prompt is scored on, each once: those that are named, or every source's."""
    named = sweep.targets or [member for source in sweep.sources for member in members(source)]
    return list(dict.fromkeys(named))


def tuned_method(method: Any) -> str:
    """The method of a tuning whose words a row of the comparison takes over; empty for none."""
    if (method.base or method.name) == "none":
        return ""
    return method.name if method.tuned is None else method.tuned


def _take_over(sweep: DictConfig, tunings: Sequence[Path]) -> None:
    """Fill `tuned_words`, and see that every learned cell has its words: none is trained untuned beside tuned ones."""
    found: dict[str, Any] = {}
    for path in tunings:
        tuned = read_tuned(path)
        for source, methods in tuned.words.items():
            mine = found.setdefault(tuned.data, {}).setdefault(source, {})
            twice = sorted(mine.keys() & methods.keys())
            if twice:
                raise ValueError(f"tuned has {twice[0]} of {source} on {tuned.data} twice. Expected it in one file.")
            mine |= methods
    for of_source in found.values():
        for source in sweep.sources:
            sibling = sweep.tuned_as.get(source, members(source)[0])
            if sibling in of_source:
                of_source.setdefault(source, of_source[sibling])
    for data, source, method in product(sweep.data, sweep.sources, sweep.methods):
        name, of = tuned_method(method), tuned_data(data)
        if name and name not in found.get(of, {}).get(source, {}):
            raise ValueError(
                f"tuned has no words for {name} of {source} on {of}. Tune it: `python -m experiments.tune "
                f"exp={data.exp or sweep.exp} data={of} sources={source}`; or say that {method.name} is not "
                "tuned: `tuned: ''` in that method of the recipe."
            )
    sweep.tuned_words = found


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
    known = {data_label(entry) if key == "data" else entry.name: entry for entry in sweep[key]}
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
            for member in members(name) if key == "sources" else [name]:
                get_entry(member)  # an unknown model is refused here, with a suggestion
                if key == "sources":
                    refuse_served_source(member)
    for key in ("sources", "targets", "seeds"):
        twice = [name for name in sweep[key] if list(sweep[key]).count(name) > 1]
        if twice:
            raise ValueError(f"{key} names {twice[0]} twice. Expected each once.")
    for key, names in (
        ("data", [data_label(data) for data in sweep.data]),
        ("methods", [method.name for method in sweep.methods]),
    ):
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"{key} has {twice[0]} twice. Expected each once; a data set may have a `label`.")
    targets = all_targets(sweep)
    strangers = [name for name in sweep.select if name not in targets]
    if strangers:
        raise ValueError(f"select names {strangers[0]}, which is no target. Targets: {', '.join(targets)}.")
