"""Switches the pool of weights off: here, or in processes that find this as their `sitecustomize`; no test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from model_zoo import pool


def pool_off(patch: Callable[[object, str, object], object]) -> None:
    """Have every model read its files and hold its weights for itself. patch: `setattr`, or a monkeypatch's."""
    patch(pool.WeightPool, "place_", lambda self, model, device="cpu": model.to(device))
    patch(pool.WeightPool, "read", _read)


def _read(self, path: Path, how: str, dtype: torch.dtype, read: Callable, device: str = "cpu"):
    return pool.drain(read(), dtype)


def pool_off_below(folder: Path) -> str:
    """A PYTHONPATH for processes without the pool."""
    here = Path(__file__).resolve()
    (folder / "sitecustomize.py").write_text("from support.pool_off import pool_off\npool_off(setattr)\n")
    return ":".join(map(str, (folder, here.parents[2], here.parents[1])))
