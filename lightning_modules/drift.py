"""How far a prompt moves the visual features of any model, the source or a target: FCA as a read-out (METHOD.md 2)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lightning_modules.clean_features import encode_clean
from lightning_modules.intervals import mean_interval
from lightning_modules.losses import fca_distances
from lightning_modules.metrics import Estimate, Scores
from lightning_modules.prompts import Prompt

DRIFT_ROWS = 64  # a read-out needs no more, and each costs two passes through the vision tower
METRICS = ("drift", "drift_relative")


class FeatureDrift(nn.Module):
    """The distance between a model's visual tokens with the prompt and without it, sample by sample.

    It stands among the inputs of `score_inputs` as one that is not answered but measured: its record has the ids of
    at most `DRIFT_ROWS` samples and two columns instead of candidates, the mean L2 distance a token, and the same over
    the mean norm of the clean tokens (comparable between connectors).
    """

    def __init__(self, prompt: Prompt) -> None:
        super().__init__()
        self.prompt = prompt

    @property
    def image_size(self) -> int:
        return self.prompt.image_size

    def measure(self, mllm: Any, batch: Any) -> Scores:
        images = batch.images.to(mllm.device)
        moved = encode_clean(mllm, self.prompt(images), batch.questions)  # (B, T, D)
        clean = encode_clean(mllm, self.prompt.blank(images), batch.questions)
        table = torch.stack([fca_distances(moved, clean, relative=kind) for kind in (False, True)], 1)  # (B, 2)
        return Scores(list(batch.ids), batch.labels.numpy(), table.float().cpu().numpy(), list(batch.groups))


def drift_metrics(record: Scores) -> dict[str, Estimate]:
    """`drift` and `drift_relative`: means over samples with bootstrap intervals."""
    columns = record.scores.astype(float).T
    n = len(record.ids)
    return {
        metric: Estimate(float(values.mean()), *mean_interval(values), "bootstrap", n)
        for metric, values in zip(METRICS, columns, strict=True)
    }
