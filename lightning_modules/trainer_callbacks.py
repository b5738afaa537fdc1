"""Checkpoints a killed run resumes from: `last` inside and at the end of epochs, `best` by the monitored metric."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_modules.atomic import replace_file


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and renames. Lightning itself writes to the system's temporary folder and moves, which
    across file systems is a copy: a full disk or a kill would leave half a checkpoint.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, buffer.getvalue())


class StepCheckpoint(ModelCheckpoint):
    """Every n updates, but never on an epoch's last batch: there Lightning's counters still say mid-epoch while the
    loader is done, and the state could not be resumed exactly. The epoch's end has its own checkpoint.
    """

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        if not trainer.is_last_batch:
            super().on_train_batch_end(trainer, *args, **kwargs)


def build_checkpoints(folder: Path, *, monitor: str, every: int) -> list[ModelCheckpoint]:
    """`best.ckpt` (largest `monitor`) and `last.ckpt`; each file is replaced whole or not at all.

    Args:
        folder: where they go.
        monitor: a logged key.
        every: updates between checkpoints inside an epoch.
    """
    kept: dict[str, Any] = {
        "dirpath": folder,
        "enable_version_counter": False,
        "auto_insert_metric_name": False,
        "save_top_k": 1,
    }
    return [
        ModelCheckpoint(filename="best", monitor=monitor, mode="max", save_on_train_epoch_end=False, **kept),
        StepCheckpoint(filename="last", every_n_train_steps=every, **kept),
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
