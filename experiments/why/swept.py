"""What a finished sweep left: its prompts, the models they were scored on, its gains. Nothing is written there."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from omegaconf import DictConfig, OmegaConf

from experiments.cli import unknown
from experiments.recipes import read_yaml
from experiments.report.load import CellKey, cell_of, checked, run_folders
from experiments.run.build import RunParts
from experiments.run.folder import CONFIG
from experiments.schema import Experiment
from lightning_modules.evaluation import ModelSpec
from lightning_modules.prompts import Prompt
from lightning_modules.vocabulary import members
from model_zoo.registry import is_served, require_files


class Swept(NamedTuple):
    """One data set of a sweep. prompts: by cell, loaded back from their artefacts. specs: models that scored them.
    pairs: of statistics.json. parts: what a run of it was built from (its data set, its CLIP).
    """

    data: str
    prompts: dict[CellKey, Prompt]
    specs: list[ModelSpec]
    pairs: list[dict[str, Any]]
    parts: RunParts

    @property
    def frame(self) -> int:
        return next(iter(self.prompts.values())).frame


def read_sweep(options: Any) -> list[Swept]:
    """Every data set of the sweep, with the prompts of the seeds and methods asked for.

    Raises:
        FileNotFoundError: no statistics.json, no prompt of these seeds and methods, or weights that are missing.
        ValueError: unknown method, damaged file; frames of several sizes; validation rows that are test rows.
    """
    path = options.sweep / "statistics.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"No '{path}'. Expected a finished sweep with its statistics: python -m experiments.report {options.sweep}"
        )
    try:
        statistics = checked(json.loads(path.read_text()), path)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"'{path}' is damaged ({error}). Delete it and make the report again: it is rebuilt."
        ) from None
    learned = sorted({cell["method"] for cell in statistics["cells"]} - {"none"})
    for method in options.methods:
        if method not in learned:
            raise unknown("method", method, learned)
    wanted = [
        cell
        for cell in sorted({cell_of(entry) for entry in statistics["cells"]})
        if cell.method in (options.methods or learned) and cell.seed in options.seeds
    ]
    folders = run_folders(options.sweep)
    found = [cell for cell in wanted if cell.label in folders and (folders[cell.label] / "prompt").is_dir()]
    if not found:
        raise FileNotFoundError(
            f"No prompt of seeds {', '.join(map(str, options.seeds))} in '{options.sweep}/cells'. Expected a finished "
            "sweep's run folders there; give seeds= that it has."
        )
    return [
        _read_data(statistics, {cell: folders[cell.label] for cell in found if cell.data == data}, data, options)
        for data in dict.fromkeys(cell.data for cell in found)
    ]


def _read_data(statistics: dict, folders: dict[CellKey, Path], data: str, options: Any) -> Swept:
    prompts = {cell: Prompt.load(folder / "prompt") for cell, folder in folders.items()}
    frames = sorted({prompt.frame for prompt in prompts.values()})
    if len(frames) > 1:
        raise ValueError(
            f"The frames learned on {data} have {' and '.join(map(str, frames))} pixels. Expected one size, so that "
            "they are compared with the same picture; choose methods= of one size."
        )
    first_of = {cell.source: folder for cell, folder in reversed(folders.items())}
    configs = [_read_config(folder, options) for folder in first_of.values()]
    if any(config.data.val == "official" for config in configs):
        raise ValueError(
            f"The validation rows of these runs are test rows ({data}, data.val=official), which are not read here. "
            "Expected a sweep whose validation rows come from train."
        )
    parts = RunParts(configs[0])
    targets = {entry["target"] for entry in statistics["cells"] if entry["data"] == data}
    specs = _specs([RunParts(config) for config in configs], targets)
    for spec in specs:
        require_files(spec.name, spec.weights)
    pairs = [pair for pair in statistics["pairs"] if pair["data"] == data]
    return Swept(data, prompts, specs, pairs, parts)


def _read_config(folder: Path, options: Any) -> DictConfig:
    """A run's configuration, with the keys that came later at their defaults, and the places said here."""
    config = cast(DictConfig, OmegaConf.merge(OmegaConf.structured(Experiment), read_yaml(folder / CONFIG)))
    if options.root is not None:
        config.data.root = str(options.root)
    if options.batch_size:
        config.train.eval_batch_size = options.batch_size
    if options.weights is not None:
        for source in [config.source, *config.sources]:
            source.weights = str(options.weights)
    return config


def _specs(runs: Sequence[RunParts], names: set[str]) -> list[ModelSpec]:
    """Every model as the runs scored it: as a target where it was one, else as the source it was."""
    found: dict[str, ModelSpec] = {}
    for spec in [spec for kind in ("targets", "sources") for run in runs for spec in getattr(run, kind)]:
        if spec.name in names and not is_served(spec.name):
            plain = dataclasses.replace(spec, role="heldout", checkpointing=False, compile=False)
            found.setdefault(spec.name, plain)
    for name in sorted(names - set(found)):
        print(f"{name}: left out, as nobody sees inside it from here.")
    return list(found.values())


def is_source(cell: CellKey, name: str) -> bool:
    """Whether the prompt was learned on that model, alone or among others."""
    return name in members(cell.source)
