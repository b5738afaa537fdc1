"""Training a model's own weights on a task, as a prompt is trained: same rows, batches, updates and loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from experiments.costing.ways import learned_shapes, lora_layers, require_peft
from experiments.run.build import run_length, validation_interval
from lightning_modules.evaluation import ModelSpec, score_inputs
from lightning_modules.metrics import Scores, point, primary_metric
from lightning_modules.optim import build_optimizer, build_schedule
from lightning_modules.tvp import split_batch
from model_zoo.registry import load_mllm

CLIP_NORM = 1.0  # of the whole gradient: usual for adapters and fine-tuning alike
WARMUP = 20  # one part in so many of the updates


class Fitted(NamedTuple):
    """step: the update whose weights were kept. value: the primary metric on validation there."""

    step: int
    value: float


def load_own(spec: ModelSpec, device: torch.device | str = "cpu") -> Any:
    """A model whose weights belong to it alone, to be changed.

    Outside of `model_zoo.pool.sharing` a factory reads every tensor into memory of its own, and no other model is given
    it: what is loaded through `ModelSpec.load` before or after stays as it is in the files.
    """
    kinds: dict[str, Any] = {"dtype": spec.dtype, "checkpointing": spec.checkpointing, "official": spec.official}
    return load_mllm(spec.name, weights=spec.weights, **kinds, **spec.options).to(device)


def open_(mllm: Any, way: str, *, rank: int, alpha: int, seed: int) -> dict[str, nn.Parameter]:
    """Let a model's weights be learned; returns those that are, by name. The model must own them (`load_own`).

    lora puts a pair of thin matrices beside every linear layer of the language model (seeded, the second one zero, so
    that no score changes); connector opens what is neither tower nor language model; full opens everything. There is no
    dropout: an MLLM here stays in eval mode.

    Raises ValueError where peft is missing, and for a model without linear layers.
    """
    wanted = learned_shapes(mllm, way, rank)
    if not wanted:
        raise ValueError(f"'{mllm.name}' has no weights to learn by way of {way}. Leave it out of ways=.")
    mllm.requires_grad_(False)
    if way == "lora":
        add_lora_(mllm, rank=rank, alpha=alpha, seed=seed)
    learned = {name: parameter for name, parameter in mllm.named_parameters() if name in wanted}
    for parameter in learned.values():
        parameter.requires_grad_(True)
    return learned


def add_lora_(mllm: Any, *, rank: int, alpha: int, seed: int) -> None:
    """Put LoRA on the language model's linear layers, in place, through peft (Hu et al. 2021, arXiv 2106.09685)."""
    require_peft()
    from peft import LoraConfig, inject_adapter_in_model

    names = [name for name, _ in lora_layers(mllm)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=names), mllm)


def fit_(
    mllm: Any,
    learned: dict[str, nn.Parameter],
    data: Any,
    config: DictConfig,
    *,
    lr: float,
    path: Path,
    tell: Callable[..., None],
) -> Fitted:
    """Train by Adam on the recipe's rows, batches and number of updates; the best weights by validation go to `path`.

    data: the data set at the size of the whole picture. lr: warmed up over a twentieth of the updates, then falling by
    half a cosine. tell: is told of each update and validation as a run tells its watchers. What the loss does not read
    (a tower's classifier, say) is no longer among the learned after the first update.
    """
    per_epoch = len(data.train_dataloader())
    epochs, steps = run_length(config, per_epoch)
    every = validation_interval(config, per_epoch) or config.train.val_every * per_epoch
    optimizer = build_optimizer("adam", learned.values(), lr=lr)
    schedule = build_schedule("cosine_step", optimizer, total=steps, warmup=max(1, steps // WARMUP))
    best, step = Fitted(0, float("-inf")), 0
    for epoch in range(epochs):
        data.set_position(epoch, 0)
        for batch in data.train_dataloader():
            update_(mllm, learned, batch, optimizer, config.train.accumulate)
            schedule.step()
            for name in [name for name, parameter in learned.items() if parameter.grad is None]:
                learned.pop(name).requires_grad_(False)
            step += 1
            tell(phase="training", step=step, steps=steps)
            if step % every == 0 or step == steps:
                tell(phase="validation", step=step, steps=steps)
                value = point(primary_metric(data.task), score(mllm, data, "val", config.targets.n))
                if value > best.value:
                    best = Fitted(step, value)
                    write_weights(path, learned)
            if step == steps:
                break
    return best


def update_(mllm: Any, learned: Mapping[str, nn.Parameter], batch: Any, optimizer: Any, accumulate: int = 1) -> float:
    """One update by the task's loss, sum(nats) / sum(tokens) over the whole batch; returns that loss."""
    tokens = mllm.answer_token_counts(batch.questions, batch.answers).sum().to(mllm.device)
    optimizer.zero_grad()
    total = 0.0
    for part in split_batch(batch, accumulate):
        nats, _ = mllm.answer_loss(part.images.to(mllm.device), part.questions, part.answers)
        loss = nats.sum() / tokens
        loss.backward()
        total += float(loss.detach())
    nn.utils.clip_grad_norm_(learned.values(), CLIP_NORM)
    optimizer.step()
    return total


def score(mllm: Any, data: Any, split: str, n: int | None) -> Scores:
    """A model's record on the whole pictures of a split's fixed sub-sample."""
    return score_inputs(mllm, data, {"full": (data.image_size, _as_it_is)}, split=split, n=n)["full"]


def _as_it_is(images: Tensor) -> Tensor:
    return images


def write_weights(path: Path, learned: Mapping[str, nn.Parameter]) -> None:
    """What was learned as one safetensors file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: parameter.detach().contiguous() for name, parameter in learned.items()}, path)


@torch.no_grad()
def read_weights_(path: Path, learned: Mapping[str, nn.Parameter]) -> None:
    """Put a file of `write_weights` into a model that was opened alike."""
    for name, value in load_file(path).items():
        learned[name].copy_(value)
