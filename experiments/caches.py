"""What runs share: scores of controls and clean features below `cache` (or TVP_CACHE), and in a worker its source."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig


def control_store() -> Any:
    """Scores of controls are shared by all runs: `cache/controls`, or below TVP_CACHE."""
    from lightning_modules.controls import ControlStore

    return ControlStore(Path(os.environ.get("TVP_CACHE", "cache")) / "controls")


def build_clean_features(config: DictConfig, specs: list[Any]) -> list[Any] | None:
    """A cached encoder of clean frames per source, all in one folder; None where none is wanted."""
    from lightning_modules.clean_features import CachedFeatures
    from lightning_modules.feature_cache import FeatureCache, feature_folder

    kind = config.train.feature_cache
    if kind == "off" or not config.method.fca:
        return None
    cache = FeatureCache(feature_folder(), dtype=kind, limit_gib=config.train.feature_cache_gib)
    return [CachedFeatures(cache, partial(_identity, spec)) for spec in specs]


def _identity(spec: Any) -> dict[str, Any]:
    """What names a model in a cache of what it computes; the fingerprint is read when it is first needed."""
    return {
        "model": spec.fingerprint(),
        "mllm": spec.name,
        "dtype": spec.precision,
        "options": repr(sorted(spec.options.items())),
    }


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
