"""Tells a process its place among the ranks, and which GPUs are free for models that score beside training."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch

_CHOOSING = Lock()


def is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def is_rank_zero() -> bool:
    return not is_distributed() or torch.distributed.get_rank() == 0


def from_rank_zero(value: Any) -> Any:
    """Rank 0's value on every rank: a cache entry may appear between two ranks' looks."""
    if not is_distributed():
        return value
    box = [value]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]


def other_gpus(device: torch.device | str) -> list[str]:
    """The GPUs beside `device`, each as CUDA_VISIBLE_DEVICES of a process of its own; none for ranks, each of which
    has its GPU already, or without a second GPU."""
    own = torch.device(device)
    if own.type != "cuda" or is_distributed():
        return []
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    names = named or [str(i) for i in range(torch.cuda.device_count())]
    return [name for i, name in enumerate(names[: torch.cuda.device_count()]) if i != (own.index or 0)]


class GpuPool:
    """GPUs beside the training process's own, lent to one scoring process each."""

    def __init__(self) -> None:
        self._busy: set[str] = set()

    @contextmanager
    def lent(self, device: torch.device | str) -> Iterator[str | None]:
        """A GPU nobody else has now (CUDA_VISIBLE_DEVICES); None where there is none to spare."""
        with _CHOOSING:
            gpu = next((name for name in other_gpus(device) if name not in self._busy), None)
            self._busy |= {gpu} if gpu else set()
        try:
            yield gpu
        finally:
            self._busy -= {gpu}
