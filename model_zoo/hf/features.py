"""Visual features of any family as one tensor a picture, and back into the form the model's own code expects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

Shapes = list[torch.Size] | torch.Size


@dataclass
class Features(BaseModelOutputWithPooling):
    """What `get_image_features` answers, deepstack families included."""

    deepstack_features: Any = None


class Form(NamedTuple):
    """How one picture's features lie in the model's output, layer by layer (`pooler_output`, then deepstack).

    shapes: for each layer the shapes of a picture's tensors in a list, or one shape whose first entry is a picture's
    share of a stacked tensor. widths: of each layer in the joined tensor. pooled: whether the first is `pooler_output`.
    targets: layers of the language model, where the family names them. same: fields that are alike for all pictures.
    """

    shapes: list[Shapes]
    widths: list[int]
    pooled: bool
    targets: list[int]
    same: dict[str, Any]


OTHER = {"last_hidden_state", "hidden_states", "attentions", "pooler_output", "deepstack_features"}


def join(output: Any, batch: int) -> tuple[Tensor, Form]:
    """An output for `batch` pictures of one size as tokens (B, T, D), layers side by side in D, and its form."""
    deep = list(getattr(output, "deepstack_features", None) or [])
    named = [layer for layer in deep if isinstance(layer[0], int)]
    pooled = output.pooler_output is not None
    flat, shapes, widths = [], [], []
    for layer in [*([output.pooler_output] if pooled else []), *([part for _, part in named] or deep)]:
        stacked = isinstance(layer, Tensor)
        parts = [layer] if stacked else list(layer)
        width = parts[0].shape[-1]
        flat.append(torch.cat([part.reshape(-1, width) for part in parts]).view(batch, -1, width))
        one: Shapes = torch.Size((len(layer) // batch, *layer.shape[1:])) if stacked else []
        shapes.append(one if stacked else [part.shape for part in parts[: len(parts) // batch]])
        widths.append(width)
    same = {key: value.detach() for key, value in output.items() if key not in OTHER}
    return torch.cat(flat, -1), Form(shapes, widths, pooled, [target for target, _ in named], same)


def split(tokens: Tensor, form: Form) -> Features:
    """The model's own output again, from tokens (B, T, D)."""
    layers: list[Any] = []
    for part, shapes in zip(tokens.split(form.widths, -1), form.shapes, strict=True):
        if isinstance(shapes, torch.Size):
            layers.append(part.reshape(len(tokens) * shapes[0], *shapes[1:]))
            continue
        rows = [shape[:-1].numel() for shape in shapes]
        pieces = [piece for picture in part for piece in picture.split(rows)]
        layers.append([piece.reshape(shapes[i % len(shapes)]) for i, piece in enumerate(pieces)])
    first, deep = (layers[0], layers[1:]) if form.pooled else (None, layers)
    deep = list(zip(form.targets, deep, strict=True)) if form.targets else deep
    found = Features(pooler_output=first, deepstack_features=deep or None)
    for key, value in form.same.items():
        setattr(found, key, value)
    return found
