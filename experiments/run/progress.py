"""What a run is at (update, validation, test), told to whoever watches it: a sweep's worker tells its lease."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar

EVERY = 30  # seconds between two lines within an epoch

_watchers: list[Callable[..., None]] = []


@contextmanager
def watching(tell: Callable[..., None]) -> Iterator[None]:
    """Call `tell(phase=..., step=..., steps=...)` as runs inside the block go on; it must be quick."""
    _watchers.append(tell)
    try:
        yield
    finally:
        _watchers.remove(tell)


def show_progress(wanted: bool) -> list[L.Callback]:
    """A bar in a terminal, now and then a line in a log file, nothing where it is not wanted."""
    if not wanted:
        return []
    return [TQDMProgressBar(refresh_rate=5)] if sys.stdout.isatty() else [ProgressLines()]


class ProgressLines(L.Callback):
    """Prints a line at the end of each training epoch, and within one at most every `EVERY` seconds."""

    def __init__(self) -> None:
        self.started = self.said = time.monotonic()

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        now, steps = time.monotonic(), int(trainer.estimated_stepping_batches)
        if trainer.is_global_zero and (
            trainer.is_last_batch or trainer.global_step >= steps or now - self.said > EVERY
        ):
            self.said, loss = now, trainer.callback_metrics.get("train/loss")
            told = "" if loss is None else f", loss {float(loss):.3f}"
            print(f"update {trainer.global_step} of {steps}{told} ({now - self.started:.0f} s)", flush=True)


class Progress(L.Callback):
    """Tells the watchers after every update and at the start of each validation and test."""

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        self._tell(trainer, "training")

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._tell(trainer, "validation")

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._tell(trainer, "test")

    def _tell(self, trainer: L.Trainer, phase: str) -> None:
        steps = trainer.estimated_stepping_batches if _watchers and trainer.train_dataloader is not None else 0
        for tell in _watchers:
            tell(phase=phase, step=trainer.global_step, steps=int(steps))
