"""Tiny complete Hugging Face folders of today's VLMs: config, weights, tokenizer, processor and chat template.

Each is written with `save_pretrained` and read like a downloaded one. Weights are widened (at the library's std of 0.02
all scores agree within 1e-4 and every planted fault passes), scalar gates opened, sliding windows shorter than the
prefix.
"""

from __future__ import annotations

from pathlib import Path

import torch
import transformers as tf
from torch import nn

from support.hf_first import FIRST
from support.hf_more import MORE
from support.hf_parts import Family

FAMILIES: dict[str, Family] = FIRST | MORE


def widen_(model: nn.Module, seed: int = 0) -> None:
    """Redraw every matrix with std 1.2 / sqrt(fan-in), embeddings with 0.6; open gates that start at zero."""
    generator = torch.Generator().manual_seed(seed)
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.numel() == 1:
                weight.fill_(0.7)
            elif weight.ndim > 1:
                std = 0.6 if id(weight) in tables or "embed" in name else 1.2 / weight[0].numel() ** 0.5
                weight.copy_(torch.randn(weight.shape, generator=generator) * std)


def write_folder(name: str, folder: Path, layout: str = "new") -> Path:
    """Write the tiny model of a family; returns the folder. `layout="2024"` writes the file names of that year."""
    config, processor = FAMILIES[name].build()
    torch.manual_seed(0)
    model = tf.AutoModelForImageTextToText.from_config(config)
    widen_(model)
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = 0
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
