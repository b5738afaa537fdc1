"""From a resolved configuration to objects: data, module, callback, loggers, trainer. The only place that knows all."""

from __future__ import annotations

import math
import sys
from functools import cached_property, partial
from typing import Any

import lightning as L
from omegaconf import DictConfig

from datamodules.registry import load_datamodule
from datamodules.whole_files.disk import cache_root
from experiments.run.folder import RunFolder
from experiments.run.kept_models import kept, load_kept
from experiments.run.progress import Progress, show_progress
from experiments.run.prompt_start import start_prompt
from experiments.tracking.loggers import build_loggers, shows_samples
from experiments.tracking.run import PictureCallback
from lightning_modules import feature_cache
from lightning_modules.code_version import code_version, library_versions
from lightning_modules.controls import ControlStore
from lightning_modules.evaluation import ModelSpec
from lightning_modules.feature_cache import FeatureCache
from lightning_modules.features import CachedFeatures
from lightning_modules.frame_changes import FrameChanges
from lightning_modules.gradients import SPSA
from lightning_modules.metrics import primary_metric
from lightning_modules.records import ResultLog
from lightning_modules.scorer import PromptScorer
from lightning_modules.trainer_callbacks import (
    AtomicCheckpointIO,
    KeepPrompts,
    StopByDrift,
    ValidateLast,
    build_checkpoints,
    speed_callbacks,
)
from lightning_modules.transfer_callback import TransferCallback
from lightning_modules.tvp import TVPModule
from model_zoo.pool import sharing
from model_zoo.registry import load_clip, tile_options

# Keys of `data` and `method` that the data set and the module take under the same names.
DATA_KEYS = ("root", "image_size", "n_train", "workers", "split_seed", "val", "official", "augment")
METHOD_KEYS = (
    *("fca", "tse", "fca_relative", "optimizer", "lr", "momentum", "schedule", "warmup_steps"),
    *("anchor", "weight_noise", "sharpness"),
)
# Which only some data sets have: given where they are set, `half=false` too.
OPTIONAL_DATA_KEYS = ("shots", "names", "corruption", "cache", "max_corrupt", "half", "task")
TEXT_KEYS = ("question", "eval_question", "caption", "caption_names")  # an empty text is one too


def build_datamodule(config: DictConfig) -> Any:
    """The data set at the size the prompt needs; one Lightning batch holds all of a rank's micro-batches."""
    data, train = config.data, config.train
    datamodule = load_datamodule(
        data.name,
        batch_size=train.batch_size * train.accumulate,
        eval_batch_size=train.eval_batch_size,
        seed=config.seed,
        **{key: data[key] for key in DATA_KEYS},
        **{key: data[key] for key in OPTIONAL_DATA_KEYS if data[key] or (key == "half" and data[key] is False)},
        **{key: data[key] for key in TEXT_KEYS if data[key] is not None and data[key] != []},
    )
    datamodule.n_val, datamodule.n_test = config.targets.n, data.n_test
    return datamodule


class RunParts:
    """What a resolved configuration names; each thing is made when it is first asked for, then shared by the whole run.

    datamodule: the data set at the prompt's size. sources: what the prompt is learned on; `sources: [...]` is an
    ensemble, of which the first chooses the best epoch. targets: what only scores it. metric: the task's primary one.
    monitor: the logged key that picks the best checkpoint. residency: targets.residency, once it is settled by
    `check_memory` where that says auto; order, beside: how it has targets loaded then (`PromptScorer`).
    """

    def __init__(self, config: DictConfig) -> None:
        self.config = config
        self.residency: str = config.targets.residency
        self.order: list[str] = []
        self.beside: list[tuple[str, str]] = []

    @cached_property
    def datamodule(self) -> Any:
        return build_datamodule(self.config)

    @cached_property
    def sources(self) -> list[ModelSpec]:
        train = self.config.train
        layers = {"checkpointing": train.checkpointing, "compile": train.compile}
        return [
            ModelSpec(
                s.name, "source", s.weights, s.dtype, s.official, tile_options(s.name, s.tiles), s.quant, **layers
            )
            for s in (self.config.sources or [self.config.source])
        ]

    @cached_property
    def targets(self) -> list[ModelSpec]:
        targets, source = self.config.targets, self.config.source
        roles = {name: "select" if name in targets.select else "heldout" for name in targets.names}
        return [
            ModelSpec(name, role, source.weights, targets.dtype, source.official, options, targets.quant)
            for name, role in roles.items()
            for options in [tile_options(name, targets.tiles)]
        ]

    @cached_property
    def anchors(self) -> list[ModelSpec]:
        """Models that take part in an update beside the sources, by their features alone."""
        source = self.config.source
        return [
            ModelSpec(name, "source", source.weights, source.dtype, source.official, options, source.quant)
            for name in (self.config.method.anchors if self.config.method.anchor else ())
            for options in [tile_options(name, source.tiles)]
        ]

    @property
    def teachers(self) -> list[ModelSpec]:
        """What an update needs loaded: sources and anchors."""
        return [*self.sources, *self.anchors]

    @property
    def models(self) -> list[ModelSpec]:
        """Sources, anchors and targets."""
        return [*self.teachers, *self.targets]

    @cached_property
    def metric(self) -> str:
        return primary_metric(self.datamodule.task)

    @cached_property
    def monitor(self) -> str:
        """Raises ValueError where it reads a held-out target, which must steer nothing."""
        targets, monitor = self.config.targets, self.config.monitor
        key = f"val/{self.metric}/{self.sources[0].name}" if monitor == "source" else monitor
        held = [name for name in targets.heldout if key.endswith(f"/{name}")]
        if held:
            raise ValueError(
                f"monitor={key} reads the held-out target '{held[0]}', which no choice may read. Put it into "
                "targets.select, or monitor the source or val/gain/black/mean_select."
            )
        if key.endswith("/mean_select") and not targets.select:
            raise ValueError(f"monitor={key} needs targets.select, which is empty. Name the targets that may steer.")
        return key


def used_splits(config: DictConfig) -> dict[str, int | None]:
    """Split -> how many of its rows a run uses (None: all); without test where data.n_test=0 leaves it unread."""
    sizes = {"train": None, "val": config.targets.n, "test": config.data.n_test}
    return {split: n for split, n in sizes.items() if n != 0}


def build_module(parts: RunParts, steps_per_epoch: int) -> TVPModule:
    """TVPModule with an initialised prompt; frozen models are loaded later, by `configure_model`."""
    config, method = parts.config, parts.config.method
    epochs, steps = run_length(config, steps_per_epoch)
    return TVPModule(
        start_prompt(config, parts.datamodule),
        lambda: [load_kept(spec) for spec in parts.sources],
        lambda: _load_clip(config),
        load_anchors=lambda: [load_kept(spec) for spec in parts.anchors],
        clean_features=build_clean_features(parts),
        sources_reduction=method.sources,
        accumulate=config.train.accumulate,
        total_epochs=epochs,
        total_steps=steps,
        average_last=config.train.average_last,
        frame_changes=FrameChanges(method.through, **method.diversity, seed=config.seed),
        spsa=SPSA(method.spsa_c, method.spsa_directions) if method.gradient == "spsa" else None,
        seed=config.seed,
        **{key: method[key] for key in METHOD_KEYS},
    )


def _load_clip(config: DictConfig) -> Any:
    def load() -> Any:
        with sharing():
            return load_clip(config.method.clip, weights=config.source.weights).requires_grad_(False)

    return kept(("clip", config.method.clip, config.source.weights), load)


def run_length(config: DictConfig, steps_per_epoch: int) -> tuple[int, int]:
    """(epochs, updates) of the whole run; the shorter of train.epochs and train.max_steps counts."""
    steps = config.train.epochs * steps_per_epoch
    if config.train.max_steps > 0:
        steps = min(steps, config.train.max_steps)
    return math.ceil(steps / steps_per_epoch), steps


def build_callback(parts: RunParts, folder: RunFolder) -> TransferCallback:
    """What scores the source and the targets at every validation, and once on test."""
    config = parts.config
    context = {
        "run": folder.path.name,
        "seed": config.seed,
        "method": config.method.name,
        "source": "+".join(spec.name for spec in parts.sources),
        "official": config.official,
        "bounds": config.prompt.bounds,
    }
    scorer = PromptScorer(
        parts.datamodule,
        control_store(),
        frame=config.prompt.frame,
        pad=config.prompt.pad,
        sizes={"val": config.targets.n, "test": config.data.n_test},
        residency=parts.residency,
        order=parts.order,
        beside=parts.beside,
        load=load_kept if parts.residency == "keep" else None,
        label_mapping=config.targets.label_mapping,
        through=config.targets.through,
        controls=tuple(config.targets.controls),
    )
    log = ResultLog(folder.results)
    more: dict[str, Any] = {"context": context, "scores_folder": folder.scores}
    of_targets = {"png": config.targets.png, "curves": config.targets.curves}
    of_targets["drift_of"] = config.train.stop_drift.mllm
    return TransferCallback(parts.sources, parts.targets, scorer, log, **more, **of_targets)


def validation_interval(config: DictConfig, steps_per_epoch: int) -> int | None:
    """Updates between two validations, or None where they come at the ends of epochs (`train.val_every`).

    Unless train.val_every_steps says otherwise, a run with fewer than three of those makes a curve of five.
    """
    epochs, steps = run_length(config, steps_per_epoch)
    wanted = config.train.val_every_steps
    if wanted is None:
        return None if epochs // config.train.val_every >= 3 else math.ceil(steps / 5)
    return min(wanted, steps) or None


def build_trainer(parts: RunParts, folder: RunFolder, callback: TransferCallback, steps_per_epoch: int) -> L.Trainer:
    config = parts.config
    train = config.train
    interval = validation_interval(config, steps_per_epoch)
    by_steps: list[L.Callback] = [] if interval is None else [ValidateLast(run_length(config, steps_per_epoch)[1])]
    if train.keep_prompts:
        by_steps.append(KeepPrompts(folder.prompts, train.keep_prompts))
    loggers = build_loggers(config, folder.path)
    pictures = PictureCallback(callback, samples=shows_samples(config, loggers))
    shown = show_progress(config.log.progress)
    stop = None
    if train.stop_drift.mllm is not None:
        by_steps.append(stop := StopByDrift(callback.scorer.drifts, **train.stop_drift))
    checkpoints = build_checkpoints(
        folder.checkpoints, monitor=parts.monitor, every=train.checkpoint_every, validate_every=interval, stop=stop
    )
    return L.Trainer(
        accelerator=train.accelerator,
        devices=train.devices,
        strategy=train.strategy,
        precision=train.precision,
        max_epochs=train.epochs,
        max_steps=train.max_steps,
        check_val_every_n_epoch=train.val_every if interval is None else None,
        val_check_interval=interval,
        plugins=[AtomicCheckpointIO()],
        callbacks=[callback, pictures, *checkpoints, *by_steps, *speed_callbacks(train.tf32), Progress(), *shown],
        logger=loggers,
        log_every_n_steps=config.log.every,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_progress_bar=config.log.progress and sys.stdout.isatty(),
        enable_model_summary=False,
        default_root_dir=folder.path,
    )


def control_store() -> ControlStore:
    """Scores of controls are shared by all runs: `cache/controls`, or below TVP_CACHE."""
    return ControlStore(cache_root() / "controls")


def build_clean_features(parts: RunParts) -> list[CachedFeatures] | None:
    """A cached encoder of clean frames per source, all in one folder; None where none is wanted."""
    train = parts.config.train
    if train.feature_cache == "off" or not parts.config.method.fca:
        return None
    cache = FeatureCache(feature_cache.feature_folder(), dtype=train.feature_cache, limit_gib=train.feature_cache_gib)
    return [CachedFeatures(cache, partial(_identity, spec)) for spec in parts.sources]


def _identity(spec: ModelSpec) -> dict[str, Any]:
    """What names a model in a cache of what it computes; the fingerprint is read when it is first needed."""
    return {
        "model": spec.fingerprint(),
        "mllm": spec.name,
        "dtype": spec.precision,
        "options": repr(sorted(spec.options.items())),
        "code": code_version(),
        "libraries": library_versions(),
    }
