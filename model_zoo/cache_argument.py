"""The name of the key/value cache in transformers: `past_key_values`, from 5.24 on `cache` (the old one until 5.40).

Everything here that hands a cache to transformers, or takes one from it, asks this file for the name.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from inspect import signature
from typing import Any

from torch import nn

NEW, OLD = "cache", "past_key_values"


@lru_cache(maxsize=256)
def cache_name(function: Callable[..., Any]) -> str:
    """The name of the cache among the parameters of a forward, or of an output class.

    Raises:
        TypeError: it has neither: this transformers is newer than what we know.
    """
    names = signature(function).parameters
    for name in (NEW, OLD):
        if name in names:
            return name
    raise TypeError(
        f"{getattr(function, '__qualname__', function)} takes no key/value cache: expected a parameter `{NEW}` or "
        f"`{OLD}`. This version of transformers is not known here; `make install` brings the tested one."
    )


def cache_argument(module: nn.Module, cache: Any) -> dict[str, Any]:
    """The keyword that hands `cache` (None: none) to `module`."""
    return {cache_name(type(module).forward): cache}


def cache_of(output: Any) -> Any:
    """The cache that an output of transformers carries."""
    kind: Any = type(output)
    return getattr(output, cache_name(kind))
