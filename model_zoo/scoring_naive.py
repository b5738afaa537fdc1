"""The oracle of `scoring.py`: one candidate of one image at a time, nothing shared, the full vocabulary softmax."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from model_zoo.sequences import score_dtype

Logits = Callable[[int, list[int]], Tensor]
"""(image index b, candidate ids (n)) -> logits (n, V), row i predicting ids[i] from everything before it."""


def naive_log_likelihood(logits: Tensor, ids: Sequence[int]) -> Tensor:
    """Summed log-probability () of ids (n) under logits (n, V)."""
    logits = logits.to(score_dtype(logits.dtype))
    steps = torch.arange(len(ids), device=logits.device)
    return logits.log_softmax(-1)[steps, torch.tensor(list(ids), device=logits.device)].sum()


def score_naive(logits_of: Logits, rows: Sequence[Sequence[Sequence[int]]]) -> Tensor:
    """Summed log-likelihoods (B, K); rows[b][k] holds the ids of candidate k of image b; 0 where a row is short."""
    width = max(len(row) for row in rows)
    table = [[naive_log_likelihood(logits_of(b, list(ids)), ids) for ids in row] for b, row in enumerate(rows)]
    return torch.stack([torch.stack(line + [line[0].new_zeros(())] * (width - len(line))) for line in table])
