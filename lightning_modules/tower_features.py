"""One pass through a vision tower for all models that share it: features of batches, kept while models are scored."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_modules.feature_cache import GIB
from model_zoo.base import MLLM


class Kept(NamedTuple):
    """What a tower returned for one batch, on the CPU, and the last visit that read it."""

    features: tuple[Tensor, ...]
    visit: int


class TowerFeatures:
    """Features (B, N, V) by (tower, batch of pixels), so that a batch is encoded once and handed to every connector.

    A key holds the digest of the tower's weights and that of the pixels themselves: another prompt, row, size,
    normalisation, order or batch size is another entry, and what is handed out is what the tower would return, to the
    bit. Features stay in main memory, so that they never take a GPU's room from a model.

    As many outputs of a tower are kept as any model that shares it was seen to read: from the second round on, no frame
    is encoded again for an output that the first model leaves out.

    What is not kept is encoded again. The least recently used entries make room, those of the present visit excepted:
    models read the same inputs in the same order, and where these exceed the budget, an entry dropped for the next one
    would always be the one the next model asks for first.

    Args:
        limit: most bytes kept; 0 keeps nothing.

    Attributes:
        asked, hits: batches, and how many of them needed no tower.
        used: bytes kept now.
    """

    def __init__(self, limit: int = GIB) -> None:
        self.limit, self.used, self.asked, self.hits = limit, 0, 0, 0
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._outputs: dict[str, int] = {}  # tower -> how many of its outputs are read
        self._visit = 0

    @contextmanager
    def lent_to(self, mllm: Any) -> Iterator[None]:
        """Inside, `mllm` asks here before it runs its tower; one that names no tower is left as it is."""
        if not self.limit or not isinstance(mllm, MLLM) or not mllm.tower_parts():
            yield
            return
        before, mllm.tower_memory = mllm.tower_memory, self
        self._visit += 1
        try:
            yield
        finally:
            mllm.tower_memory = before

    def __call__(self, mllm: MLLM, pixels: Tensor) -> tuple[Tensor, ...]:
        """Return what `mllm` reads of `mllm.run_tower(pixels)`, computed or kept. Raises what that raises."""
        key, tower = _key(mllm, pixels), _tower_name(mllm)
        self._outputs[tower] = max(self._outputs.get(tower, 0), mllm.tower_outputs)
        known = self._kept.get(key)
        self.asked += 1
        if known is not None and len(known.features) >= mllm.tower_outputs:
            self.hits += 1
            self._kept[key] = known._replace(visit=self._visit)
            self._kept.move_to_end(key)
            return tuple(features.to(pixels.device) for features in known.features[: mllm.tower_outputs])
        fresh = mllm.run_tower(pixels)
        self._keep(key, fresh[: self._outputs[tower]])
        return fresh[: mllm.tower_outputs]

    def clear(self) -> None:
        """Let go of every entry."""
        self._kept.clear()
        self.used = 0

    def _keep(self, key: str, features: tuple[Tensor, ...]) -> None:
        old = self._kept.pop(key, None)  # of a model that reads less of the same tower
        self.used -= _size(old.features) if old else 0
        size = _size(features)
        while self._kept and self.used + size > self.limit:
            oldest = next(iter(self._kept))
            if self._kept[oldest].visit == self._visit:
                return
            self.used -= _size(self._kept.pop(oldest).features)
        if self.used + size <= self.limit:
            self._kept[key] = Kept(tuple(part.cpu() for part in features), self._visit)
            self.used += size


def _key(mllm: MLLM, pixels: Tensor) -> str:
    cast = torch.get_autocast_dtype(pixels.device.type) if torch.is_autocast_enabled(pixels.device.type) else None
    form = (tuple(pixels.shape), pixels.stride(), pixels.dtype, pixels.device, cast)
    digest = hashlib.sha256(f"{_tower_name(mllm)} {form}".encode())
    digest.update(_bytes(pixels))
    return digest.hexdigest()


def _tower_name(mllm: Any) -> str:
    """The digest of a model's tower, made once: every weight is frozen."""
    name = getattr(mllm, "_tower_name", None)
    if name is None:
        name = mllm._tower_name = tower_digest(mllm.tower_parts())
    return name


def tower_digest(parts: Sequence[nn.Module]) -> str:
    """sha256 of modules: their classes and settings, and the values of every weight and buffer."""
    digest = hashlib.sha256()
    for part in parts:
        configs = {id(module.config): str(module.config) for module in part.modules() if hasattr(module, "config")}
        digest.update(repr((part, *configs.values())).encode())
        for key, tensor in (*part.named_parameters(), *part.named_buffers()):
            digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)} ".encode())
            digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _size(features: tuple[Tensor, ...]) -> int:
    return sum(part.numel() * part.element_size() for part in features)
