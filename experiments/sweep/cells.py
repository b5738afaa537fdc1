"""The cells of a sweep, one trained prompt each, and the version of the code that computes them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig

from experiments.recipes import as_yaml, load_experiment

ROOT = Path(__file__).resolve().parents[2]
SOURCES, TEXTS = ("model_zoo", "datamodules", "lightning_modules"), (".py", ".json", ".yaml")
# What lies there and cannot change a score: getting data, listing and checking files, planning memory.
NO_SOURCES = (
    *("datamodules/prepare/", "datamodules/__main__.py"),
    *("model_zoo/__main__.py", "model_zoo/listing.py", "model_zoo/check.py", "model_zoo/memory/"),
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

    The source comes first, because a worker goes through the cells in this order and keeps the source it has loaded.
    """
    cells = []
    for source, data, method, seed in product(sweep.sources, sweep.data, sweep.methods, sweep.seeds):
        label = f"{source}-{data.name}-{method.name}-s{seed}"
        words = cell_words(sweep, source, data, method, seed)
        cells.append(SweepCell(label, source, data.name, method.name, seed, tuple(words)))
    return cells


def cell_words(sweep: DictConfig, source: str, data: Any, method: Any, seed: int) -> list[tuple[str, str]]:
    """The `key=value` words of a cell's run: the sweep's, the source's, the method's, the method's on this data set."""
    exp = data.exp or sweep.exp
    if exp is None:
        raise ValueError(f"The sweep names no recipe for {data.name}. Add `exp:` to the data set or to the sweep.")
    targets = [name for name in (sweep.targets or sweep.sources) if name != source]
    select = [name for name in sweep.select if name != source]
    held = [name for name in targets if name not in select]
    own = {
        "exp": exp,
        "source.name": source,
        "data.name": data.name,
        "method.name": method.base or method.name,
        "seed": seed,
        "targets.names": [],
        "targets.select": select,
        "targets.heldout": held,
        "log.progress": False,
        "log.group": sweep.sweep,
        "log.tags": [sweep.sweep, source, data.name, method.name],
    }
    more = (sweep.words, sweep.source_words.get(source, {}), method.words, data.words)
    for words in (*more, data.methods.get(method.name, {})):
        own |= dict(words)
    return [(key, as_yaml(value)) for key, value in own.items()]


def resolved(cell: SweepCell) -> DictConfig:
    """The configuration a cell runs, as `make train` would resolve it."""
    try:
        return load_experiment(cell.words)
    except ValueError as error:
        raise ValueError(f"Cell {cell.label}: {error}") from None


@cache
def code_version() -> str:
    """sha256 over the sources of the three packages that decide a result; a commit that touches none changes nothing.

    Text files (.py, .json, .yaml) by path below the repository, but for `NO_SOURCES`; shipped weights count by their
    own fingerprints.
    """
    digest = hashlib.sha256()
    files = [path for name in SOURCES for path in (ROOT / name).rglob("*") if path.suffix in TEXTS and path.is_file()]
    for path in sorted(files):
        name = path.relative_to(ROOT).as_posix()
        if name.startswith(NO_SOURCES):
            continue
        # The name counts beside the content: modules are found by name, so a renamed file is another program. A zero
        # byte, which no name holds, and a digest of fixed length keep one file's end apart from the next one's start.
        digest.update(f"{name}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]
