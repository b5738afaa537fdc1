"""What runs share: scores of controls and clean features below `cache` (or TVP_CACHE), and in a worker its source."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from model_zoo.memory.free import free_ram
from model_zoo.pool import POOL

_kept: dict[tuple, Any] = {}
_keeping = False


@contextmanager
def keep_sources() -> Iterator[None]:
    """Runs inside share the source they load: the next run of this process finds it loaded. One at a time is kept."""
    global _keeping
    before, _keeping = _keeping, True
    try:
        yield
    finally:
        _keeping = before


def load_source(spec: Any) -> Any:
    """The source on the CPU: the kept one where it is the same in every respect, else loaded (and then kept)."""
    if not _keeping or spec.compile:
        return spec.load("cpu")
    key = (spec.name, repr(spec), spec.fingerprint())
    if key not in _kept:
        # The last one stays until the next is there, which takes what both have in common, unless room is scarce.
        last = list(_kept.values())
        _kept.clear()
        held = sum(p.numel() * p.element_size() for model in last for p in model.parameters())
        if held > (free_ram().free or 0) / 2:
            last.clear()
        _kept[key] = spec.load("cpu")
    return POOL.place_(_kept[key])


def kept_source() -> str:
    """Name of the source that is kept in this process; empty where there is none."""
    return next(iter(_kept))[0] if _kept else ""
