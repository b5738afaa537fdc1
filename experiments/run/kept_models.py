"""What the runs of one process share: the models that one has loaded, kept for the next.

(Runs of all processes share scores of controls and clean features, below `cache` or TVP_CACHE.)
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lightning_modules.backoff import free_memory
from model_zoo.pool import POOL
from model_zoo.registry import is_served

_models: dict[tuple, tuple[Any, list[torch.dtype]]] = {}
_keeping = 0
_lock = threading.RLock()


@contextmanager
def keep_models() -> Iterator[None]:
    """Runs inside take over the models that earlier ones have loaded; those go when there is no room for them beside
    the next run, and at the end."""
    global _keeping
    _keeping += 1
    try:
        yield
    finally:
        _keeping -= 1
        if not _keeping:
            _models.clear()


def load_kept(spec: Any, device: torch.device | str = "cpu") -> Any:
    """The model on a device: the kept one where it is the same in every respect, else loaded (and then kept).

    A source is never another run's target: trainers move it about.
    """
    if not _keeping or spec.compile or is_served(spec.name):
        return spec.load(device)
    return kept(_key(spec), lambda: spec.load(device), device)


def kept(key: tuple, load: Callable[[], Any], device: torch.device | str = "cpu") -> Any:
    """What was loaded under this key, unless its weights have another dtype by now; else loaded, and kept inside
    `keep_models()`. On the device in either case."""
    with _lock, torch.inference_mode(False):  # see `ModelSpec.load`
        model, dtypes = _models.get(key, (None, []))
        if model is None or _dtypes(model) != dtypes:
            model = load()
            if _keeping:
                _models[key] = model, _dtypes(model)
        return POOL.place_(model, device)


def kept_bytes(device: str, keys: Iterable[tuple] | None = None) -> int:
    """Bytes that the weights of kept models (of all, or of some keys) take on a device, what they share once."""
    models = [_models[key][0] for key in (_models if keys is None else keys)]
    found = {p.data_ptr(): p.numel() * p.element_size() for m in models for p in m.parameters() if _is_on(p, device)}
    return sum(found.values())


def make_room(specs: Iterable[Any], device: str, needed: int, free: int | None) -> None:
    """Before a run of these models: let go of others that are kept unless it fits beside them.

    needed: bytes the run takes on the device, its own models included. free: bytes free there now.
    """
    own = {_key(spec) for spec in specs if not is_served(spec.name)} & _models.keys() if _models else set()
    others = _models.keys() - own
    if others and (free is None or needed > free + kept_bytes(device, own)):
        for key in others:
            del _models[key]
        free_memory()


def _key(spec: Any) -> tuple:
    role = "source" if spec.role == "source" else "heldout"
    return repr(dataclasses.replace(spec, role=role)), spec.fingerprint()


def _dtypes(model: Any) -> list[torch.dtype]:
    return [parameter.dtype for parameter in model.parameters()]


def _is_on(tensor: torch.Tensor, device: str) -> bool:
    return tensor.device.type == torch.device(device).type
