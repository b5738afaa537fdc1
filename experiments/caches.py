"""What runs share on disk below `cache`, or TVP_CACHE: scores of controls, features of clean frames."""

from __future__ import annotations

import os
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
