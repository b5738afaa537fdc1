"""A low-rank prompt (LoR-VP, Jin et al., ICLR 2025): what is added to the picture is a product of two thin factors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_modules.artefact_png import prompt_mask
from lightning_modules.prompt_full import FullPrompt

INSIDE = 1 - 1e-6
"""Products of scaled factors may round up; this much below the bound they do not leave it."""


class LowRankPrompt(FullPrompt):
    """clamp(x + B A): for each colour B (frame, rank) times A (rank, frame), 6 * frame * rank values in all.

    Bounds `image` shrink both factors of a colour alike where a value of their product leaves [-1, 1]: the rank stays.
    Starts at zero with B = 0 and A from N(0, 1 / rank), so that B has a gradient and an update of B moves pixels by
    about as much as itself.
    """

    kind = "lowrank"

    def __init__(self, frame: int = 224, pad: int = 30, bounds: str = "image", rank: int = 4) -> None:
        if not 1 <= rank <= frame:
            raise ValueError(f"Got prompt.rank={rank} on a frame of {frame} px. Expected 1 <= rank <= frame.")
        self.rank = rank
        super().__init__(frame, pad, bounds)
        self.init_()

    def _add_tensors(self) -> None:
        assert self.rank is not None
        self.left = nn.Parameter(torch.zeros(3, self.frame, self.rank))
        self.right = nn.Parameter(torch.zeros(3, self.rank, self.frame))
        self.register_buffer("mask", prompt_mask(self.kind, self.frame, self.pad), persistent=False)

    @property
    def delta(self) -> Tensor:  # type: ignore[override]
        with torch.autocast(self.left.device.type, enabled=False):  # an update in half precision is not of the pixels
            return self.left @ self.right

    def init_(self, how: str = "zero", *, std: float = 1.0, seed: int = 0, mean_image: Tensor | None = None) -> None:
        self._seed = seed
        super().init_(how, std=std, seed=seed, mean_image=mean_image)

    def _start_at(self, delta: Tensor) -> None:
        """Zero, the only constant that an added prompt starts from."""
        self.left.zero_()
        self.right.copy_(self._noise(self._seed)[1] / self.right.shape[1] ** 0.5)

    def _start_at_random(self, std: float, seed: int) -> None:
        """A product whose values have the standard deviation std: a sum of `rank` products of two factors."""
        size = (std / self.right.shape[1] ** 0.5) ** 0.5
        for factor, noise in zip((self.left, self.right), self._noise(seed), strict=True):
            factor.copy_(noise * size)

    def _noise(self, seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(self.left.shape, generator=generator), torch.randn(self.right.shape, generator=generator)

    @torch.no_grad()
    def project_(self) -> None:
        if self.bounds == "image":
            largest = self.delta.abs().amax((1, 2)).view(3, 1, 1)
            size = torch.where(largest > 1, INSIDE / largest, torch.ones_like(largest)).sqrt()
            self.left.mul_(size)
            self.right.mul_(size)
