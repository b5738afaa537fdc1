"""Scoring MLLMs on inputs: one pass over the data per model, several inputs per batch, every sample exactly once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from lightning_modules.answer_scoring import ToFrames, written_scores
from lightning_modules.backoff import RowLimit, in_pieces, pick_rows
from lightning_modules.features import FeatureDrift
from lightning_modules.metrics import Scores, merge_scores
from lightning_modules.ranks import is_distributed
from lightning_modules.vocabulary import ROLES
from model_zoo import registry
from model_zoo.pool import sharing
from model_zoo.served.ways import WRITTEN

EMPTY = Scores([], np.zeros(0, np.int64), np.zeros((0, 0), np.float32), [])


@dataclass(frozen=True)
class ModelSpec:
    """Names an MLLM and how to load it anywhere (another process, another rank). role: source, select or heldout.

    quant, checkpointing, compile: see `load_mllm`.
    """

    name: str
    role: str
    weights: str = "weights"
    dtype: str = "float32"
    official: bool = False
    options: dict = field(default_factory=dict)
    quant: str | None = None
    checkpointing: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        if self.role not in ROLES:  # it would be left out of every mean, and nobody would see it
            raise ValueError(f"Unknown role '{self.role}' of '{self.name}'. Available: {', '.join(ROLES)}.")
        if self.role == "source":
            registry.refuse_served_source(self.name)

    @property
    def precision(self) -> str:
        """Name the dtype as result rows and caches do: `bfloat16`, `bfloat16+8bit` with a quantised LLM, `served`."""
        if registry.is_served(self.name):
            return "served"
        return f"{self.dtype}+{self.quant}" if self.quant else self.dtype

    def load(self, device: torch.device | str) -> Any:
        """The model on a device, its weights shared with every other one loaded so (`model_zoo.pool`)."""
        kinds: dict[str, Any] = {"dtype": self.dtype, "quant": self.quant, "checkpointing": self.checkpointing}
        kinds |= {"compile": True} if self.compile else {}
        # A layer that is to be quantised is quantised on its way to the GPU. Validation is in inference mode, whose
        # tensors no other model could train through.
        with sharing("cpu" if self.quant else device) as pool, torch.inference_mode(False):
            model = registry.load_mllm(self.name, weights=self.weights, official=self.official, **kinds, **self.options)
            return pool.place_(model, device)

    def fingerprint(self) -> str:
        return registry.model_fingerprint(self.name, self.weights)


@torch.inference_mode()
def score_batches(
    mllm: Any,
    batches: Iterable,
    inputs: Mapping[str, ToFrames],
    candidates: Sequence[str] | None,
    limit: RowLimit | None = None,
    task: str = "",
    rule: str = "parse",
) -> dict[str, Scores]:
    """Scores of one model on every input of each batch; a `FeatureDrift` among them is measured on its rows.

    Args:
        mllm: the model, on its device.
        batches: `Batch`es of one image size.
        inputs: name -> function from images (B,3,S,S) to frames.
        candidates: the answers shared by all rows, where a batch carries none of its own.
        limit: how many rows the model takes at a time; lowered here when memory runs out.
        task, rule: by which written answers are read, of a served model that shows no likelihoods.
    """
    parts: dict[str, list[Scores]] = {name: [] for name in inputs}
    limit = limit or RowLimit()
    for batch in batches:
        for name, to_frames in inputs.items():
            if isinstance(to_frames, FeatureDrift):
                if rows := [i for i, key in enumerate(batch.ids) if key in to_frames.ids]:
                    parts[name] += in_pieces(pick_rows(batch, rows), partial(to_frames.measure, mllm), limit, mllm)
                continue
            score = partial(_score_piece, mllm, to_frames, candidates, task, rule)
            parts[name] += in_pieces(batch, score, limit, mllm)
    return {name: merge_scores(pieces or [EMPTY]) for name, pieces in parts.items()}


def _score_piece(
    mllm: Any, to_frames: ToFrames, candidates: Sequence[str] | None, task: str, rule: str, batch: Any
) -> Scores:
    frames, way = to_frames(batch.images.to(mllm.device)), getattr(mllm, "way", "")
    if way == WRITTEN and task:
        return written_scores(mllm, frames, candidates or (), batch, task, rule)
    scores = mllm.score(frames, batch.questions, batch.candidates or candidates)
    found = Scores(list(batch.ids), batch.labels.numpy(), scores.float().cpu().numpy(), list(batch.groups))
    return found.answered() if way else found


def score_inputs(
    mllm: Any,
    datamodule: Any,
    inputs: Mapping[str, tuple[int, ToFrames]],
    *,
    split: str,
    n: int | None,
    shard: tuple[int, int] = (0, 1),
    limit: RowLimit | None = None,
) -> dict[str, Scores]:
    """Score one model on inputs of any image size over this rank's share of a fixed sub-sample.

    Args:
        inputs: name -> (image size it reads, function to frames).
        shard: (rank, world): each rank reads its own samples, together every sample once.
        limit: see `score_batches`.
    """
    result: dict[str, Scores] = {}
    for size in sorted({size for size, _ in inputs.values()}):
        of_size = {name: to_frames for name, (s, to_frames) in inputs.items() if s == size}
        loader = datamodule.with_image_size(size).loader(split, n=n, shard=shard, by_length=True)
        bar = tqdm(
            loader, desc=f"{mllm.name} {split} {'+'.join(map(str, of_size))[:24]}", delay=2, leave=False, disable=None
        )
        how = {"task": datamodule.task, "rule": datamodule.answer_rule} if getattr(mllm, "way", "") else {}
        result |= score_batches(mllm, bar, of_size, datamodule.candidates, limit, **how)
    return result


def score_in_process(
    spec: ModelSpec,
    datamodule: Any,
    inputs: Mapping[str, tuple[int, ToFrames]],
    *,
    limit: RowLimit,
    gpu: str | None = None,
    **where: Any,
) -> dict:
    """`score_inputs` in a process of its own, which is the only sure way to give a GPU's memory back.

    gpu: what CUDA_VISIBLE_DEVICES is there; None: as here. `limit` learns what the process found out.
    """
    context = get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context, initializer=_see_only, initargs=(gpu,)) as pool:
        scores, limit.rows = pool.submit(_load_and_score, spec, datamodule, dict(inputs), limit, where).result()
    return scores


def _see_only(gpu: str | None) -> None:
    """Choose the GPU of a fresh process, before CUDA starts there."""
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu


def _load_and_score(
    spec: ModelSpec, datamodule: Any, inputs: dict, limit: RowLimit, where: dict
) -> tuple[dict[str, Scores], int | None]:
    device = where.pop("device")
    torch.set_num_threads(where.pop("threads"))
    moved = {
        name: (size, to_frames.to(device) if isinstance(to_frames, torch.nn.Module) else to_frames)
        for name, (size, to_frames) in inputs.items()
    }
    return score_inputs(spec.load(device), datamodule, moved, limit=limit, **where), limit.rows


def gather_scores(local: dict[str, Scores]) -> dict[str, Scores]:
    """Join every rank's share (each sample once); the identity, re-ordered by id, on one rank."""
    parts: list[Any] = [local]
    if is_distributed():
        parts = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(parts, local)
    return {name: merge_scores([part[name] for part in parts]) for name in local}
