"""Two other ways to a prompt's gradient: at the worst point nearby (SAM), and from loss values alone (SPSA)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn


def total_norm(tensors: Sequence[Tensor]) -> Tensor:
    """The L2 norm of all numbers of some tensors together."""
    norms = [tensor.norm() for tensor in tensors]
    return norms[0] if len(norms) == 1 else torch.stack(norms).norm()


@contextmanager
def kept_values(parameters: Sequence[nn.Parameter]) -> Iterator[list[Tensor]]:
    """Give a copy of the parameters' values, which they have again to the bit afterwards, however the body ends."""
    before = [parameter.detach().clone() for parameter in parameters]
    try:
        yield before
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)


@contextmanager
def climbed(parameters: Sequence[nn.Parameter], free: Sequence[Tensor], rho: float) -> Iterator[None]:
    """Inside, the parameters stand rho uphill: p + rho * g / ||g||_2 with g the gradients they have (SAM's first step,
    Foret et al. 2021, equation 2 for p = 2, arXiv 2010.01412).

    Args:
        parameters: with gradients.
        free: for each, what multiplies its gradient: 0 where it has nothing to learn, so that all of rho is the prompt.
        rho: in the parameters' units (pixels of [0, 1]).
    """
    with kept_values(parameters) as before, torch.no_grad():
        gradients = [p.grad * mask for p, mask in zip(parameters, free, strict=True) if p.grad is not None]
        scale = rho / (total_norm(gradients) + 1e-12)
        for parameter, value, gradient in zip(parameters, before, gradients, strict=True):
            parameter.copy_(value + scale * gradient)
        with torch.enable_grad():
            yield


class SPSA(NamedTuple):
    """How a gradient is estimated from loss values.

    c: how far from the prompt the loss is asked, in the parameters' units (pixels of [0, 1]) for every value at once.
    directions: how many are averaged; each costs two evaluations.
    """

    c: float = 0.02
    directions: int = 5


@torch.no_grad()
def estimate_gradients_(
    parameters: Sequence[nn.Parameter],
    free: Sequence[Tensor],
    losses: Callable[[], Tensor],
    how: SPSA,
    generator: torch.Generator,
) -> Tensor:
    """Set `grad` of each parameter to SPSA's estimate, the mean over directions d of +1 and -1 of
    d * (L(p + c d) - L(p - c d)) / (2 c) (Spall 1992; d is its own reciprocal). Needs no derivative of the loss.

    Args:
        parameters: put back to the bit afterwards.
        free: for each, 1 where a direction may point, else 0.
        losses: what is logged at the parameters' present values, the loss first.
        generator: of the directions, on the CPU.

    Returns:
        The mean of all that `losses` returned.
    """
    estimates, seen = [torch.zeros_like(parameter) for parameter in parameters], []
    with kept_values(parameters) as before:
        for _ in range(how.directions):
            signs = [_signs(value, generator) * mask for value, mask in zip(before, free, strict=True)]
            sides = []
            for c in (how.c, -how.c):
                for parameter, value, sign in zip(parameters, before, signs, strict=True):
                    parameter.copy_(value + c * sign)
                sides.append(losses())
            slope = (sides[0][0] - sides[1][0]) / (2 * how.c * how.directions)
            for estimate, sign in zip(estimates, signs, strict=True):
                estimate.add_(slope * sign)
            seen += sides
    for parameter, estimate in zip(parameters, estimates, strict=True):
        parameter.grad = estimate
    return torch.stack(seen).mean(0)


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, like.shape, generator=generator).mul(2).sub(1).to(like)
