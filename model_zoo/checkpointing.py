"""Activation checkpointing of a frozen model: each layer keeps only its input and is recomputed in backward.

transformers' own `gradient_checkpointing` acts in train mode only, which a frozen model never enters, and silently
empties the KV cache there. So the layers are wrapped here, whatever the mode.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import nn
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


def stacked_layers(model: nn.Module) -> list[nn.Module]:
    """The members of every outermost `nn.ModuleList`: transformer blocks, in the model's order."""
    found: list[nn.Module] = []
    for child in model.children():
        found += list(child) if isinstance(child, nn.ModuleList) else stacked_layers(child)
    return found


def _recomputed(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    forward = MethodType(self._beneath, self)
    if not torch.is_grad_enabled() or has_cache(args, kwargs):
        return forward(*args, **kwargs)
    # No random numbers to restore: a frozen model has no dropout.
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)


def has_cache(args: tuple, kwargs: dict[str, Any]) -> bool:
    """Whether a layer is called with a KV cache."""
    return any(hasattr(value, "get_seq_length") for value in (*args, *kwargs.values()))
