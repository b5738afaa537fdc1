"""An LLM's linear layers in 8 or 4 bits through bitsandbytes (extra `quant`); gradients still flow to the input."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

KINDS = ("8bit", "4bit")
KEPT = "lm_head"
"""The vocabulary projection stays as it is: its rounding would enter every score."""


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


def quantise_(model: nn.Module, quant: str) -> nn.Module:
    """Replace every `nn.Linear` of `model.llm` but its head; the weights become integers when moved to CUDA."""
    import bitsandbytes

    # It says at every layer of every step that inputs pass through float16.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    llm = model.llm
    replace = {"8bit": _linear_8bit, "4bit": _linear_4bit}[quant]
    for name, layer in list(llm.named_modules()):
        if type(layer) is nn.Linear and KEPT not in name.split("."):
            llm.set_submodule(name, replace(bitsandbytes, layer))
    return model


def _linear_8bit(bitsandbytes: Any, layer: nn.Linear) -> nn.Module:
    """LLM.int8() with its published outlier threshold of 6."""
    sizes = layer.in_features, layer.out_features
    with torch.device("meta"):
        made = bitsandbytes.nn.Linear8bitLt(*sizes, layer.bias is not None, has_fp16_weights=False, threshold=6.0)
    made.weight = bitsandbytes.nn.Int8Params(layer.weight.data, requires_grad=False, has_fp16_weights=False)
    return _finish(made, layer)


def _linear_4bit(bitsandbytes: Any, layer: nn.Linear) -> nn.Module:
    """NF4 (QLoRA), computed in the dtype the weights had."""
    sizes, dtype = (layer.in_features, layer.out_features), layer.weight.dtype
    with torch.device("meta"):
        made = bitsandbytes.nn.Linear4bit(*sizes, layer.bias is not None, compute_dtype=dtype, quant_type="nf4")
    made.weight = bitsandbytes.nn.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4")
    return _finish(made, layer)


def _finish(made: nn.Module, layer: nn.Linear) -> nn.Module:
    made.bias = layer.bias
    return made.requires_grad_(False).train(False)
