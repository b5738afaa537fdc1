"""A border around a picture whose size is learned too (AutoVP, Tsao et al., ICLR 2024)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_modules.artefact_png import LEAST_SCALE, PromptTensors, cover
from lightning_modules.prompts import Prompt

EIGHTHS = 8.0
"""`zoom` is the scale in eighths of the frame: an update that moves a pixel by 0.01 moves the scale by 0.00125. A power
of two, so that a scale comes back from a file to the bit."""


class ScaledPrompt(Prompt):
    """c * resize(x, s) + (1 - c) * delta: the full-size picture, shrunk to s * frame in the middle of the border.

    c is how much of a pixel the picture covers (`artefact_png.cover`), so that both c and the resized picture follow s
    without a jump; s starts at 1 - 2 pad / frame and stays between an eighth and 1.

    Attributes:
        zoom: parameter, a scalar: 8 s.
        mask: where 1 - c is not 0; it follows s.
    """

    kind, lowest = "scaled", 0.0
    zoom: nn.Parameter

    def _add_tensors(self) -> None:
        self._add_values()
        self.zoom = nn.Parameter(torch.tensor(EIGHTHS * (1 - 2 * self.pad / self.frame)))

    def _add_values(self) -> None:
        self.delta = nn.Parameter(torch.zeros(3, self.frame, self.frame))

    @property
    def image_size(self) -> int:
        return self.frame

    @property
    def scale(self) -> float:  # type: ignore[override]
        return self.zoom.item() / EIGHTHS

    @property
    def covered(self) -> Tensor:
        """(frame, frame) how much of each pixel the picture covers; differentiable in zoom."""
        share = cover(self.frame, self.zoom / EIGHTHS)
        return torch.outer(share, share)

    @property
    def mask(self) -> Tensor:  # type: ignore[override]
        return (self.covered.detach() < 1).to(self.zoom.dtype)[None]

    def forward(self, images: Tensor) -> Tensor:
        self._check(images)
        return self.covered * self._resized(images) + (1 - self.covered) * self.delta

    @torch.no_grad()
    def blank(self, images: Tensor) -> Tensor:
        self._check(images)
        return self.covered * self._resized(images)

    def _resized(self, images: Tensor) -> Tensor:
        along = resize_matrix(self.frame, self.zoom / EIGHTHS)
        with torch.autocast(images.device.type, enabled=False):  # pixels in half precision are no 8-bit pixels
            return along @ images @ along.T

    def _replicated(self, mean_image: Tensor) -> Tensor:
        return self._resized(mean_image)  # `resize_matrix` repeats the edges

    @torch.no_grad()
    def project_(self) -> None:
        self.zoom.clamp_(EIGHTHS * LEAST_SCALE, EIGHTHS)
        self._project_values()

    def _project_values(self) -> None:
        super().project_()

    def take_(self, stored: PromptTensors) -> None:
        super().take_(stored)
        assert stored.scale is not None
        self.zoom.data.fill_(EIGHTHS * stored.scale)


def resize_matrix(frame: int, scale: Tensor) -> Tensor:
    """(frame, frame) R, whose R x R^T is x shrunk to scale * frame about the middle: bilinear, antialiased.

    Inside the shrunk picture it is what `torch.nn.functional.interpolate(mode="bilinear", antialias=True)` computes;
    outside, the edge is repeated. Differentiable in `scale`, a scalar in (0, 1].
    """
    places = torch.arange(frame, dtype=scale.dtype, device=scale.device)
    read = ((places + 0.5 - frame / 2) / scale + frame / 2 - 0.5).clamp(
        0, frame - 1
    )  # the input pixel under each output
    weights = (1 - scale * (read[:, None] - places).abs()).clamp_min(0)
    return weights / weights.sum(1, keepdim=True)
