"""How many cells run side by side on this machine."""

from __future__ import annotations

import os

import torch

from experiments.sweep.worker import THREADS
from model_zoo.memory.free import free_room

GIB_PER_CPU_SLOT = 2


def local_slots(jobs: int, cells: int) -> list[dict[str, str]]:
    """The environment of each worker: its GPU, or one thread of a CPU."""
    gpus = visible_gpus()
    if gpus:
        chosen = [gpus[i % len(gpus)] for i in range(jobs or len(gpus))]
        return [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in chosen][:cells]
    return [dict.fromkeys(THREADS, "1") for _ in range(min(jobs or _cpu_slots(), max(cells, 1)))]


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES may be set to, one GPU at a time."""
    if not torch.cuda.is_available():
        return []
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named or [str(i) for i in range(torch.cuda.device_count())]


def _cpu_slots() -> int:
    cores, free = usable_cores(), free_room("cpu").free
    return max(1, cores if free is None else min(cores, free // (GIB_PER_CPU_SLOT << 30)))


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
