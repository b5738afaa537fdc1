"""One pass through a vision tower for all models that share it: features of batches, kept while models are scored."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from datamodules.whole_files.disk import cache_root
from lightning_modules.feature_cache import GIB
from model_zoo.base import MLLM


class Kept(NamedTuple):
    """What a tower returned for one batch, on the CPU, its bytes, and the last visit that read it."""

    features: tuple[Tensor, ...]
    size: int
    visit: int


class Room:
    """Entries of at most `limit` bytes in all, `used` of them taken, the least recently used first."""

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0
        self._kept: OrderedDict[str, Kept] = OrderedDict()

    def read(self, key: str, visit: int) -> tuple[Tensor, ...]:
        """An entry's features; none where there is no entry."""
        known = self._kept.get(key)
        if known is None:
            return ()
        self._kept[key] = known._replace(visit=visit)
        self._kept.move_to_end(key)
        return known.features

    def fits(self, size: int, visit: int) -> bool:
        """Whether there is room, made by entries that only earlier visits have read."""
        while self._kept and self.used + size > self.limit:
            oldest = next(iter(self._kept))
            if self._kept[oldest].visit == visit:
                return False
            self.drop(oldest)
        return self.used + size <= self.limit

    def keep(self, key: str, kept: Kept) -> None:
        self._kept[key] = kept
        self.used += kept.size

    def drop(self, key: str) -> None:
        if key in self._kept:
            self.used -= self._kept.pop(key).size

    def clear(self) -> None:
        self._kept.clear()
        self.used = 0


class TowerFeatures:
    """Features (B, N, V) by (tower, batch of pixels), so that a batch is encoded once and handed to every connector.

    A key holds the digest of the tower's weights and that of the pixels themselves: another prompt, row, size,
    normalisation, order or batch size is another entry, and what is handed out is what the tower would return, to the
    bit. Features stay in main memory, so that they never take a GPU's room from a model, and what finds no room there
    in files that are mapped into memory and have no name: they go with this process, however it ends.

    As many outputs of a tower are kept as any model that shares it was seen to read: from the second round on, no frame
    is encoded again for an output that the first model leaves out.

    What is not kept is encoded again. The least recently used entries make room, those of the present visit excepted:
    models read the same inputs in the same order, and where these exceed the budget, an entry dropped for the next one
    would always be the one the next model asks for first.

    Args:
        limit: most bytes kept in memory; 0 keeps nothing at all.
        disk: most bytes kept in files beside, and half of what is free there; 0: none.

    Attributes:
        memory, disk: the two budgets.
        asked, hits: batches, and how many of them needed no tower.
    """

    def __init__(self, limit: int = GIB, disk: int = 20 * GIB) -> None:
        self.memory, self.disk = Room(limit), Room(disk)
        self.asked, self.hits = 0, 0
        self._outputs: dict[str, int] = {}  # tower -> how many of its outputs are read
        self._visit = 0

    @contextmanager
    def lent_to(self, mllm: Any) -> Iterator[None]:
        """Inside, `mllm` asks here before it runs its tower; one that names no tower is left as it is."""
        if not self.memory.limit or not isinstance(mllm, MLLM) or not mllm.tower_parts():
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
        known = self.memory.read(key, self._visit) or self.disk.read(key, self._visit)
        self.asked += 1
        if len(known) >= mllm.tower_outputs:
            self.hits += 1
            return tuple(features.to(pixels.device) for features in known[: mllm.tower_outputs])
        fresh = mllm.run_tower(pixels)
        self._keep(key, fresh[: self._outputs[tower]])
        return fresh[: mllm.tower_outputs]

    def clear(self) -> None:
        """Let go of every entry."""
        self.memory.clear()
        self.disk.clear()

    def _keep(self, key: str, features: tuple[Tensor, ...]) -> None:
        size = sum(part.numel() * part.element_size() for part in features)
        for room in (self.memory, self.disk):
            room.drop(key)  # of a model that reads less of the same tower
        if self.memory.fits(size, self._visit):
            self.memory.keep(key, Kept(tuple(part.cpu() for part in features), size, self._visit))
        elif self.disk.fits(size, self._visit):
            self._keep_in_files(key, features, size)

    def _keep_in_files(self, key: str, features: tuple[Tensor, ...], size: int) -> None:
        folder = cache_root() / "towers"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if self.disk.used + size > (self.disk.used + shutil.disk_usage(folder).free) / 2:
                raise OSError("more than half of what is free there would be taken.")
            kept = Kept(tuple(_mapped(part, folder) for part in features), size, self._visit)
        except OSError as error:
            self.disk.limit = 0
            warnings.warn(
                f"No more features of towers are kept below '{folder}': {error} They are encoded again.", stacklevel=2
            )
            return
        self.disk.keep(key, kept)


def _mapped(part: Tensor, folder: Path) -> Tensor:
    """The same numbers, as they lie in memory, in a file without a name. Raises OSError where there is no room."""
    extent = 1 + sum((n - 1) * step for n, step in zip(part.shape, part.stride(), strict=True))
    with tempfile.NamedTemporaryFile(dir=folder) as file:  # its bytes stay until the mapping goes
        os.posix_fallocate(file.fileno(), 0, extent * part.element_size())  # else a full disk is a signal, not an error
        flat = torch.from_file(file.name, shared=True, size=extent, dtype=part.dtype)
    return flat.as_strided(part.shape, part.stride()).copy_(part)


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
