"""What a run is at (update, validation, test), told to whoever watches it: a sweep's worker tells its lease."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L

_watchers: list[Callable[..., None]] = []


@contextmanager
def watching(tell: Callable[..., None]) -> Iterator[None]:
    """Call `tell(phase=..., step=..., steps=...)` as runs inside the block go on; it must be quick."""
    _watchers.append(tell)
    try:
        yield
    finally:
        _watchers.remove(tell)


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
