"""The update of TVP/EVP as a torch optimizer, and the learning-rate schedules of the three methods."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class NormalizedSGD(Optimizer):
    """delta <- delta - lr * v, with v = momentum * v + g / (||g||_2 + eps).

    The norm is over each WHOLE parameter tensor, as the reference normalises the whole 3x224x224 gradient and masks
    afterwards: keep delta full-frame and let `Prompt.project_()` zero the inside after the step (docs/method.md).
    So backward cannot stop at the border: the inner pixels' gradient is part of the norm. Little would be gained:
    attention mixes all patches; only the last product, the patch embedding's, could leave pixels out.
    Where a group has several tensors each has its own norm, and their values move by the same root mean square: a step
    is lr long for the largest tensor, lr * sqrt(its values / the largest's) for another (our choice).

    Args:
        params: parameters or groups.
        lr: length of each step in pixel units ([0, 1] images); the reference uses 10.
        momentum: 0 in the paper.
        eps: 1e-10 in the reference.
    """

    def __init__(self, params: Iterable, lr: float = 10.0, momentum: float = 0.0, eps: float = 1e-10) -> None:
        if lr < 0 or eps < 0 or not 0 <= momentum < 1:
            raise ValueError(f"Expected lr >= 0, eps >= 0, 0 <= momentum < 1; got lr={lr}, eps={eps}, {momentum=}.")
        super().__init__(params, {"lr": lr, "momentum": momentum, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            most = max((param.numel() for param in group["params"]), default=1)
            for param in group["params"]:
                if param.grad is not None:
                    self._step_one(param, param.grad, group, share=math.sqrt(param.numel() / most))
        return loss

    def _step_one(self, param: Tensor, gradient: Tensor, group: dict, *, share: float) -> None:
        direction = gradient / (gradient.norm() + group["eps"])
        if group["momentum"]:
            state = self.state[param]
            velocity = state.get("velocity")
            direction = direction if velocity is None else velocity * group["momentum"] + direction
            state["velocity"] = direction.clone()
        param.sub_(direction, alpha=group["lr"] * share)


def cosine_factor(step: int, total: int, warmup: int = 0) -> float:
    """Linear warm-up over `warmup` steps, then half a cosine to zero at `total`; 1.0 at step 0 without warm-up."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(total - warmup, 1)
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def build_optimizer(name: str, params: Iterable, *, lr: float, momentum: float = 0.0) -> Optimizer:
    """`normalized` (EVP, TVP), `sgd` (VP) or `adam`."""
    if name == "normalized":
        return NormalizedSGD(params, lr=lr, momentum=momentum)
    if name == "sgd":
        return torch.optim.SGD(params, lr=lr, momentum=momentum)
    if name == "adam":
        return torch.optim.Adam(params, lr=lr)
    raise ValueError(f"Unknown optimizer '{name}'. Available: adam, normalized, sgd.")


def build_schedule(name: str, optimizer: Optimizer, *, total: int, warmup: int = 0) -> LambdaLR:
    """Learning-rate schedule whose `step()` is called per epoch (`cosine_epoch`) or per update (the others).

    Args:
        name: `cosine_epoch` (the paper: T_max = epochs), `cosine_step` (VP), `constant`.
        total: epochs or updates in the whole run.
        warmup: updates of linear warm-up, for the per-update schedules.
    """
    if name == "constant":
        return LambdaLR(optimizer, lambda step: min((step + 1) / max(warmup, 1), 1.0))
    if name in ("cosine_epoch", "cosine_step"):
        return LambdaLR(optimizer, lambda step: cosine_factor(step, total, warmup if name == "cosine_step" else 0))
    raise ValueError(f"Unknown schedule '{name}'. Available: constant, cosine_epoch, cosine_step.")
