"""Reads the recorded numbers of the reference (golden folders) and builds our model from the same files."""

from __future__ import annotations

import json
import os
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.batch import Batch
from lightning_modules.prompts import PadPrompt
from lightning_modules.tvp import TVPModule
from model_zoo.base import MLLM
from model_zoo.clip import ClipScorer
from model_zoo.registry import load_clip, load_mllm
from model_zoo.sequences import pad_rows

FORCED = os.environ.get("TVP_GOLDEN")
HERE = Path(__file__).resolve().parents[1]
PAD = 30

FOLDERS = ("blip2_opt", "blip2_t5", "bliva", "instructblip", "minigpt4", "vpgtrans", "visualglm")


def golden_root() -> Path:
    """$TVP_GOLDEN when set (existing or not), else the compact copy that travels with the tests."""
    return Path(FORCED) if FORCED else HERE / "data" / "golden"


PER_IMAGE = ("per_sample", "image_grad")


class Step(L.Callback):
    """Reads off one recorded update as `TVPModule.training_step` makes it: its losses, its gradient, its prompt."""

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
        values = trainer.callback_metrics
        self.loss, self.main_loss = values["train/loss"], values["train/task"]
        self.emb_loss, self.clip_loss = values["train/fca"], -values["train/tse"]
        self.perturbation = module.prompt.delta.detach().clone()
        # A broadcast delta receives the SUM of per-image gradients of a mean; the record holds their mean.
        self.grad_mean = module.prompt.delta.grad / trainer.train_dataloader.dataset[0].images.shape[0]
        self.g_norm = self.grad_mean.norm()


class Golden:
    """One golden folder: recorded arrays by name, texts, and our model of it. Sizes come from the folder's own JSON."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = json.loads((folder / "config.json").read_text())
        self.record = json.loads((folder / "golden.json").read_text())
        self.text, self.scalars = self.record["text"], self.record["scalars"]
        with np.load(folder / "golden.npz") as arrays:
            self.arrays = {name: torch.from_numpy(arrays[name]) for name in arrays.files}

    @cached_property
    def model(self) -> MLLM:
        options: dict[str, Any] = {}
        if "llm_resized_embed_row" in self.arrays:
            options["extra_rows"] = (self.arrays["llm_resized_embed_row"], self.arrays["llm_resized_lm_head_row"])
        return load_mllm(self.config["model"], weights=self.folder / "weights", official=True, **options)

    @cached_property
    def clip(self) -> ClipScorer:
        return load_clip(self.folder.parent / "_clip" / "clip_tiny.pt")

    @property
    def has_clip(self) -> bool:
        return (self.folder.parent / "_clip").is_dir()

    @property
    def is_t5(self) -> bool:
        return self.config["model"].startswith("blip2_t5")

    @property
    def is_visualglm(self) -> bool:
        return self.config["model"] == "visualglm"

    @property
    def pixels(self) -> Tensor:
        """The unprompted images (B, 3, S, S) in [0, 1]."""
        return self.arrays["images_u8"].permute(0, 3, 1, 2).float() / 255

    @property
    def frames(self) -> Tensor:
        """The recorded input frames (B, 3, F, F): zero-padded images plus the initial perturbation."""
        return F.pad(self.pixels, [PAD] * 4) + self.arrays["perturbation_init"]

    def questions(self, kind: str) -> list[str]:
        """One raw question per image, all alike (`std`) or of different length (`mixed`)."""
        return self.text[f"text_input_{kind}"]

    @property
    def n_loss(self) -> int:
        """How many images the recorded losses are over."""
        return next(len(self.arrays[key]) for key in (f"loss_mixed_{k}" for k in PER_IMAGE) if key in self.arrays)

    @cached_property
    def seen(self) -> tuple[Tensor, Tensor, Tensor]:
        """(last block's features, those of the block before, Q-Former outputs) of all frames, mixed questions."""
        model = self.model
        with torch.no_grad():
            last, before = model.connector.see(model.prepare(self.frames))
            reads = ()
            if model.connector.reads_text:
                reads = pad_rows([model.qformer_ids(q) for q in self.questions("mixed")], last.device)
            return last, before, model.connector.query(last, *reads)

    @cache  # noqa: B019 - lives as long as the tests
    def loss(self, kind: str) -> tuple[Tensor, Tensor, Tensor]:
        """(nats (B,), tokens (B,), gradient of the batch loss w.r.t. the NORMALISED frames) over `n_loss` images."""
        n, std = self.n_loss, torch.tensor(self.model.std).view(1, 3, 1, 1)
        frames = self.frames[:n].requires_grad_()
        nats, tokens = self.model.answer_loss(frames, self.questions(kind)[:n], self.text["text_output"][:n])
        (gradient,) = torch.autograd.grad(nats.sum() / tokens.sum(), frames)
        return nats.detach(), tokens, gradient * std

    @cache  # noqa: B019
    def llm_rows(self, ranking: bool) -> list[Tensor]:
        """What our adapter feeds the LLM for each image, unpadded (L_b, D), mixed questions."""
        model, questions = self.model, self.questions("mixed")
        with torch.no_grad():
            visual = model.encode_image(self.frames, questions)
            tokens = model.llm_tokens(visual, ranking=ranking)
            if self.is_t5:
                rows = [model.prefix_ids(question, tokens.shape[1], ranking=ranking) for question in questions]
            else:
                rows = self.llm_ids(tokens.shape[1], ranking)
            embeds, mask = model.place(rows, tokens)
        return [row[seen] for row, seen in zip(embeds, mask, strict=True)]

    def llm_ids(self, n_visual: int, ranking: bool) -> list[list[int]]:
        """Ids of what a decoder-only LLM receives, mixed questions."""
        model, questions = self.model, self.questions("mixed")
        if ranking:
            questions = [questions[0]] * len(questions) if self.is_visualglm else questions  # as the reference ranks
            return [model.prefix_ids(question, n_visual, ranking=True) for question in questions]
        pairs = zip(questions, self.text["text_output"], strict=True)
        return [[*prefix, *target] for prefix, target in (model.loss_ids(q, a, n_visual) for q, a in pairs)]

    @cache  # noqa: B019
    def scores(self, kind: str, normalize: bool) -> Tensor:
        with torch.no_grad():
            return self.model.score(self.frames, self.questions(kind), self.text["class_names"], normalize=normalize)

    @cached_property
    def evaluation(self) -> Tensor:
        """Scores (B, K) with the recorded prompt, in the recorded batches of two and one."""
        key = self.text.get("eval_perturbation", "train_plain_step0_perturbation")
        frames, questions = F.pad(self.pixels, [PAD] * 4) + self.arrays[key], self.questions("std")
        with torch.no_grad():
            parts = [
                self.model.score(frames[a:b], questions[a:b], self.text["class_names"]) for a, b in ((0, 2), (2, None))
            ]
        return torch.cat(parts)

    @cache  # noqa: B019
    def training(self, tag: str) -> list[Step]:
        """The updates of our LightningModule from the recorded start (zero for `readme`)."""
        recipe, prompt = self.scalars[f"train_{tag}_cfg"], self.start(tag)
        steps = []
        for rows in recipe["image_index_and_label"]:
            weights = {name: recipe[name] for name in ("fca", "tse", "lr")}
            module = TVPModule(prompt, lambda: [self.model], lambda: self.clip, **weights)
            step = Step()
            trainer = L.Trainer(
                max_epochs=1, accelerator="cpu", callbacks=[step], logger=False, enable_checkpointing=False,
                enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
            )  # fmt: skip
            trainer.fit(module, DataLoader([self.batch(rows)], batch_size=None))
            steps.append(step)
        return steps

    def batch(self, rows: list[int]) -> Batch:
        """The images in `rows`, each of the class whose number is its own."""
        names = [self.text["class_names"][row] for row in rows]
        captions = [f"this is a photo of a {name}" for name in names]
        questions = [self.questions("std")[row] for row in rows]
        return Batch(
            self.pixels[rows], torch.tensor(rows), questions, names, captions, [str(r) for r in rows], [""] * len(rows)
        )

    def start(self, tag: str) -> PadPrompt:
        prompt = PadPrompt(frame=self.arrays["perturbation_init"].shape[-1], pad=PAD, bounds="unbounded")
        if tag != "readme":
            prompt.delta.data.copy_(self.arrays["perturbation_init"])
        return prompt


@cache
def load_golden(name: str) -> Golden:
    return Golden(golden_root() / name)
