"""The prompt a run starts from, and what its manifest says about it."""

from __future__ import annotations

from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from lightning_modules.artefact import prompt_sha256
from lightning_modules.prompts import Prompt, build_prompt


def start_prompt(config: DictConfig, datamodule: Any) -> Prompt:
    """The prompt before the first update: a finished one that the configuration names; or else made of it and, for
    `replicate`, of the train rows."""
    geometry = config.prompt
    if geometry.artefact is not None:
        prompt = Prompt.load(geometry.artefact)
        return prompt if config.method.name == "none" else prompt.requires_grad_(True).train()
    shape = {key: geometry[key] for key in ("frame", "pad", "bounds", "rank")}
    prompt = build_prompt(geometry.kind, **shape)
    mean = mean_image(datamodule, geometry.init_images, config.seed) if geometry.init == "replicate" else None
    prompt.init_(geometry.init, std=geometry.init_std, seed=config.seed, mean_image=mean)
    return prompt


def start_record(config: DictConfig, datamodule: Any) -> dict[str, Any]:
    """The manifest's `start`: what it was, with what it was made from, and the sha256 that results name prompts by."""
    init = "artefact" if config.prompt.artefact is not None else config.prompt.init
    made_from: dict[str, Any] = {"std": config.prompt.init_std} if init == "normal" else {}
    if init == "replicate":
        made_from = {"images": len(drawn_rows(datamodule.n("train"), config.prompt.init_images, config.seed))}
    return {"init": init, **made_from, "prompt": prompt_sha256(start_prompt(config, datamodule).delta)}


def mean_image(datamodule: Any, n: int, seed: int) -> Tensor:
    """Mean (3, S, S) float32 of at most `n` train images, as they are evaluated (no augmentation)."""
    positions = drawn_rows(datamodule.n("train"), n, seed)
    total = torch.zeros(3, datamodule.image_size, datamodule.image_size, dtype=torch.float64)
    for position in positions:
        total += datamodule.image("train", position)
    return (total / len(positions)).float()


def drawn_rows(rows: int, n: int, seed: int) -> list[int]:
    """Positions of at most `n` of `rows` rows, drawn by `seed` alone, in rising order."""
    return sorted(torch.randperm(rows, generator=torch.Generator().manual_seed(seed))[:n].tolist())
