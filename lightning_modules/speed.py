"""Switches that make the update faster and leave every score as it is."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch


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
    """What `train.tf32` asks for."""
    return [TF32Updates()] if tf32 else []
