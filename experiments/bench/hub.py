"""Packed scoring of tiny models of the hub beside their own forward, one candidate of one picture at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.bench.measure import measure
from experiments.bench.models import QUESTION, bench_names
from experiments.bench.tasks import Task

HUB = ("qwen3_vl", "llava_onevision", "internvl", "smolvlm", "paligemma")
"""One of each kind of position, tile and attention."""
SIDE, CANDIDATES = 64, 100


def hub_rows(*, batch: int = 0, repeats: int = 5) -> Iterator[dict[str, Any]]:
    """A row (`measure.FIELDS`) a family: `batch` frames (0: four), 100 names of CIFAR-100."""
    for family in HUB:
        model = tiny_hub_model(family)
        yield from measure(model, [hub_task(model, batch or 4)], repeats)


def tiny_hub_model(family: str) -> Any:
    """The adapter of a tiny random model, named `hub_FAMILY`, from a folder that is gone again; one tile a picture."""
    from model_zoo.hf.load import load_folder
    from model_zoo.hf.tiny.write import write_tiny

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / family
        write_tiny(family, folder)
        return load_folder(f"hub_{family}", folder)


def hub_task(model: Any, batch: int, candidates: int = CANDIDATES) -> Task:
    """Ranking of random frames. The floor is one candidate of one token: one encode and one forward of the prefix."""
    frames = torch.rand(batch, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    questions, names = [QUESTION] * batch, bench_names(candidates)

    @torch.inference_mode()
    def ours() -> Tensor:
        return model.score(frames, questions, names)

    def naive() -> Tensor:
        return own_scores(model, frames, questions, names)

    @torch.inference_mode()
    def floor() -> Tensor:
        return model.score(frames, questions, ["a"])

    def difference(a: Tensor, b: Tensor) -> float:
        return (a - b).abs().max().item()

    return Task("rank", candidates, batch, ours, naive, floor, difference)


@torch.inference_mode()
def own_scores(model: Any, frames: Tensor, questions: Sequence[str], candidates: Sequence[str]) -> Tensor:
    """Mean log-likelihoods (B, K) by the model's own forward, from pixels to the logits of every position."""
    table = []
    for frame, question in zip(frames, questions, strict=True):
        pixels = model.doors.takes(model.pixels(frame[None]))
        prompt, scores = model.prompter.row(question, frame.shape[-1]), []
        for text in candidates:
            ids = model.prompter.answer(text)
            row = prompt.then(ids, model.answer_type)
            texts = {"input_ids": row.ids, "attention_mask": [1] * len(row.ids), **row.types}
            logits = model.model(**{key: torch.tensor([value]) for key, value in texts.items()}, **pixels).logits
            logp = logits[0, -len(ids) - 1 : -1].log_softmax(-1)
            scores.append(logp[range(len(ids)), ids].mean())
        table.append(torch.stack(scores))
    return torch.stack(table)
