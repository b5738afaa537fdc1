"""What a prefix language model (ChatGLM-6B v1) sees, and where: masks and two-dimensional positions.

A row is context + `<sop>` + answer. The context (all before `<sop>`, `[gMASK]` last) sees itself both ways; `<sop>`
and what follows see everything before them and themselves.
"""

from __future__ import annotations

import torch
from torch import Tensor

from model_zoo.scoring.packing import PrefixLayout
from model_zoo.sequences import additive_mask, positions_of


def prefix_seen(mask: Tensor, lengths: Tensor) -> Tensor:
    """(B, L, L) bool: which real entries each entry sees, padding on either side.

    mask (B, L) is True at real entries. lengths (B,) counts each row's prefix up to and including `<sop>`.
    """
    context = positions_of(mask) < lengths.unsqueeze(-1) - 1
    causal = torch.ones(mask.shape[1], mask.shape[1], dtype=torch.bool, device=mask.device).tril()
    return mask.unsqueeze(1) & (causal | context.unsqueeze(1))


def glm_positions(rank: Tensor, lengths: Tensor) -> Tensor:
    """Position and block position (B, 2, L) of entries at rank (B, L) in rows whose prefixes have lengths (B,).

    In the context they are (rank, 0). From `<sop>` on the position stays that of `[gMASK]`, the context's last entry,
    and the block position counts 1, 2, ...

    >>> glm_positions(torch.arange(5)[None], torch.tensor([3])).tolist()
    [[[0, 1, 1, 1, 1], [0, 0, 1, 2, 3]]]
    """
    last = lengths.unsqueeze(-1) - 2
    return torch.stack([torch.minimum(rank, last), (rank - last).clamp(min=0)], dim=1)


def glm_rows(mask: Tensor, lengths: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Additive mask (B, 1, L, L) and positions (B, 2, L) of padded rows, mask (B, L) bool, prefixes of lengths (B,)."""
    return additive_mask(prefix_seen(mask, lengths), dtype), glm_positions(positions_of(mask), lengths)


def _counts(mask: Tensor) -> Tensor:
    return mask.long().sum(-1)


PREFIX_LM = PrefixLayout(
    seen=lambda mask: prefix_seen(mask, _counts(mask)),
    start=lambda mask: glm_positions(positions_of(mask), _counts(mask)),
    after=lambda mask, depths: glm_positions(_counts(mask).unsqueeze(-1) + depths, _counts(mask)),
)
"""How candidate scoring lays out a prefix that ends in `<sop>`, and candidate tokens after it."""
