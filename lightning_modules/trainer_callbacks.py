"""When a run is checkpointed and validated: `last` to resume from, `best` by the monitored metric, a curve's steps."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import lightning as L
import numpy as np
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_modules.atomic import replace_file
from lightning_modules.features import drift_metrics
from lightning_modules.metrics import Scores

LAST, PREVIOUS, BEST = "last.ckpt", "last.previous.ckpt", "best.ckpt"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and renames. Lightning itself writes to the system's temporary folder and moves, which
    across file systems is a copy: a full disk or a kill would leave half a checkpoint.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        buffer, path = io.BytesIO(), Path(path)
        torch.save(checkpoint, buffer)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.name == LAST and path.is_file():
            replace_file(path.with_name(PREVIOUS), path.read_bytes(), sync=False)
        replace_file(path, buffer.getvalue())


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of ours, tensors and plain values only. Raises: ValueError naming a file that is none or damaged."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        if {"state_dict", "epoch", "global_step", "loops"} <= set(checkpoint):
            return checkpoint
        reason = "it lacks what a checkpoint holds"
    except Exception as error:  # a cut file raises whatever its first missing byte was: EOFError, OSError, ...
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise ValueError(f"'{path}' is damaged ({reason}). Expected a checkpoint as training writes it.")


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint to resume from: `last.ckpt`, or where that is damaged the one before; None where there is none.

    A damaged file is told of and set aside as `<name>.damaged`, so that it never becomes the one before.
    Raises: ValueError naming the files when all that are there are damaged.
    """
    damaged: list[tuple[Path, str]] = []
    for path in (folder / LAST, folder / PREVIOUS):
        if not path.is_file():
            continue
        try:
            step = read_checkpoint(path)["global_step"]
        except ValueError as error:
            damaged.append((path, str(error)))
            continue
        for bad, what in damaged:
            bad.replace(bad.with_name(f"{bad.name}.damaged"))
            print(f"{what} Going on from '{path}', update {step}.")
        return path
    if damaged:
        raise ValueError(
            f"No checkpoint can be read: {' '.join(what for _, what in damaged)} Remove the folder '{folder}' to begin "
            "this run again from its start, with the same settings and folder."
        )
    return None


class StepCheckpoint(ModelCheckpoint):
    """Every n updates, but never on an epoch's last batch: there Lightning's counters still say mid-epoch while the
    loader is done, and the state could not be resumed exactly. The epoch's end has its own checkpoint.

    Where a validation follows the update, it is saved after it: a run resumed from before would not make it up.
    validates: is the update with this number (from 1) followed by a validation?
    """

    def __init__(self, *, validates: Callable[[int], bool] = lambda step: False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._validates = validates

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        if not (trainer.is_last_batch or self._validates(trainer.global_step)):
            super().on_train_batch_end(trainer, *args, **kwargs)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_last_batch and self._validates(trainer.global_step):
            super().on_train_batch_end(trainer, pl_module, None, None, 0)


class ValidateLast(L.Callback):
    """Validates after the last update too, where validations are counted in updates: the end belongs to the curve."""

    def __init__(self, total_steps: int) -> None:
        self.total_steps = total_steps

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step + 1 >= self.total_steps:
            trainer.val_check_batch = 1


class KeepPrompts(L.Callback):
    """Keeps the prompt that is learned (not its average) as `<update>.npy`: after some updates, and after the last."""

    def __init__(self, folder: Path, updates: Sequence[int]) -> None:
        self.folder, self.updates = folder, set(updates)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if trainer.global_step in self.updates:
            self.on_train_end(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            buffer, delta = io.BytesIO(), cast(Any, pl_module).prompt.delta.detach().to("cpu", torch.float32)
            np.save(buffer, delta.numpy())
            self.folder.mkdir(parents=True, exist_ok=True)
            replace_file(self.folder / f"{trainer.global_step}.npy", buffer.getvalue(), sync=False)


class StopByDrift(L.Callback):
    """Ends training at the first validation at which the prompt moves a third model's features beyond a limit.

    Args:
        drifts: (split, model) -> record of `features.FeatureDrift`, a new one at every whole validation.
        mllm: whose. Its pictures of validation are read, none of their labels.
        limit: of the mean relative drift.

    Attributes:
        found: the drift last measured (`drift`), after which update (`step`), and if it ended training (`stopped`).
    """

    def __init__(self, drifts: Mapping[tuple[str, str], Scores], mllm: str, limit: float) -> None:
        self.drifts, self.mllm, self.limit = drifts, mllm, limit
        self.found: dict[str, Any] = {"drift": None, "step": None, "stopped": False}
        self._last: Scores | None = None

    @property
    def record(self) -> dict[str, Any]:
        """What a run's record says of it."""
        return {
            "mllm": self.mllm,
            "limit": self.limit,
            "read": "features of validation pictures, no labels",
        } | self.found

    def __str__(self) -> str:
        drift, step = self.found["drift"], self.found["step"]
        said = "none was measured" if drift is None else f"{drift:.3f} after update {step}"
        did = "ended training: that prompt was not exported" if self.found["stopped"] else "did not end training"
        return (
            f"Early stop by features of {self.mllm} on validation pictures (no labels): drift {said}, limit "
            f"{self.limit:g}; it {did}."
        )

    def on_validation_end(self, trainer: L.Trainer, *_: Any) -> None:
        record = self.drifts.get(("val", self.mllm))
        if trainer.sanity_checking or record is None or record is self._last:  # a partial validation measures nothing
            return
        self._last = record
        drift = drift_metrics(record)["drift_relative"].value
        self.found = {"drift": drift, "step": trainer.global_step, "stopped": drift > self.limit}
        if self.found["stopped"] and trainer.state.fn == "fit":
            trainer.should_stop = True
            print(self) if trainer.is_global_zero else None

    def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.should_stop or self.found["stopped"]  # a run that goes on stays stopped

    def state_dict(self) -> dict[str, Any]:
        return dict(self.found)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.found = dict(state_dict)


class BestWithin(ModelCheckpoint):
    """Keeps the best prompt as ModelCheckpoint does, but never the one whose drift ended training."""

    def __init__(self, stop: StopByDrift, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._stop = stop

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self._stop.found["stopped"]:
            super().on_validation_end(trainer, pl_module)


def build_checkpoints(
    folder: Path, *, monitor: str, every: int, validate_every: int | None, stop: StopByDrift | None = None
) -> list[ModelCheckpoint]:
    """`best.ckpt` (largest `monitor`) and `last.ckpt`, with the one before; each is replaced whole or not at all.

    Args:
        folder: where they go.
        monitor: a logged key.
        every: updates between checkpoints inside an epoch.
        validate_every: updates between validations; None: they come at the ends of epochs.
        stop: what may end training early, by a prompt that is not to be the best.
    """
    kept: dict[str, Any] = {
        "dirpath": folder,
        "enable_version_counter": False,
        "auto_insert_metric_name": False,
        "save_top_k": 1,
    }
    best: dict[str, Any] = {"filename": "best", "monitor": monitor, "mode": "max", "save_on_train_epoch_end": False}
    return [
        BestWithin(stop, **best, **kept) if stop else ModelCheckpoint(**best, **kept),
        StepCheckpoint(
            filename="last",
            every_n_train_steps=every,
            validates=lambda step: validate_every is not None and step % validate_every == 0,
            **kept,
        ),
        ModelCheckpoint(filename="last", every_n_epochs=1, save_on_train_epoch_end=True, **kept),
    ]


class TF32Updates(L.Callback):
    """Matrix products of training steps in TF32 (10 bits of mantissa, NVIDIA Ampere and later).

    Scores, controls and validation stay in full float32: a score in a table never depends on this switch.
    """

    def __init__(self) -> None:
        self._before = "highest"

    def on_train_batch_start(self, *_: Any) -> None:
        self._before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")

    def on_train_batch_end(self, *_: Any) -> None:
        torch.set_float32_matmul_precision(self._before)

    def on_exception(self, *_: Any) -> None:
        torch.set_float32_matmul_precision(self._before)


def speed_callbacks(tf32: bool) -> list[L.Callback]:
    """Return the callbacks `train.tf32` asks for."""
    return [TF32Updates()] if tf32 else []
