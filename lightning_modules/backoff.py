"""Gives a model as many rows at a time as memory takes: halves and goes on with the same rows when it runs out."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch

from model_zoo.listing import gib
from model_zoo.memory.free import free_room

T = TypeVar("T")


@dataclass
class RowLimit:
    """The most rows one model takes at a time; None: as many as it is given. Found once, kept for later passes."""

    rows: int | None = None


def in_pieces(batch: Any, call: Callable[[Any], T], limit: RowLimit, mllm: Any) -> list[T]:
    """`call` on consecutive pieces of a Batch, each row once and in order, of at most `limit.rows` rows.

    Where `call` runs out of memory the limit is halved and the same rows are tried again: nothing is lost, and no row
    is counted twice, because a piece counts only when it is whole.

    Raises: MemoryError with numbers when one row alone does not fit.
    """
    done, start, total = [], 0, len(batch.ids)
    while start < total:
        size = min(limit.rows or total, total - start)
        result, problem = _attempt(call, take_rows(batch, start, size))
        if problem is None:
            done.append(cast(T, result))
            start += size
            continue
        free_memory()  # outside of the handler: a live exception would keep the failed call's tensors
        if size == 1:
            raise MemoryError(_too_small(mllm, batch, problem))
        limit.rows = size // 2
        print(f"{mllm.name}: out of memory with {size} images at a time; going on with {limit.rows}.")
    return done


def take_rows(batch: Any, start: int, size: int) -> Any:
    """At most `size` rows of a Batch from `start` on."""
    return type(batch)(*(f if f is None else f[start : start + size] for f in batch))


def pick_rows(batch: Any, rows: list[int]) -> Any:
    """These rows of a Batch."""
    return type(batch)(*(f[rows] if isinstance(f, torch.Tensor) else f and [f[i] for i in rows] for f in batch))


def _attempt(call: Callable[[Any], T], piece: Any) -> tuple[T | None, str | None]:
    """(result, None), or (None, what was said) where memory ran out."""
    try:
        return call(piece), None
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return None, str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether memory ran out: CUDA's and Python's errors and what torch's CPU allocator raises (a RuntimeError)."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        "DefaultCPUAllocator" in text and ("allocate memory" in text or "not enough memory" in text)
    )


def free_memory() -> None:
    """Give back what nothing holds any more, also the blocks that torch keeps of the GPU."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _too_small(mllm: Any, batch: Any, problem: str) -> str:
    weights = sum(p.numel() * p.element_size() for p in mllm.parameters())
    room = free_room(str(mllm.device))
    free = f"{gib(room.free)} are free {room.where}" if room.free is not None else "free memory is not known"
    return (
        f"'{mllm.name}' ran out of memory with one image of {batch.images.shape[-1]} px at a time ({problem}). Its "
        f"weights take {gib(weights)}, {free}. Use targets.dtype=bfloat16, targets.quant=8bit (GPU), "
        "targets.residency=sequential or process, or a larger device."
    )
