"""Weights in memory once: frozen models loaded inside `sharing()` hold the same tensor wherever their bits agree.

Every model keeps its own modules, so what is done to its layers (checkpointing, compiling, another head) is its own;
only the memory behind its frozen parameters is shared. A tensor of other bits, dtype or device is another entry, which
makes an entry immutable: moving, casting or quantising a model gives it tensors of its own and leaves the others'.
Threads load one after the other, so that the second finds what the first has read; what is loaded is used by any.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from model_zoo.weights.safe import own

SAMPLE = 16  # numbers of a tensor that are compared before all of them are
WHOLE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Entry:
    """Where a tensor lies that somebody else holds; never keeps it in memory.

    moved: the same weights on another device, once a model was moved there.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._storage = StorageWeakRef(tensor.untyped_storage())
        self._view = (tensor.storage_offset(), tensor.shape, tensor.stride())
        self._empty = tensor.detach().new_empty(0)
        self.moved: Entry | None = None

    @property
    def tensor(self) -> Tensor | None:
        """The tensor as a new object; None when nobody holds it any more."""
        storage = torch.UntypedStorage._new_with_weak_ptr(self._storage.cdata)
        return None if storage is None else self._empty.detach().clone().set_(storage, *self._view)

    @property
    def bytes(self) -> int:
        """Bytes it takes; 0 when nobody holds it any more."""
        return 0 if self._storage.expired() else torch.Size(self._view[1]).numel() * self._empty.element_size()


class WeightPool:
    """The weights that models of this process hold, by their bits; it holds none itself, so that the last model that
    goes takes them along.

    Attributes:
        lock: one thread at a time asks for weights; `sharing()` holds it for as long as a model is loaded.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._entries: dict[tuple, list[Entry]] = {}
        self._files: dict[tuple, dict[str, Entry]] = {}

    def entries(self) -> list[Entry]:
        """All that is held by somebody; forgets the rest."""
        with self.lock:
            alive = {form: [entry for entry in found if entry.bytes] for form, found in self._entries.items()}
            self._entries = {form: found for form, found in alive.items() if found}
            self._files = {key: held for key, held in self._files.items() if all(_anywhere(e) for e in held.values())}
            return [entry for found in self._entries.values() for entry in found]

    @property
    def bytes(self) -> int:
        """Of all weights held, each once."""
        return sum(entry.bytes for entry in self.entries())

    def once(self, tensor: Tensor) -> Tensor:
        """The tensor of the same bits that a model holds already, else this one, which is known from now on."""
        entry = self._entry(tensor)
        held = entry.tensor if entry else None
        return tensor if held is None else held

    def read(
        self, path: Path, how: str, dtype: torch.dtype, read: Callable[[], dict[str, Tensor]], device: str = "cpu"
    ) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors of `read()`, as `dtype` in memory of their own; not read while models hold all of them.

        how: what `read` makes of the file, apart from the file itself; empty where that cannot be said.
        device: where the model goes: weights that are there already are handed out there.
        """
        stat = path.stat()
        key = (path.resolve(), stat.st_size, stat.st_mtime_ns, how, dtype)
        known = {name: _on(entry, device) for name, entry in self._files.get(key, {}).items()}
        if known and all(tensor is not None for tensor in known.values()):
            yield from ((name, tensor) for name, tensor in known.items() if tensor is not None)
            return
        found: dict[str, Entry] = {}
        for name, value in drain(read(), dtype):
            if entry := self._entry(value):
                found[name] = entry
            held = entry.tensor if entry else None
            yield name, value if held is None else held
        if how:
            self._files[key] = found

    def place_(self, model: Any, device: torch.device | str = "cpu") -> Any:
        """Move a model to a device; of its frozen weights it holds those that others hold there already."""
        parameters = list(model.parameters())
        for parameter in parameters:
            if type(parameter) is nn.Parameter and not parameter.requires_grad and not parameter.is_meta:
                before = self._entry(parameter.data)
                here = _moved(parameter.data, device)
                entry = self._entry(here)
                held = entry.tensor if entry else None
                parameter.data = here if held is None else held
                if before and entry is not before:
                    before.moved = entry
        # Buffers, and what is no plain parameter: a quantised layer becomes integers on its way to a GPU, and would on
        # its way to the CPU, slowly.
        plain = all(type(parameter) is nn.Parameter for parameter in parameters)
        placed = model.to(device) if plain or torch.device(device).type != "cpu" else model
        for parameter in () if plain else placed.parameters():
            if type(parameter) is not nn.Parameter and not parameter.is_floating_point():
                self._share_integers_(parameter)
        return placed

    def _share_integers_(self, parameter: Any) -> None:
        """Of a quantised layer (bitsandbytes'): the integers, not the few numbers that scale them."""
        before = parameter.data
        parameter.data = self.once(before)
        if getattr(parameter, "CB", None) is not None and parameter.CB.data_ptr() == before.data_ptr():
            parameter.CB = parameter.data  # the same integers under the name that 8-bit layers read

    def _entry(self, tensor: Tensor) -> Entry | None:
        """The entry of a tensor's bits, made if there is none; None for a tensor that cannot be shared."""
        flat = _flat(tensor)
        if flat is None:
            return None
        sample = flat[:: max(1, len(flat) // SAMPLE)].cpu().numpy().tobytes()
        form = (tensor.device, tensor.dtype, tensor.shape, tensor.stride(), sample)
        with self.lock:
            found = self._entries.setdefault(form, [])
            for entry in list(found):
                held = entry.tensor
                if held is None:
                    found.remove(entry)
                elif held.data_ptr() == tensor.data_ptr() or torch.equal(_whole(held), flat):
                    return entry
            found.append(Entry(tensor))
            return found[-1]


def _moved(tensor: Tensor, device: torch.device | str) -> Tensor:
    """On the device; from pinned memory where a thread copies to a GPU on a stream of its own."""
    target = torch.device(device)
    if target.type == "cuda" and not tensor.is_cuda and torch.cuda.current_stream(target).stream_id:
        return tensor.pin_memory().to(target, non_blocking=True)
    return tensor.to(target)


def _flat(tensor: Tensor) -> Tensor | None:
    """A dense tensor's bits as whole numbers in the order of memory."""
    dense = tensor.is_contiguous() or (tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last))
    if not dense or tensor.is_meta or not tensor.numel() or tensor.element_size() not in WHOLE:
        return None
    return _whole(tensor)


def _whole(tensor: Tensor) -> Tensor:
    flat = tensor.detach().as_strided((tensor.numel(),), (1,), tensor.storage_offset())
    return flat.view(WHOLE[tensor.element_size()])


def _on(entry: Entry, device: str) -> Tensor | None:
    """An entry's tensor on the CPU or, where it was moved to the device that is wanted, there."""
    there = entry.moved.tensor if entry.moved else None
    return there if there is not None and there.device == torch.device(device) else entry.tensor


def _anywhere(entry: Entry) -> bool:
    return bool(entry.bytes or (entry.moved and entry.moved.bytes))


def drain(tensors: dict[str, Tensor], dtype: torch.dtype | None) -> Iterator[tuple[str, Tensor]]:
    """Tensors of a file one by one, as `dtype` in memory of their own: a file that could not be mapped shrinks as the
    module that takes them grows."""
    while tensors:
        name = next(iter(tensors))
        yield name, own(tensors.pop(name), dtype)


POOL = WeightPool()
"""Of this process."""


class _Thread(threading.local):
    device: str | None = None  # what the model that this thread is loading goes to; None: it shares nothing


_thread = _Thread()


@contextmanager
def sharing(device: torch.device | str = "cpu") -> Iterator[WeightPool]:
    """Models loaded inside, for this device, share their weights with all that were loaded so. They must stay frozen:
    a weight that is written to changes in every model that holds it. One thread at a time is inside."""
    with POOL.lock:
        before, _thread.device = _thread.device, str(torch.empty(0, device=device).device)  # cuda is cuda:0
        try:
            yield POOL
        finally:
            _thread.device = before


def read_weights(
    path: Path, how: str, dtype: torch.dtype | None, read: Callable[[], dict[str, Tensor]]
) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of `read()` as `dtype`: shared inside `sharing()`, else the caller's own; see `drain`."""
    if _thread.device is None or dtype is None:
        return drain(read(), dtype)
    return POOL.read(path, how, dtype, read, _thread.device)
