"""What runs share: scores of controls and clean features below `cache` (or TVP_CACHE), and in a worker its source."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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
        _kept.clear()
        _kept[key] = spec.load("cpu")
    return _kept[key].cpu()


def kept_source() -> str:
    """Name of the source that is kept in this process; empty where there is none."""
    return next(iter(_kept))[0] if _kept else ""
