"""What names a cell: everything that can change its result, so that the same id means the same numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

from omegaconf import DictConfig

from experiments.run.build import RunParts, build_datamodule, used_splits
from experiments.run.folder import plain_config
from experiments.run.preflight import missing_things
from experiments.sweep.cells import SweepCell, made_with, resolved
from lightning_modules.artefact import read_manifest
from model_zoo.registry import clip_fingerprint

# Words that change where and how fast a cell is computed, never what comes out. Weights and data are in by fingerprint.
VOLATILE = (
    *("out", "resume", "log", "source.weights", "data.root", "data.workers", "data.cache", "targets.residency"),
    "train.memory_check",
)
OF_NO_ROW = ("image_size", "workers", "cache", "augment")  # keys of `data` that change no row and no picture


def identified(cells: Sequence[SweepCell]) -> tuple[list[SweepCell], list[str]]:
    """Cells with their ids, and a block of text for everything that is missing.

    Raises:
        ValueError: a cell's words make no valid run, or the same as another one's; names the cells.
    """
    known = Fingerprints()
    result, missing = [], []
    for cell in cells:
        config = resolved(cell)
        blocks = known.missing(config)
        missing += blocks
        result.append(cell if blocks else cell._replace(id=cell_id(config, known)))
    _require_different(result)
    return result, list(dict.fromkeys(missing))


def _require_different(cells: Sequence[SweepCell]) -> None:
    """Raises: ValueError naming two cells that would compute the same: one of them says less than its name."""
    known: dict[str, SweepCell] = {}
    for cell in cells:
        same = known.setdefault(cell.id, cell)
        if cell.id and same is not cell:
            raise ValueError(
                f"The cells {same.label} and {cell.label} are the same run: their words differ in nothing that changes "
                "a result. Expected each row of a sweep to differ; mend the recipe's words, or take one of them out."
            )


def cell_id(config: DictConfig, known: Fingerprints) -> str:
    """First 16 hex digits of sha256 over the configuration, the code, the libraries, the weights and the data."""
    identity = made_with() | {
        "config": settled(config),
        "weights": known.weights(config),
        "data": known.data(config),
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def settled(config: DictConfig) -> dict[str, Any]:
    """The resolved configuration without what is `VOLATILE`."""
    plain = plain_config(config)
    for key in VOLATILE:
        group, _, leaf = key.rpartition(".")
        (plain[group] if group else plain).pop(leaf)
    for source in plain["sources"]:
        source.pop("weights")
    if config.prompt.artefact is not None:  # by what it is, wherever it lies
        plain["prompt"]["artefact"] = read_manifest(config.prompt.artefact)["prompt"]
    return plain


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
        parts = RunParts(config)
        clip = (config.method.clip, config.source.weights) if config.method.tse else None
        models = tuple((spec.name, spec.weights) for spec in parts.models)
        return self._once(("missing", models, clip, _data_key(config)), lambda: missing_things(parts))

    def weights(self, config: DictConfig) -> dict[str, str]:
        """mllm (and `clip`, where TSE needs it) -> fingerprint, each read in the folder it is loaded from."""
        found = {m.name: self._once((m.name, m.weights), m.fingerprint) for m in RunParts(config).models}
        if config.method.tse:
            clip, folder = config.method.clip, config.source.weights
            found["clip"] = self._once(("clip", clip, folder), lambda: clip_fingerprint(clip, folder))
        return found

    def data(self, config: DictConfig) -> dict[str, str]:
        """split -> fingerprint of its rows and pictures."""

        def read() -> dict[str, str]:
            datamodule = build_datamodule(config)
            datamodule.setup()
            return {split: datamodule.fingerprint(split, n) for split, n in used_splits(config).items()}

        return self._once(("data", _data_key(config)), read)


def _data_key(config: DictConfig) -> str:
    """What decides which rows and pictures are read, and where from; their size in pixels does not."""
    data = {key: value for key, value in plain_config(config.data).items() if key not in OF_NO_ROW}
    return json.dumps([data, config.targets.n], sort_keys=True)
