"""What `load_mllm` can do to a model's layers: recompute them in backward, compile them, quantise them."""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.utils._triton import has_triton
from torch.utils.checkpoint import checkpoint


def checkpoint_layers_(model: nn.Module) -> nn.Module:
    """Recompute every layer of the vision tower, Q-Former and LLM in backward (`use_reentrant=False`).

    Gradients stay equal bit for bit, kept bytes fall to about one hidden state a layer, backward costs one more
    forward. Without gradients, and with a KV cache, layers run as before. State dict and copies are unaffected.

    Raises ValueError for a model without stacked layers.
    """
    layers = stacked_layers(model)
    if not layers:
        raise ValueError(f"{type(model).__name__} has no stacked layers to checkpoint. Set train.checkpointing=false.")
    for layer in layers:
        layer._beneath = layer.forward.__func__  # the class's, or what `compile_layers_` put there
        layer.forward = MethodType(_recomputed, layer)
    return model


def stacked_layers(model: nn.Module) -> list[Any]:
    """The members of every outermost `nn.ModuleList`: transformer blocks, in the model's order."""
    found: list[Any] = []
    for child in model.children():
        found += list(child) if isinstance(child, nn.ModuleList) else stacked_layers(child)
    return found


def _recomputed(self: Any, *args: Any, **kwargs: Any) -> Any:
    forward = MethodType(self._beneath, self)
    if not torch.is_grad_enabled() or has_cache(args, kwargs):
        return forward(*args, **kwargs)
    # No random numbers to restore: a frozen model has no dropout.
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)


def has_cache(args: tuple, kwargs: dict[str, Any]) -> bool:
    """Whether a layer is called with a KV cache."""
    return any(hasattr(value, "get_seq_length") for value in (*args, *kwargs.values()))


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
        if not has_triton():
            raise RuntimeError("torch.compile needs Triton on a GPU. Install triton, or set train.compile=false.")
        return
    wanted = (os.environ["CXX"],) if os.environ.get("CXX") else COMPILERS
    if not any(map(shutil.which, wanted)):
        raise RuntimeError(
            f"torch.compile needs a C++ compiler on a CPU. Looked for {', '.join(wanted)} on PATH. Install one (g++), "
            "name it in CXX, or set train.compile=false."
        )


def _maybe_compiled(self: Any, *args: Any, **kwargs: Any) -> Any:
    if torch.is_inference_mode_enabled() or has_cache(args, kwargs):
        return type(self).forward(self, *args, **kwargs)
    kind: Any = type(self)
    return _compiled(kind)(self, *args, **kwargs)


@lru_cache
def _compiled(kind: type[nn.Module]) -> Callable[..., Any]:
    """One compiled forward for all layers of a class: weights are inputs of it."""
    return torch.compile(kind.forward)


KINDS = ("8bit", "4bit")
KEPT = "lm_head"


def require_quant(quant: str) -> None:
    """Refuse what cannot run before any weight is read.

    Raises ValueError for an unknown kind, or when bitsandbytes or CUDA is missing.
    """
    if quant not in KINDS:
        raise ValueError(f"Unknown quant '{quant}'. Expected {' or '.join(KINDS)}, or null for none.")
    lacking = [] if find_spec("bitsandbytes") else ['bitsandbytes (pip install -e ".[quant]")']
    lacking += [] if torch.cuda.is_available() else ["a CUDA GPU"]
    if lacking:
        raise ValueError(
            f"quant={quant} needs bitsandbytes and a CUDA GPU; missing here: {' and '.join(lacking)}. "
            "Install what is missing, or set quant=null and use dtype=bfloat16."
        )


def quantise_(model: Any, quant: str) -> nn.Module:
    """Replace every `nn.Linear` of `model.llm` but its head; the weights become integers when moved to CUDA."""
    import bitsandbytes

    # It says at every layer of every step that inputs pass through float16.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    llm = model.llm
    for name, layer in list(llm.named_modules()):
        if type(layer) is nn.Linear and KEPT not in name.split("."):
            llm.set_submodule(name, _quantised(bitsandbytes.nn, layer, quant))
    return model


def _quantised(modules: Any, layer: nn.Linear, quant: str) -> nn.Module:
    """LLM.int8() with its published outlier threshold of 6, or NF4 (QLoRA) computed in the dtype the weights had."""
    sizes, weight = (layer.in_features, layer.out_features, layer.bias is not None), layer.weight.data
    if quant == "8bit":
        with torch.device("meta"):
            made = modules.Linear8bitLt(*sizes, has_fp16_weights=False, threshold=6.0)
        made.weight = modules.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    else:
        with torch.device("meta"):
            made = modules.Linear4bit(*sizes, compute_dtype=weight.dtype, quant_type="nf4")
        made.weight = modules.Params4bit(weight, requires_grad=False, quant_type="nf4")
    made.bias = layer.bias
    return made.requires_grad_(False).train(False)
