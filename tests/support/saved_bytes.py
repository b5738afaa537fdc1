"""Measuring what the planner predicts: bytes autograd keeps, and the peak of live bytes, both exact."""

from __future__ import annotations

import weakref

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class SavedBytes:
    """Bytes of the distinct storages autograd keeps inside the block, parameters and buffers left out."""

    def __init__(self, *modules: nn.Module) -> None:
        own = (tensor for module in modules for tensor in (*module.parameters(), *module.buffers()))
        self.left_out = {tensor.untyped_storage()._cdata for tensor in own}
        self.kept: dict[int, torch.UntypedStorage] = {}
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.left_out:
            self.kept[storage._cdata] = storage  # held, so that no address is used twice
        return tensor

    @property
    def total(self) -> int:
        return sum(storage.nbytes() for storage in self.kept.values())

    def __enter__(self) -> SavedBytes:
        self.hooks.__enter__()
        return self

    def __exit__(self, *args: object) -> None:
        self.hooks.__exit__(*args)


class PeakBytes(TorchDispatchMode):
    """Peak of the bytes that live at once in storages made inside the block."""

    def __init__(self) -> None:
        super().__init__()
        self.live, self.peak = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        old = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        for tensor in (x for x in tree_leaves(result) if isinstance(x, torch.Tensor)):
            storage = tensor.untyped_storage()
            if storage._cdata not in old:
                self.live += storage.nbytes()
                weakref.finalize(storage, self._gone, storage.nbytes())
        self.peak = max(self.peak, self.live)
        return result

    def _gone(self, count: int) -> None:
        self.live -= count
