"""From texts to padded id rows: tokenising without special tokens, padding, and placing visual tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Rows = Sequence[list[int]]
"""Token ids, a row per image."""

IMAGE = -1
"""Placeholder id: one entry per visual token in a row of ids."""


class TextEncoder:
    """Token ids of plain text, without special tokens, remembered per text (templates and candidates repeat)."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._known: dict[str, tuple[int, ...]] = {"": ()}

    def __call__(self, text: str) -> list[int]:
        if text not in self._known:
            if len(self._known) > 100_000:
                self._known = {"": ()}
            self._known[text] = tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return list(self._known[text])


def special_id(tokenizer: Any, kind: str) -> int:
    """The tokenizer's `bos`, `eos` or `pad` id.

    Raises ValueError when the tokenizer has none: a silent default would build a different sequence.
    """
    value = getattr(tokenizer, f"{kind}_token_id", None)
    if value is None:
        raise ValueError(
            f"The tokenizer has no {kind} token. Set tokenizer.{kind}_token, or pass {kind}_id explicitly."
        )
    return int(value)


def pad_rows(rows: Sequence[Sequence[int]], device: torch.device, *, left: bool = False) -> tuple[Tensor, Tensor]:
    """Stack rows of different length: (ids (B, L) int64 padded with 0, mask (B, L) bool, True at real entries)."""
    length = max(1, max(len(row) for row in rows))
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    mask = torch.zeros(len(rows), length, dtype=torch.bool)
    for i, row in enumerate(rows):
        span = slice(length - len(row), length) if left else slice(0, len(row))
        ids[i, span] = torch.tensor(list(row), dtype=torch.long)
        mask[i, span] = True
    return ids.to(device), mask.to(device)


def embed_rows(embedding: torch.nn.Module, ids: Tensor, visual: Tensor | None) -> Tensor:
    """Embeddings (B, L, D) of ids (B, L), visual tokens (B, T, D) taking the IMAGE entries in order; differentiable."""
    embeds = embedding(ids.clamp(min=0))
    if visual is None:
        return embeds
    return embeds.masked_scatter((ids == IMAGE).unsqueeze(-1), visual.to(embeds.dtype))


def positions_of(mask: Tensor) -> Tensor:
    """Position ids (B, L) that count real entries only, so that the side of the padding does not matter."""
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


def additive_mask(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive attention mask (B, 1, L, M) from seen (B, L, M) bool.

    The most negative number, not -inf: a padded row that sees nothing then stays finite.
    """
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)[:, None]


def score_dtype(dtype: torch.dtype) -> torch.dtype:
    """Softmax runs in float32 whatever the weights are; float64 stays."""
    return torch.promote_types(dtype, torch.float32)


def log_softmax_pick(logits: Tensor, tokens: Tensor) -> Tensor:
    """log softmax(logits (N, V))[n, tokens[n]], (N,), in `score_dtype`."""
    logits = logits.to(score_dtype(logits.dtype))
    return logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)


def require_texts(what: str, texts: Sequence[str], batch: int) -> None:
    """Raise ValueError unless there is one text per image."""
    if isinstance(texts, str):
        raise ValueError(f"{what} is one string. Expected a list of {batch} strings, one per image.")
    if len(texts) != batch:
        raise ValueError(f"Got {len(texts)} {what} for {batch} images. Expected one per image.")
