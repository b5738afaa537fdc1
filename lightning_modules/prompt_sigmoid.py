"""Pixels learned as sigmoids, so that no update leaves [0, 1] (ILM-VP, Chen et al. 2023; AutoVP, Tsao et al. 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lightning_modules.artefact_png import prompt_mask
from lightning_modules.prompt_scaled import ScaledPrompt
from lightning_modules.prompts import PadPrompt, Prompt

if TYPE_CHECKING:
    Base = Prompt
else:
    Base = object

NEAREST = 1e-6
"""How near to 0 and 1 a start may be: at the ends a sigmoid is infinitely far away."""


class SigmoidValues(Base):
    """delta = sigmoid(theta) where the mask is 1; theta (3, frame, frame) is what is learned, and 0 is grey."""

    theta: nn.Parameter

    def _add_values(self) -> None:
        self.theta = nn.Parameter(torch.zeros(3, self.frame, self.frame))

    @property
    def delta(self) -> Tensor:  # type: ignore[override]
        return torch.sigmoid(self.theta) * self.mask

    def _start_at(self, delta: Tensor) -> None:
        self.theta.copy_(torch.logit(delta, eps=NEAREST))

    def _start_at_random(self, std: float, seed: int) -> None:
        """theta itself from N(0, std)."""
        self.theta.copy_(torch.randn(self.theta.shape, generator=torch.Generator().manual_seed(seed)) * std)

    def _project_values(self) -> None:
        """A sigmoid is always in bounds."""


class SigmoidPadPrompt(SigmoidValues, PadPrompt):
    """The shrunk picture in a border of sigmoids: zero_pad(x) + mask * sigmoid(theta)."""

    def _add_tensors(self) -> None:
        self._add_values()
        self.register_buffer("mask", prompt_mask(self.kind, self.frame, self.pad), persistent=False)

    def project_(self) -> None:
        self._project_values()


class SigmoidScaledPrompt(SigmoidValues, ScaledPrompt):
    """AutoVP's: a border of sigmoids around a picture of learned size."""
