"""The cells of a sweep: one trained prompt each, named by everything that can change its result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, cast

from omegaconf import DictConfig, ListConfig, OmegaConf

from experiments.recipes import load_experiment
from model_zoo.registry import clip_fingerprint

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("model_zoo", "datamodules", "lightning_modules")
# What lies there and cannot change a score: getting data, listing and checking files, planning memory.
NO_SOURCES = (
    *("datamodules/prepare/", "datamodules/__main__.py"),
    *("model_zoo/__main__.py", "model_zoo/listing.py", "model_zoo/check.py", "model_zoo/memory/"),
)
# Words that change where and how fast a cell is computed, never what comes out. Weights and data are in by fingerprint.
VOLATILE = (
    *("out", "resume", "log", "source.weights", "data.root", "data.workers", "data.cache", "targets.residency"),
    "train.memory_check",
)


class SweepCell(NamedTuple):
    """One prompt to train and score.

    label: names it to people. words: the `key=value` words of its run. id: names everything that can change its result
    (see `cell_id`); empty while it is not known, or weights or data are missing.
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

    def as_dict(self) -> dict[str, Any]:
        return self._asdict() | {"words": [list(pair) for pair in self.words]}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> SweepCell:
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
    return [(key, _as_word(value)) for key, value in own.items()]


def _as_word(value: Any) -> str:
    if isinstance(value, list | ListConfig):
        return f"[{','.join(map(str, value))}]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)


# ---- identity --------------------------------------------------------------------------------------------------------
def identified(cells: Sequence[SweepCell]) -> tuple[list[SweepCell], list[str]]:
    """Cells with their ids, and a block of text for everything that is missing.

    Raises:
        ValueError: a cell's words make no valid run; names the cell.
    """
    known = Fingerprints()
    result, missing = [], []
    for cell in cells:
        config = resolved(cell)
        blocks = known.missing(config)
        missing += blocks
        result.append(cell if blocks else cell._replace(id=cell_id(config, known)))
    return result, list(dict.fromkeys(missing))


def resolved(cell: SweepCell) -> DictConfig:
    """The configuration a cell runs, as `make train` would resolve it."""
    try:
        return load_experiment(cell.words)
    except ValueError as error:
        raise ValueError(f"Cell {cell.label}: {error}") from None


def cell_id(config: DictConfig, known: Fingerprints) -> str:
    """First 16 hex digits of sha256 over the resolved configuration, the code, the weights and the data."""
    identity = {
        "config": settled(config),
        "code": code_version(),
        "weights": known.weights(config),
        "data": known.data(config),
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def settled(config: DictConfig) -> dict[str, Any]:
    """The resolved configuration without what is `VOLATILE`."""
    plain = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    for key in VOLATILE:
        group, _, leaf = key.rpartition(".")
        (plain[group] if group else plain).pop(leaf)
    for source in plain["sources"]:
        source.pop("weights")
    return plain


@cache
def code_version() -> str:
    """sha256 over the sources of the three packages that decide a result; a commit that touches none changes nothing.

    Text files (.py, .json, .yaml) by path below the repository, but for `NO_SOURCES`; shipped weights count by their
    own fingerprints.
    """
    digest = hashlib.sha256()
    for path in _files(ROOT / name for name in SOURCES):
        name = path.relative_to(ROOT).as_posix()
        if name.startswith(NO_SOURCES):
            continue
        # The name counts beside the content: modules are found by name, so a renamed file is another program. A zero
        # byte, which no name holds, and a digest of fixed length keep one file's end apart from the next one's start.
        digest.update(f"{name}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _files(folders: Iterable[Path]) -> list[Path]:
    return sorted(p for f in folders for p in f.rglob("*") if p.suffix in (".py", ".json", ".yaml") and p.is_file())


class Fingerprints:
    """Reads once what the cells of a sweep share: which files are missing, hashes of weights and of data."""

    def __init__(self) -> None:
        self._known: dict[tuple, Any] = {}

    def _once(self, key: tuple, read: Callable[[], Any]) -> Any:
        if key not in self._known:
            self._known[key] = read()
        return self._known[key]

    def missing(self, config: DictConfig) -> list[str]:
        """Blocks of text for missing weights and data of one cell."""
        from experiments.run.build import RunParts
        from experiments.run.preflight import missing_things

        parts = RunParts(config)
        clip = (config.method.clip, config.source.weights) if config.method.tse else None
        models = tuple((spec.name, spec.weights) for spec in parts.models)
        return self._once(("missing", models, clip, _data_key(config)), lambda: missing_things(parts))

    def weights(self, config: DictConfig) -> dict[str, str]:
        """mllm (and `clip`, where TSE needs it) -> fingerprint, each read in the folder it is loaded from."""
        from experiments.run.build import RunParts

        found = {m.name: self._once((m.name, m.weights), m.fingerprint) for m in RunParts(config).models}
        if config.method.tse:
            clip, folder = config.method.clip, config.source.weights
            found["clip"] = self._once(("clip", clip, folder), lambda: clip_fingerprint(clip, folder))
        return found

    def data(self, config: DictConfig) -> dict[str, str]:
        """split -> fingerprint of its rows and pictures."""
        return self._once(("data", _data_key(config)), lambda: _data_fingerprints(config))


def _data_fingerprints(config: DictConfig) -> dict[str, str]:
    from experiments.run.build import build_datamodule

    datamodule = build_datamodule(config)
    datamodule.setup()
    sizes = {"train": None, "val": config.targets.n, "test": config.data.n_test}
    return {split: datamodule.fingerprint(split, n) for split, n in sizes.items() if n != 0}


def _data_key(config: DictConfig) -> str:
    """What decides which rows and pictures are read, and where from; their size in pixels does not."""
    data = {
        key: value for key, value in config.data.items() if key not in ("image_size", "workers", "cache", "augment")
    }
    return json.dumps([data, config.targets.n], sort_keys=True)
