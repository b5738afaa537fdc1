"""The contract every frozen multimodal LLM fulfils, and the one place where a frame becomes a model's input."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class Visual(NamedTuple):
    """What the connector hands to the language model.

    tokens: (B, T, D) visual tokens in the language model's width, query tokens first.
    n_query: how many of the T tokens are query tokens (T where there are no patch tokens).
    """

    tokens: Tensor
    n_query: int


def resize_square(images: Tensor, size: int) -> Tensor:
    """Differentiable bicubic antialiased resize, (B,3,S,S) -> (B,3,size,size); the bit-exact identity at S == size."""
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
        raise ValueError(f"Expected square RGB images (B, 3, S, S), got {tuple(images.shape)}. Crop or pad them first.")
    if images.shape[-1] == size:
        return images
    return F.interpolate(images, size=(size, size), mode="bicubic", antialias=True, align_corners=False)


class MLLM(nn.Module, ABC):
    """A frozen multimodal LLM that reads frames and scores, answers or explains them.

    Frames are (B, 3, S, S) RGB of any square size, nominally in [0, 1] but never clamped or range-checked here: an
    unbounded prompt leaves [0, 1] by design. Callers never normalise and never apply a template: `questions` is raw
    text. Every parameter is frozen (`requires_grad=False`) and the module stays in eval mode whatever Lightning asks.

    Args:
        name: registry name, e.g. `minigpt4`.
        image_size: side in pixels of the model's own input.
        mean, std: the three channel statistics of the model's own normalisation.
        official: reproduce the reference's deviations (docs/method.md#deviations) where the family has any.
    """

    pixel_mean: Tensor
    tower_memory: Callable[[MLLM, Tensor], tuple[Tensor, ...]] | None = None
    """Lent while several models are scored: from pixels to what `run_tower` returns, perhaps made for another model."""
    way: str = ""
    """How a served model is read (`model_zoo.served.ways`); empty for one that runs here."""

    def __init__(
        self,
        name: str,
        image_size: int,
        *,
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
        official: bool = False,
    ) -> None:
        super().__init__()
        self.name = name
        self.image_size = image_size
        self.official = official
        self.mean, self.std = tuple(mean), tuple(std)
        # Never read as numbers (`.to(bfloat16)` would round them); it only tells where the model lives.
        self.register_buffer("pixel_mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)

    def freeze_(self) -> MLLM:
        """Turn off every weight gradient and settle in eval mode; factories call it last."""
        self.requires_grad_(False)
        return self.train(False)

    def train(self, mode: bool = True) -> MLLM:
        """Stay in eval mode: a frozen model has no training mode (dropout would change scores)."""
        return super().train(False)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights; `prepare` casts pixels to it."""
        return next(p.dtype for p in self.parameters() if p.is_floating_point())

    def prepare(self, images: Tensor) -> Tensor:
        """Resize frames (B,3,S,S) to the model's own size, normalise, cast to the weights' dtype; keeps gradients."""
        pixels = resize_square(images if images.dtype == torch.float64 else images.float(), self.image_size)
        mean, std = (pixels.new_tensor(v).view(1, 3, 1, 1) for v in (self.mean, self.std))
        return ((pixels - mean) / std).to(self.dtype)

    def tower_parts(self) -> list[nn.Module]:
        """The modules that `run_tower` runs; models with equal ones share its results. Empty: nothing is shared."""
        return []

    def language_parts(self) -> list[nn.Module]:
        """The language model and its head; all other weights belong to what sees a picture."""
        return [cast(nn.Module, self.llm)]

    @property
    def tower_outputs(self) -> int:
        """How many of the tensors that `run_tower` returns this connector reads."""
        return 1

    def run_tower(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Features (B, N, V) of what `prepare` returns: the last block's, then others that this connector reads."""
        raise NotImplementedError(f"{type(self).__name__} names no vision tower. Expected `run_tower` beside `see`.")

    def see(self, images: Tensor) -> tuple[Tensor, ...]:
        """`run_tower` on frames (B, 3, S, S), or what `tower_memory` has of it where no gradient is wanted."""
        pixels = self.prepare(images)
        if self.tower_memory is None or torch.is_grad_enabled():
            return self.run_tower(pixels)
        return self.tower_memory(self, pixels)

    @abstractmethod
    def encode_image(self, images: Tensor, questions: Sequence[str]) -> Visual:
        """Visual tokens of each frame; `questions` (B raw texts) matter only to connectors that read text."""

    @abstractmethod
    def answer_token_counts(self, questions: Sequence[str], answers: Sequence[str]) -> Tensor:
        """How many tokens of each row enter `answer_loss`: (B,) int64 on CPU, without running the model."""

    @abstractmethod
    def answer_loss(
        self, images: Tensor, questions: Sequence[str], answers: Sequence[str], *, visual: Visual | None = None
    ) -> tuple[Tensor, Tensor]:
        """Teacher-forced negative log-likelihood of each answer, prefix masked out.

        Returns (nats (B,) float32: the SUM over the answer's tokens, tokens (B,) int64). A batch loss is
        nats.sum() / tokens.sum() over the global batch. Pass `visual` to reuse an encoding (then `images` is not read).
        """

    @abstractmethod
    def score(
        self,
        images: Tensor,
        questions: Sequence[str],
        candidates: Sequence[str] | Sequence[Sequence[str]],
        *,
        visual: Visual | None = None,
        normalize: bool = True,
    ) -> Tensor:
        """Log-likelihood of every candidate answer, (B, K) float32; higher is better.

        `candidates` is one list for all images, or one list per image (K = the longest, missing entries -inf).
        normalize=True gives the mean over the candidate's tokens, False the sum.
        """

    @abstractmethod
    def generate(
        self,
        images: Tensor,
        questions: Sequence[str],
        *,
        style: str = "infer",
        visual: Visual | None = None,
        **decoding: object,
    ) -> list[str]:
        """Free text answers; style `infer` (free) or `vqa` (short). `decoding`: max_new_tokens, num_beams, ..."""
