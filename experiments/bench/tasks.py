"""What is timed: ranking passes and training steps, ours beside the naive protocol and the floor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from experiments.bench.floor import FloorStep, rank_floor
from experiments.bench.models import Inputs, Size
from experiments.bench.naive import NaiveStep, naive_scores
from experiments.bench.timing import Side
from lightning_modules.feature_cache import FeatureCache

PATHS: dict[str, tuple[Any, ...]] = {
    "rank": (2, 10, 45, 100),
    "train_plain": (None,),
    "train_fca_tse": (None,),
    "train_fca_tse_cached": (None,),
}
"""Path -> numbers of candidates."""
FCA, TSE, LR = 0.005, 0.001, 1e-3
VISUALGLM_MOST = 10  # candidates of its naive side: 100 would take minutes


class Task(NamedTuple):
    """One row to be. naive is None where it is not timed. difference: (ours' result, naive's) -> how far apart."""

    path: str
    candidates: int | None
    batch: int
    ours: Side
    naive: Side | None
    floor: Side
    difference: Callable[[Any, Any], float]


def rank_task(
    model: Any, frames: Tensor, questions: Sequence[str], names: Sequence[str], floor: Side | None = None
) -> Task:
    """Ranking of frames (B, 3, S, S), which every pass encodes anew; VisualGLM's naive side ends at 10 candidates."""

    def ours() -> Tensor:
        with torch.inference_mode():
            return model.score(frames, questions, names)

    def naive() -> Tensor:
        return naive_scores(model, frames, names)

    def difference(a: Tensor, b: Tensor) -> float:
        return (a - b).abs().max().item()

    timed = model.name != "visualglm" or len(names) <= VISUALGLM_MOST
    floor = rank_floor(model, frames) if floor is None else floor
    return Task("rank", len(names), len(frames), ours, naive if timed else None, floor, difference)


def train_task(
    model: Any,
    clip: Any,
    size: Size,
    batch: Inputs,
    delta: Tensor,
    path: str,
    folder: Path,
    naive: Side | None = None,
) -> Task:
    """One training step of `path`. naive: a step to share with another task. folder: of the cached clean features."""
    fca, tse = (0.0, 0.0) if path == "train_plain" else (FCA, TSE)
    cached = path.endswith("cached")
    ours = OurStep(model, clip, size, delta, batch, fca=fca, tse=tse, folder=folder if cached else None)
    if naive is None:
        naive = NaiveStep(model, clip, size, delta, batch, fca=fca, tse=tse, lr=LR)
    floor = FloorStep(model, clip, size, delta, batch, fca=fca, tse=tse, cached=cached)
    return Task(path, None, len(batch.images), ours, naive, floor, step_difference)


def start_delta(size: Size) -> Tensor:
    """The prompt (3, frame, frame) to begin with: noise on the border, so that FCA and its gradient are not zero."""
    delta = 0.2 * torch.randn(3, size.frame, size.frame, generator=torch.Generator().manual_seed(2))
    inside = slice(size.pad, size.frame - size.pad)
    delta[:, inside, inside] = 0
    return delta


def step_difference(ours: tuple[Tensor, Tensor], naive: tuple[Tensor, Tensor]) -> float:
    """How far (loss (), gradient (3, frame, frame)) are apart: the larger of both relative differences.

    Ours is the gradient in the prompt, the sum over the batch; the reference's is the mean. The update is blind to
    that factor, so both are compared at unit length.
    """
    (loss, gradient), (other, mean) = ours, naive
    gradient, mean = gradient / gradient.norm(), mean / mean.norm()
    error = (gradient - mean).abs().max() / mean.abs().max()
    return max(error.item(), (abs(loss - other) / abs(other)).item())


class OurStep:
    """One update as `TVPModule` makes it: its losses, its optimizer.

    Arguments as `NaiveStep`; folder: where clean features are cached, None for encoding them in every step.
    """

    def __init__(
        self, model: Any, clip: Any, size: Size, delta: Tensor, batch: Inputs, *, fca: float, tse: float,
        folder: Path | None,
    ) -> None:  # fmt: skip
        from lightning_modules.prompts import PadPrompt
        from lightning_modules.tvp import TVPModule

        prompt = PadPrompt(size.frame, size.pad, "unbounded")
        prompt.delta.data.copy_(delta)
        features = [clean_features(model, folder)] if folder else None
        if features:
            features[0](model, prompt.blank(batch.images), batch.questions)  # an earlier epoch filled the cache
        self.module: Any = TVPModule(
            prompt, lambda: [model], lambda: clip, clean_features=features, fca=fca, tse=tse, lr=LR
        )
        self.module.configure_model()
        self.optimizer, self.batch = self.module.configure_optimizers()["optimizer"], batch

    def gradient(self) -> tuple[Tensor, Tensor]:
        """(loss (), its gradient (3, frame, frame) in the prompt: the sum over the batch)."""
        module, batch = self.module, self.batch
        self.optimizer.zero_grad()
        losses, tokens = module.losses(batch), module.sources[0].answer_token_counts(batch.questions, batch.answers)
        transfer = module.fca * losses.fca.sum() + module.tse * losses.tse
        loss = losses.nats.sum() / tokens.sum() + transfer / len(batch.images)
        loss.backward()
        return loss.detach(), module.prompt.delta.grad

    def __call__(self) -> tuple[Tensor, Tensor]:
        """Loss and gradient of the step that is made."""
        loss, gradient = self.gradient()
        self.optimizer.step()
        self.module.prompt.project_()
        return loss, gradient


def clean_features(model: Any, folder: Path) -> Any:
    """A float32 cache of `model`'s clean features in `folder`."""
    from lightning_modules.features import CachedFeatures

    return CachedFeatures(FeatureCache(folder), lambda: {"name": model.name})
