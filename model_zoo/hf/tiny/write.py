"""Writing a tiny model: config, weights, tokenizer, processor and chat template, as `save_pretrained` writes them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForImageTextToText

from model_zoo.hf.tiny.families import TINY


def widen_(model: nn.Module, seed: int = 0) -> None:
    """Redraw every matrix with std 1.2 / sqrt(fan-in), embeddings with 0.6; open gates that start at zero.

    At the library's std of 0.02 all scores agree within 1e-4: nothing could be seen of a picture, or of a mistake.
    """
    generator = torch.Generator().manual_seed(seed)
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.numel() == 1:
                weight.fill_(0.7)
            elif weight.ndim > 1:
                std = 0.6 if id(weight) in tables or "embed" in name else 1.2 / weight[0].numel() ** 0.5
                weight.copy_(torch.randn(weight.shape, generator=generator) * std)


def write_model(config: Any, processor: Any, folder: Path) -> Path:
    """Write a random model of a configuration, the same for the same configuration; returns the folder."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(config)
    widen_(model)
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = 0
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def write_tiny(family: str, folder: Path) -> bool:
    """Write the tiny model of a family unless the folder is there; whether it was written. Whole or not at all.

    Raises KeyError for a family that is not in `TINY`.
    """
    if folder.is_dir():
        return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".tiny-") as place:
        made = write_model(*TINY[family](), Path(place) / family)
        if not folder.is_dir():  # another process may have been quicker
            os.replace(made, folder)
    return True
