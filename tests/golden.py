"""Reads the recorded numbers of the reference (golden folders) and builds our model from the same files."""

from __future__ import annotations

import json
import os
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model_zoo.base import MLLM
from model_zoo.registry import load_mllm

FORCED = os.environ.get("TVP_GOLDEN")
HERE = Path(__file__).resolve().parent
PAD = 30

LOADERS = ("bliva", "blip2_t5", "instructblip", "minigpt4")
"""Golden folders whose adapter exists."""

FOLDERS = ("blip2_opt", "blip2_t5", "bliva", "instructblip", "minigpt4", "vpgtrans", "visualglm")


def golden_root() -> Path | None:
    """$TVP_GOLDEN when set (existing or not), else the compact copy, else the full set beside the repository."""
    if FORCED:
        return Path(FORCED)
    choices = (HERE / "data" / "golden", HERE.parents[1] / "shared" / "golden")
    return next((path for path in choices if path.is_dir()), None)


class Golden:
    """One golden folder: recorded arrays by name, texts, and our model of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = json.loads((folder / "config.json").read_text())
        self.record = json.loads((folder / "golden.json").read_text())
        self.text, self.scalars = self.record["text"], self.record["scalars"]
        with np.load(folder / "golden.npz") as arrays:
            self.arrays = {name: torch.from_numpy(arrays[name]) for name in arrays.files}

    @cached_property
    def model(self) -> MLLM:
        options: dict[str, Any] = {
            "vision_heads": self.config["vision"]["heads"],
            "qformer_heads": self.config["qformer"]["num_attention_heads"],
        }
        if "llm_resized_embed_row" in self.arrays:
            options["extra_rows"] = (self.arrays["llm_resized_embed_row"], self.arrays["llm_resized_lm_head_row"])
        return load_mllm(self.config["model"], weights=self.folder / "weights", official=True, **options)

    @property
    def pixels(self) -> Tensor:
        """The unprompted images (B, 3, S, S) in [0, 1]."""
        return self.arrays["images_u8"].permute(0, 3, 1, 2).float() / 255

    @property
    def frames(self) -> Tensor:
        """The recorded input frames (B, 3, F, F): zero-padded images plus the initial perturbation."""
        return F.pad(self.pixels, [PAD] * 4) + self.arrays["perturbation_init"]

    def questions(self, kind: str) -> list[str]:
        return self.text[f"text_input_{kind}"]

    @cached_property
    def seen(self) -> tuple[Tensor, Tensor, Tensor]:
        """(last block's features, those of the block before, Q-Former outputs) of all frames, mixed questions."""
        model = self.model
        with torch.no_grad():
            last, before = model.connector.see(model.prepare(self.frames))
            reads = ()
            if model.connector.reads_text:
                from model_zoo.sequences import pad_rows

                reads = pad_rows([model.qformer_ids(q) for q in self.questions("mixed")], last.device)
            return last, before, model.connector.query(last, *reads)

    @cached_property
    def mixed_loss(self) -> tuple[Tensor, Tensor, Tensor]:
        """(nats (B,), tokens (B,), gradient of the batch loss with respect to the frames) for the mixed questions."""
        frames = self.frames.requires_grad_()
        nats, tokens = self.model.answer_loss(frames, self.questions("mixed"), self.text["text_output"])
        (gradient,) = torch.autograd.grad(nats.sum() / tokens.sum(), frames)
        return nats.detach(), tokens, gradient


@cache
def load_golden(name: str) -> Golden:
    return Golden(golden_root() / name)
