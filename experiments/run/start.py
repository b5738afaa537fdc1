"""One run from configuration to artefact and table; also its resumption. Called by train, table and the sweep."""

from __future__ import annotations

import errno
import logging
import warnings
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from omegaconf import DictConfig, OmegaConf

from experiments.recipes import resolve
from experiments.run.build import RunParts, build_callback, build_module, build_trainer
from experiments.run.folder import RunFolder, create_run_folder, open_run_folder, read_status
from experiments.run.memory_plan import check_memory
from experiments.run.preflight import read_images, require_everything, require_places, write_tiny_models
from experiments.run.prompt_start import start_record
from experiments.run.summary import write_summary
from experiments.schema import Experiment
from experiments.tracking.logger import closing
from experiments.tracking.loggers import public_config, shows_samples
from experiments.tracking.run import log_results
from lightning_modules.artefact import update_manifest
from lightning_modules.prompts import Prompt
from lightning_modules.trainer_callbacks import BEST, StopByDrift, newest_checkpoint, read_checkpoint

LICENCE = "the prompt inherits the terms of the data it was learned on; see the data set's entry in docs/data.md"

# Lightning's advice that is wrong or already followed here: frozen models are meant to stay in eval mode, data sets are
# small or set `data.workers`, checkpoints after the update are what we want, and one warning is about its own code.
NOT_FOR_USERS = (
    ".*does not have many workers.*",
    ".*module\\(s\\) in eval mode at the start of training.*",
    ".*Using ModelCheckpoint with manual optimization.*",
    ".*treespec, LeafSpec.*",
    ".*Checkpoint directory .* exists and is not empty.*",
)


def start_run(config: DictConfig) -> Path:
    """Make a new run; everything missing is reported before the folder is created."""
    parts = RunParts(config)
    require_places(parts)
    write_tiny_models(parts)
    require_everything(parts)
    plan = check_memory(parts)
    folder = create_run_folder(config, residency=plan.record)
    print(f"Run folder: {folder.path}   (continue it any time with resume={folder.path})")
    return _guarded(parts, folder)


def resume_run(path: str | Path) -> Path:
    """Continue a run where its last checkpoint was written; a finished run only prints its table again."""
    folder, saved = open_run_folder(path)
    status = read_status(folder.path)
    if status.get("state") == "finished":
        folder.release()
        table = folder.path / "table.md"
        print(f"'{folder.path}' is finished.\n{table.read_text() if table.exists() else ''}")
        return folder.path

    parts = RunParts(resolve(cast(DictConfig, OmegaConf.merge(OmegaConf.structured(Experiment), saved))))
    try:
        require_places(parts, folder.path)
        require_everything(parts)
        plan = check_memory(parts, resumed=True)
        last = newest_checkpoint(folder.checkpoints)
    except BaseException:
        folder.release()
        raise
    where = "its last checkpoint" if last else "the beginning (it has no checkpoint yet)"
    print(f"Continuing {folder.path} from {where}.")
    folder.write_status("running", residency=plan.record)
    return _guarded(parts, folder)


def _guarded(parts: RunParts, folder: RunFolder) -> Path:
    try:
        execute(parts, folder)
    except BaseException as error:
        if _is_interrupt(error):
            folder.write_status("interrupted")
            print(f"\nInterrupted; results so far are kept. Continue with resume={folder.path}")
            raise KeyboardInterrupt from None
        with suppress(OSError):  # a full disk must not hide the error that is being reported
            folder.write_status("failed", error=f"{type(error).__name__}: {error}")
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(
                error.errno,
                f"The disk is full ({error}). What was written before is whole; free some space and continue with "
                f"resume={folder.path}",
            ) from None
        raise
    finally:
        folder.release()
    return folder.path


def _is_interrupt(error: BaseException | None) -> bool:
    """Ctrl-C, also where Lightning turned it into SystemExit or closing a logger failed while it was handled."""
    while error is not None and not isinstance(error, KeyboardInterrupt | SystemExit):
        error = error.__cause__ or error.__context__
    return error is not None


def execute(parts: RunParts, folder: RunFolder) -> None:
    """Train (unless the method is `none`), export, score on test once (never with data.n_test=0), summarise."""
    quiet_lightning()
    config, datamodule = parts.config, parts.datamodule
    L.seed_everything(config.seed, verbose=False)
    steps_per_epoch = len(datamodule.train_dataloader())
    module = build_module(parts, steps_per_epoch)
    callback = build_callback(parts, folder)
    trainer = build_trainer(parts, folder, callback, steps_per_epoch)
    with closing(trainer.loggers), ExitStack() as at_end:
        at_end.callback(callback.scorer.release)  # models that are kept, however the run ends
        read_images(parts, folder.path if trainer.is_global_zero else None)
        callback.chosen = train(config, trainer, module, datamodule, folder)
        if trainer.is_global_zero:
            export(parts, module, folder, steps=callback.chosen[1])
        trainer.strategy.barrier()
        if config.data.n_test != 0:
            score_on_test(parts, trainer, module, callback, folder)
        if trainer.is_global_zero:
            samples = shows_samples(config, trainer.loggers)
            log_results(trainer, callback, folder.path, samples=samples, config=public_config(config))
            kernels = torch.backends.cpu.get_cpu_capability()
            stop = drift_stop(trainer)
            early = {"stop_drift": stop.record} if stop else {}
            folder.write_status("finished", **early, device=str(module.device), cpu_kernels=kernels)
        for logger in trainer.loggers:
            logger.finalize("success")


def score_on_test(parts: RunParts, trainer: L.Trainer, module: Any, callback: Any, folder: RunFolder) -> None:
    """The one reading of test: the float prompt and the PNG read back from disk (targets.png), table and pictures."""
    callback.test_prompts = {"png": Prompt.load(folder.prompt, reading="png").to(module.device)}
    trainer.test(module, datamodule=parts.datamodule, verbose=False)
    if trainer.is_global_zero:
        scores = write_summary(parts.config, folder, callback, module.result, note=str(drift_stop(trainer) or ""))
        update_manifest(folder.prompt, {"scores": scores})


def train(config: DictConfig, trainer: L.Trainer, module: Any, datamodule: Any, folder: RunFolder) -> tuple[int, int]:
    """Fit from scratch or from the last checkpoint, then put the best prompt by validation into the module.

    With `official` the last prompt stays, as in the reference: its validation rows are test rows, and choosing by them
    would choose by test.

    Returns:
        (epoch, updates) of the prompt now in the module.
    """
    if config.method.name == "none":
        trainer.validate(module, datamodule=datamodule, verbose=False)
        return 0, 0
    last = newest_checkpoint(folder.checkpoints)
    trainer.fit(module, datamodule=datamodule, ckpt_path=last, weights_only=None if last is None else True)
    path = folder.checkpoints / BEST
    if (stop := drift_stop(trainer)) and stop.found["stopped"] and not path.is_file():
        raise ValueError(
            f"No prompt is within train.stop_drift.limit={stop.limit:g}: the first validation found a drift of "
            f"{stop.found['drift']:.3f}. Raise the limit, lower method.lr, or validate earlier (train.val_every_steps)."
        )
    if not path.is_file():  # train.max_steps ended before the first validation
        trainer.validate(module, datamodule=datamodule, verbose=False)
    if config.official or not path.is_file():
        return trainer.current_epoch, trainer.global_step
    best = read_checkpoint(path)
    module.load_state_dict(best["state_dict"], strict=False)  # prompt and average only: frozen models are never saved
    return best["epoch"], best["global_step"]


def drift_stop(trainer: L.Trainer) -> StopByDrift | None:
    """The early stop of the run, if its recipe has one."""
    return next((found for found in cast(Any, trainer).callbacks if isinstance(found, StopByDrift)), None)


def export(parts: RunParts, module: Any, folder: RunFolder, *, steps: int) -> None:
    """Write the prompt artefact of the run; its scores are added after the test."""
    config, datamodule = parts.config, parts.datamodule
    module.result.save(
        folder.prompt,
        {
            "method": config.method.name,
            "mode": "official" if config.official else "default",
            "task": datamodule.task,
            "data": datamodule.name,
            "source": [spec.name for spec in parts.sources],
            "source_fingerprints": [spec.fingerprint() for spec in parts.sources],
            "train_data_fingerprint": datamodule.fingerprint("train"),
            "seed": config.seed,
            "steps": steps,
            "start": start_record(config, datamodule),
            "average_last": config.train.average_last,
            "run": folder.path.name,
            "licence": LICENCE,
        },
    )


def quiet_lightning() -> None:
    """Silence Lightning's advice that does not apply here; every other warning stays visible."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators.cuda"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in NOT_FOR_USERS:
        warnings.filterwarnings("ignore", message=message)
