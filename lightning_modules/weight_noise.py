"""Virtual targets: the source as it would be with slightly other weights, for one update."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def noisy_weights(mllms: Sequence[Any], sigma: float, generator: torch.Generator) -> Iterator[None]:
    """Inside, every weight of the models' towers and connectors has Gaussian noise on it, new from the generator.

    The noise of a tensor has standard deviation sigma times that tensor's root mean square. Noisy weights are tensors
    of their own that stand in the modules' places for a while, and the very parameters go back however the body ends:
    what models share (`model_zoo.pool`) is only read. Backward must be inside too, as recomputed layers run there.

    Args:
        mllms: models; their language models (`MLLM.language_parts`) stay as they are. No noise on buffers.
        sigma: relative size; 0 changes nothing.
        generator: on the models' device.

    Raises:
        ValueError: a model that keeps all its weights in its language model.
    """
    places: list[tuple[nn.Module, str, nn.Parameter]] = []
    try:
        for mllm in mllms if sigma else ():
            found, made = seeing_weights(mllm), {}
            if not found:
                raise ValueError(f"'{mllm.name}' has no tower or connector to put method.weight_noise on. Set it to 0.")
            for module, name, parameter in found:
                if id(parameter) not in made:  # tied weights stay tied
                    made[id(parameter)] = nn.Parameter(_noisy(parameter, sigma, generator), requires_grad=False)
                places.append((module, name, parameter))
                module._parameters[name] = made[id(parameter)]
        yield
    finally:
        for module, name, parameter in places:
            module._parameters[name] = parameter


def seeing_weights(mllm: Any) -> list[tuple[nn.Module, str, nn.Parameter]]:
    """Module, name and parameter of all floating-point weights outside the language model, in the modules' order."""
    language = {id(p) for part in mllm.language_parts() for p in part.parameters()}
    return [
        (module, name, parameter)
        for module in mllm.modules()
        for name, parameter in module._parameters.items()
        if parameter is not None and parameter.is_floating_point() and id(parameter) not in language
    ]


@torch.no_grad()
def _noisy(weight: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    wide = weight.detach().float()
    noise = torch.randn(weight.shape, generator=generator, device=weight.device)
    return (wide + sigma * wide.square().mean().sqrt() * noise).to(weight.dtype)
