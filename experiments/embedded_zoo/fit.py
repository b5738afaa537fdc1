"""One training loop and one file writer for everything the embedded zoo trains."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from model_zoo.weights.writing import new_file


def fit(
    parameters: Iterable[nn.Parameter],
    loss_at: Callable[[int], Tensor],
    steps: int,
    lr: float,
    title: str,
    slow: Sequence[nn.Parameter] = (),
    slow_share: float = 1.0,
) -> float:
    """Minimise loss_at(step) for `steps` steps of AdamW, 5 % warm-up then cosine, gradient norm 1; with a progress bar.

    slow: those of the parameters that learn with slow_share of the rate.

    Returns the mean loss of the last tenth.
    """
    parameters = [p for p in parameters if p.requires_grad]
    late = {id(p) for p in slow}
    groups = [
        {"params": [p for p in parameters if id(p) not in late], "lr": lr},
        {"params": list(slow), "lr": lr * slow_share},
    ]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], betas=(0.9, 0.98), weight_decay=0.02)
    warm = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * min(1.0, s / steps)))
    )
    bar, tail = tqdm(range(steps), desc=title, mininterval=5), []
    for step in bar:
        loss = loss_at(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step >= steps - max(1, steps // 10):
            tail.append(loss.item())
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    return sum(tail) / len(tail)


def save_weights(path: Path, tensors: dict[str, Tensor], metadata: dict[str, object]) -> None:
    """Write float16 safetensors with string metadata, atomically: a reader sees the old file or the whole new one."""
    half = {k: (t.half() if t.is_floating_point() else t).contiguous().cpu() for k, t in tensors.items()}
    with new_file(path) as draft:
        save_file(half, draft, {k: str(v) for k, v in metadata.items()})
        draft.chmod(0o644)  # safetensors writes for the owner only


def files_sha256(paths: Iterable[Path]) -> str:
    """One digest over the names and bytes of source files: which code made a weight file."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
