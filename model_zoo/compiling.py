"""torch.compile of a frozen model's layers, for the training step.

Each transformer block is compiled on its own: one compilation serves all blocks of a kind, so that 39 + 12 + 32 layers
cost three compilations and not one huge graph. Scoring and generation (inference mode, KV caches, ever new lengths)
run the plain layers.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from functools import lru_cache
from types import MethodType
from typing import Any

import torch
from torch import nn

from model_zoo.checkpointing import has_cache, stacked_layers

COMPILERS = ("g++", "clang++", "c++", "cl")


def compile_layers_(model: nn.Module) -> nn.Module:
    """Compile every layer of the vision tower, Q-Former and LLM; call before `checkpoint_layers_`.

    Losses and gradients agree up to rounding. State dict and copies are unaffected. The first step of each kind of
    shape takes seconds to minutes.

    Raises: ValueError for a model without stacked layers; RuntimeError without a compiler.
    """
    layers = stacked_layers(model)
    if not layers:
        raise ValueError(f"{type(model).__name__} has no stacked layers to compile. Set train.compile=false.")
    require_compiler()
    # Said by torch's own tracer of what it looks at itself.
    warnings.filterwarnings("ignore", message=r"The \.grad attribute of a Tensor that is not a leaf")
    for layer in layers:
        layer.forward = MethodType(_maybe_compiled, layer)
    return model


def require_compiler() -> None:
    """Raises: RuntimeError that says what torch.compile needs here and does not find."""
    if torch.cuda.is_available():
        from torch.utils._triton import has_triton

        if not has_triton():
            raise RuntimeError("torch.compile needs Triton on a GPU. Install triton, or set train.compile=false.")
        return
    wanted = (os.environ["CXX"],) if os.environ.get("CXX") else COMPILERS
    if not any(map(shutil.which, wanted)):
        raise RuntimeError(
            f"torch.compile needs a C++ compiler on a CPU. Looked for {', '.join(wanted)} on PATH. Install one (g++), "
            "name it in CXX, or set train.compile=false."
        )


def _maybe_compiled(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    if torch.is_inference_mode_enabled() or has_cache(args, kwargs):
        return type(self).forward(self, *args, **kwargs)
    return _compiled(type(self))(self, *args, **kwargs)


@lru_cache
def _compiled(kind: type[nn.Module]) -> Callable[..., Any]:
    """One compiled forward for all layers of a class: weights are inputs of it."""
    return torch.compile(kind.forward)
