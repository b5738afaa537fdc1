"""A linear probe of what the connector hands to the language model: is the answer in the visual tokens at all?

Mean and maximum over the tokens, standardised, go into a multinomial logistic regression: convex, started at zero,
float64, so that the same rows give the same probe. It is fitted on train rows; the strength of its ridge is the best of
five on validation rows; it is scored on test rows.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_modules.backoff import RowLimit, in_pieces
from lightning_modules.controls import Control
from lightning_modules.metrics import Scores, merge_scores

PROBE = 1  # raised when the same rows could give another probe: stored ones bear it
RIDGES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)  # of the mean loss; an equally good one later in the row does not count


class Pooled(NamedTuple):
    """ids: N rows. features: (N, 2 D) float64. labels: (N,) int64. groups: N sub-test names."""

    ids: list[str]
    features: Tensor
    labels: Tensor
    groups: list[str]


@torch.no_grad()
def pool_tokens(mllm: Any, datamodule: Any, control: Control, split: str, n: int | None, limit: RowLimit) -> Pooled:
    """Mean and maximum over the visual tokens of every row, in the control's frame.

    Raises:
        NotImplementedError: the model has no visual tokens to show (it is served elsewhere).
    """
    if not hasattr(mllm, "encode_image"):
        raise NotImplementedError(f"'{mllm.name}' has no visual tokens.")
    parts: list[Pooled] = []
    for batch in datamodule.with_image_size(control.image_size).loader(split, n=n):
        parts += in_pieces(batch, partial(_pool, mllm, control), limit, mllm)
    ids, groups = [row for part in parts for row in part.ids], [name for part in parts for name in part.groups]
    features, labels = (torch.cat(column) for column in zip(*((p.features, p.labels) for p in parts), strict=True))
    return Pooled(ids, features, labels, groups)


def _pool(mllm: Any, control: Control, batch: Any) -> Pooled:
    tokens = mllm.encode_image(control(batch.images.to(mllm.device)), batch.questions).tokens.float()
    features = torch.cat([tokens.mean(1), tokens.amax(1)], 1).double().cpu()
    return Pooled(list(batch.ids), features, batch.labels, list(batch.groups))


def probe_scores(fit: Pooled, choose: Pooled, test: Pooled, classes: int) -> Scores:
    """The probe's record on `test`, in the order of its ids: logits (N, classes) of a probe that never saw these rows.

    Raises:
        ValueError: a row of `test` is among those it was fitted or chosen on.
    """
    seen = {*fit.ids, *choose.ids} & set(test.ids)
    if seen:
        raise ValueError(
            f"{len(seen)} test rows are among those the probe is fitted on, e.g. '{min(seen)}'. Expected rows of their "
            "own: official=true draws validation out of test."
        )
    mean, spread = fit.features.mean(0), fit.features.std(0, correction=0)
    spread = torch.where(spread > 1e-6 * spread.max(), spread, torch.inf)  # what never changes says nothing
    parts = [
        torch.cat([(p.features - mean) / spread / len(mean) ** 0.5, torch.ones(len(p.ids), 1, dtype=torch.float64)], 1)
        for p in (fit, choose, test)
    ]
    weights = torch.zeros(parts[0].shape[1], classes, dtype=torch.float64)
    best: tuple[float, Tensor] | None = None
    for ridge in RIDGES:
        weights = _fit(parts[0], fit.labels, weights, ridge)
        right = float(((parts[1] @ weights).argmax(1) == choose.labels).double().mean())
        if best is None or right > best[0]:
            best = right, weights
    assert best is not None
    logits = (parts[2] @ best[1]).float().numpy()
    return merge_scores([Scores(test.ids, test.labels.numpy().astype(np.int64), logits, test.groups)])


def _fit(x: Tensor, labels: Tensor, start: Tensor, ridge: float) -> Tensor:
    """(D, K) the minimum of mean cross-entropy + ridge / 2 * |weights|^2; the last row, the bias, is free of it."""
    weights = start.clone().requires_grad_(True)
    steps = torch.optim.LBFGS([weights], max_iter=200, tolerance_grad=1e-6, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        with torch.enable_grad():
            steps.zero_grad()
            loss = torch.nn.functional.cross_entropy(x @ weights, labels) + ridge / 2 * weights[:-1].square().sum()
            loss.backward()
        return loss

    steps.step(closure)
    return weights.detach()
