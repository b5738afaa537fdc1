"""Candidate answers in, scores out: checking and tokenising candidates, and turning sums into scores.

A candidate's score is the log-probability of its tokens (no special tokens, no end token) after the prefix, as a mean
or a sum over its tokens (docs/method.md#ranking). `packing.py` computes the sums, `score_naive` is its oracle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from model_zoo.sequences import score_dtype


def encode_candidates(candidates: Sequence, encode: Callable[[str], list[int]], batch: int) -> list[list[list[int]]]:
    """Token ids per row and candidate; rows that share a list share the same object.

    Raises ValueError for an empty list, a wrong number of per-image lists, or a candidate of zero tokens.
    """
    if isinstance(candidates, str) or len(candidates) == 0:
        raise ValueError(f"candidates is {candidates!r}. Expected a non-empty list of answers, or one list per image.")
    per_row = not isinstance(candidates[0], str)
    if per_row and len(candidates) != batch:
        raise ValueError(
            f"Got {len(candidates)} candidate lists for {batch} images. Expected one per image, or one flat list."
        )
    known: dict[tuple[str, ...], list[list[int]]] = {}
    rows = [tuple(row) for row in candidates] if per_row else [tuple(candidates)] * batch
    for row in rows:
        if row not in known:
            known[row] = [encode(text) for text in row]
            if not row:
                raise ValueError(
                    "An image has an empty candidate list. Expected at least one candidate answer per image."
                )
            for text, ids in zip(row, known[row], strict=True):
                if not ids:  # its mean log-probability would be 0/0
                    raise ValueError(
                        f"Candidate {text!r} has no tokens, so it has no likelihood. Expected non-empty answers."
                    )
    return [known[row] for row in rows]


def finish(total: Tensor, rows: Sequence[Sequence[Sequence[int]]], normalize: bool) -> Tensor:
    """Sums (B, K) to scores: mean per token if `normalize`, -inf where a row has fewer than K candidates."""
    lengths = torch.zeros(total.shape, dtype=torch.long)
    for b, row in enumerate(rows):
        lengths[b, : len(row)] = torch.tensor([len(ids) for ids in row])
    lengths = lengths.to(total.device)
    scores = total / lengths.clamp(min=1) if normalize else total
    return scores.masked_fill(lengths == 0, float("-inf"))


Logits = Callable[[int, list[int]], Tensor]


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
