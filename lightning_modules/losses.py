"""The two transfer losses of TVP (docs/method.md#losses) as functions of tensors."""

from __future__ import annotations

import torch
from torch import Tensor

# A token whose difference is below this fraction of the clean token's norm counts as unmoved and gets no gradient:
# features from a cache, another batch shape or half precision differ by rounding, and the norm's gradient is a unit
# vector however small the difference is.
FCA_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def fca_distances(prompted: Tensor, clean: Tensor, *, relative: bool = False) -> Tensor:
    """Feature Consistency Alignment per sample: mean over tokens of ||f(prompted) - f(clean)||_2, not squared.

    Args:
        prompted: (B, T, D) visual tokens of the prompted frames, with graph.
        clean: (B, T, D) visual tokens of the clean frames; detached here. Its dtype sets the rounding tolerance.
        relative: divide by the mean norm of the sample's clean tokens, so that one weight suits connectors of
            different token norms (ours; the paper's loss is absolute).

    Returns:
        (B,) float32. Exactly 0 with an exactly zero gradient where nothing moved.
    """
    if prompted.shape != clean.shape:
        raise ValueError(
            f"FCA compares the same tokens: got prompted {tuple(prompted.shape)} and clean {tuple(clean.shape)}. "
            "Encode both with the same model, questions and frame."
        )
    tolerance = max(FCA_TOLERANCE[clean.dtype], FCA_TOLERANCE[prompted.dtype])
    wide = torch.promote_types(prompted.dtype, torch.float32)
    clean = clean.detach().to(wide)
    squared = (prompted.to(wide) - clean).square().sum(-1)  # (B, T)
    clean_norm = clean.norm(dim=-1)  # (B, T)
    moved = squared > (tolerance * clean_norm).square()
    distance = torch.where(moved, squared, torch.ones_like(squared)).sqrt() * moved  # sqrt never sees 0
    per_sample = distance.mean(-1)
    return per_sample / clean_norm.mean(-1).clamp_min(1e-12) if relative else per_sample


def fca_loss(prompted: Tensor, clean: Tensor, *, relative: bool = False) -> Tensor:
    """Mean over batch and tokens of the feature distance; see `fca_distances`."""
    return fca_distances(prompted, clean, relative=relative).mean()


def tse_losses(similarities: Tensor) -> Tensor:
    """Task Semantics Enrichment per sample: minus the scaled cosine between prompted frame and caption, (B,) -> (B,).

    `similarities` already carry CLIP's exp(logit_scale) (about 100), so weight 0.001 is 0.1 on the cosine.
    """
    return -similarities
