"""What is computed from features and scores: relative distance, CKA, the shift of all answers that a prompt buys."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor

from experiments.run.headroom import correlation
from experiments.run.offsets import Offsets, with_offsets
from lightning_modules.metrics import Scores, point


def relative_distance(moved: Tensor, clean: Tensor) -> Tensor:
    """(B,) |moved - clean| / |clean| of each picture's features (B, ...), all values of a picture as one vector."""
    moved, clean = moved.float().flatten(1), clean.float().flatten(1)
    return (moved - clean).norm(dim=1) / clean.norm(dim=1).clamp_min(1e-12)


def linear_cka(one: np.ndarray, other: np.ndarray) -> float:
    """Linear CKA of two models' features of the same N pictures, (N, D) and (N, E): 1 for the same up to rotation and
    scale, about 0 where they have nothing to do with each other.

    Kornblith et al. 2019 (arXiv 1905.00414), with the unbiased estimate of HSIC (Song et al. 2012, JMLR 13): the plain
    one is near 1 for ANY features where D is larger than N, as it is here.

    Raises: ValueError for fewer than 4 pictures, or features that are the same for all.
    """
    if len(one) < 4 or len(one) != len(other):
        raise ValueError(f"Got features of {len(one)} and {len(other)} pictures. CKA needs the same ones, at least 4.")
    grams = [_gram(features) for features in (one, other)]
    own = [_hsic(gram, gram) for gram in grams]
    if min(own) <= 0:
        raise ValueError("CKA needs features that differ from picture to picture; one model's do not.")
    return float(_hsic(*grams) / np.sqrt(own[0] * own[1]))


def _gram(features: np.ndarray) -> np.ndarray:
    """(N, N) products of centred features, the diagonal zero."""
    features = features.astype(np.float64)
    features = features - features.mean(0)
    gram = features @ features.T
    np.fill_diagonal(gram, 0)
    return gram / max(np.abs(gram).max(), 1e-300)


def _hsic(k: np.ndarray, other: np.ndarray) -> float:
    """Song et al. 2012, equation 5, times n (n - 3); both without their diagonal."""
    n = len(k)
    cross = k.sum() * other.sum() / ((n - 1) * (n - 2)) - 2 * (k.sum(0) @ other.sum(0)) / (n - 2)
    return float((k * other).sum() + cross)


class Bought(NamedTuple):
    """What a prompt does to all pictures alike. All on the same rows, gains as fractions over the clean full image.

    correlation: of the offsets bought with those there to buy, over candidates; None for fewer than four.
    prompted: gain of the prompted scores. shifted: gain of the CLEAN scores plus the offsets bought. rest: gain of the
    prompted scores minus these offsets, what the prompt does picture by picture.
    """

    correlation: float | None
    prompted: float
    shifted: float
    rest: float


def bought_offsets(prompted: Scores, clean: Scores) -> Offsets:
    """The mean change of each candidate's score, with mean 0 over candidates; no label is read."""
    values = (prompted.scores.astype(np.float64) - clean.scores).mean(0)
    return Offsets(values - values.mean(), len(clean.ids))


def what_it_buys(metric: str, prompted: Scores, clean: Scores, to_buy: Offsets) -> Bought:
    """to_buy: fitted on this model's labels, on the clean full image. Records have the same ids in the same order."""
    offsets = bought_offsets(prompted, clean)
    alike = correlation(offsets.values, to_buy.values)
    base = point(metric, clean)
    rest = with_offsets(prompted, Offsets(-offsets.values, offsets.n))
    gains = (point(metric, record) - base for record in (prompted, with_offsets(clean, offsets), rest))
    return Bought(None if alike is None else alike.value, *gains)
