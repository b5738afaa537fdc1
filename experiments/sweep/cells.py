"""The cells of a sweep, one trained prompt each, and what computes them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any, NamedTuple

from omegaconf import DictConfig

from experiments.recipes import as_yaml, load_experiment
from experiments.sweep.recipe import all_targets, data_label, tuned_data, tuned_method
from lightning_modules.code_version import SOURCES, code_version, library_versions
from lightning_modules.vocabulary import file_part, members

# Beside the three packages: what turns a configuration into a run, and a run into the rows of a cell.
RUN_SOURCES = (
    *("experiments/run", "experiments/schema.py", "experiments/recipes.py"),
    *("experiments/sweep/collect.py", "experiments/sweep/samples.py"),
)


def made_with() -> dict[str, Any]:
    """The code and the libraries that compute the cells of this host; two hosts that differ never share a cell."""
    return {"code": code_version((*SOURCES, *RUN_SOURCES)), "libraries": library_versions()}


def require_same(planned: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raises: ValueError naming how this host differs from the one that made the plan."""
    pairs = {"sources": (planned.get("code"), here["code"])}
    libraries = planned.get("libraries", {})
    pairs |= {name: (libraries.get(name), version) for name, version in here["libraries"].items()}
    others = [f"{name} {mine} (planned with {theirs})" for name, (theirs, mine) in pairs.items() if mine != theirs]
    if others:
        raise ValueError(
            f"This host computes with {', '.join(others)}. Expected what the sweep was planned with: bring both to the "
            "same versions, then start the sweep again: other code or libraries make new cells."
        )


class SweepCell(NamedTuple):
    """One prompt to train and score.

    label: names it to people. words: the `key=value` words of its run. id: names everything that can change its result
    (see `identity.cell_id`); empty while it is not known, or weights or data are missing.
    """

    label: str
    source: str
    data: str
    method: str
    seed: int
    words: tuple[tuple[str, str], ...]
    id: str = ""

    @property
    def folder(self) -> str:
        """Name of its run folder below OUT/cells."""
        return f"{self.label}-{self.id[:8]}" if self.id else self.label

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> SweepCell:
        """A cell as JSON gives it back, which knows lists only."""
        return cls(**{**row, "words": tuple((key, value) for key, value in row["words"])})


def build_cells(sweep: DictConfig) -> list[SweepCell]:
    """Every (source, data, method, seed) of a recipe, in that order, without ids; nothing is read or loaded.

    Of `none`, which learns nothing, one a data set: it is the same from every source and seed, and its cell (of the
    first of both) scores every model. The source comes first, because a worker goes through the cells in this order and
    keeps the source it has loaded.
    """
    cells = []
    for source, data, method, seed in product(sweep.sources, sweep.data, sweep.methods, sweep.seeds):
        if (method.base or method.name) == "none" and (source, seed) != (sweep.sources[0], sweep.seeds[0]):
            continue
        label = f"{file_part(source)}-{file_part(data_label(data))}-{method.name}-s{seed}".replace(" ", "_")
        words = cell_words(sweep, source, data, method, seed)
        cells.append(SweepCell(label, source, data_label(data), method.name, seed, tuple(words)))
    return cells


def cell_words(sweep: DictConfig, source: str, data: Any, method: Any, seed: int) -> list[tuple[str, str]]:
    """The `key=value` words of a cell's run, later ones before earlier ones.

    The sweep's, the source's, the method's, the data set's, the method's on this data set, what was tuned for this
    source, data set and method.
    """
    exp = data.exp or sweep.exp
    if exp is None:
        raise ValueError(f"The sweep names no recipe for {data.name}. Add `exp:` to the data set or to the sweep.")
    own_models = members(source)
    taking_part = [*own_models, *method.words.get("method.anchors", [])]
    targets = [name for name in all_targets(sweep) if name not in taking_part]
    select = [name for name in sweep.select if name not in taking_part]
    held = [name for name in targets if name not in select]
    own = {
        "exp": exp,
        "source.name": own_models[0],
        **({"sources": [{"name": name} for name in own_models]} if len(own_models) > 1 else {}),
        "data.name": data.name,
        "method.name": method.base or method.name,
        "seed": seed,
        "targets.names": [],
        "targets.select": select,
        "targets.heldout": held,
        "log.progress": False,
        "log.group": sweep.sweep,
        "log.tags": [sweep.sweep, source, data_label(data), method.name],
    }
    tuned = sweep.tuned_words.get(tuned_data(data), {}).get(source, {}).get(tuned_method(method), {})
    shared = (sweep.words, sweep.source_words.get(source, {}))
    of_method = data.methods.get(method.name, {})
    for words in (*shared, data.words) if sweep.prompts else (*shared, method.words, data.words, of_method, tuned):
        own |= dict(words)
    return [(key, as_yaml(value)) for key, value in own.items()]


def resolved(cell: SweepCell) -> DictConfig:
    """The configuration a cell runs, as `make train` would resolve it."""
    try:
        return load_experiment(cell.words)
    except ValueError as error:
        raise ValueError(f"Cell {cell.label}: {error}") from None
