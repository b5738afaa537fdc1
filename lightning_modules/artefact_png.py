"""The 8-bit picture of a prompt: `prompt.png`, the file people use without any of this code. Tensors in and out."""

from __future__ import annotations

from io import BytesIO
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from lightning_modules.prompt_kinds import check_bounds, prompt_kind

LEAST_SCALE = 0.125
"""A picture is not shrunk below an eighth of the frame (kind `scaled`)."""


class PromptTensors(NamedTuple):
    """The content of a prompt on disk.

    kind: one of `prompt_kinds.KINDS`. frame, pad: sides in pixels of the frame and of its border or patch.
    bounds: `image` or `unbounded`; what was learned as sigmoids is pixels in (0, 1) on disk, so `image`.
    delta: (3, frame, frame) float32 on the CPU, zero outside `mask`.
    scale: side of the picture over that of the frame, of the kind `scaled`. rank: of the kind `lowrank`.
    """

    kind: str
    frame: int
    pad: int
    bounds: str
    delta: Tensor
    scale: float | None = None
    rank: int | None = None

    @property
    def image_size(self) -> int:
        """Side of the images the prompt is put on."""
        return self.frame - 2 * self.pad if self.kind == "pad" else self.frame

    @property
    def mask(self) -> Tensor:
        """(1, frame, frame) float32: 1 where delta may be other than zero."""
        return prompt_mask(self.kind, self.frame, self.pad, self.scale)

    @property
    def numbers(self) -> dict[str, float | int]:
        """What the kind has beside frame and pad: `scale` or `rank`, or nothing."""
        known = {"scale": self.scale, "rank": self.rank}
        return {name: number for name, number in known.items() if number is not None}


def check_geometry(frame: int, pad: int, bounds: str, kind: str = "pad") -> None:
    """Raises ValueError for a kind or bounds that do not exist, or a border that does not fit its frame."""
    check_bounds(bounds, kind)
    if not 0 < 2 * pad < frame:
        raise ValueError(f"A border of {pad} px does not fit a frame of {frame} px. Expected 0 < 2 * pad < frame.")


def border_mask(frame: int, pad: int) -> Tensor:
    """(1, frame, frame) float32: 1 on the outer `pad` pixels, 0 inside."""
    mask = torch.ones(1, frame, frame)
    mask[:, pad : frame - pad, pad : frame - pad] = 0.0
    return mask


def prompt_mask(kind: str, frame: int, pad: int, scale: float | None = None) -> Tensor:
    """(1, frame, frame) float32: 1 where a prompt of this kind holds values.

    The border (`pad`, `overlay`), everything (`full`, `lowrank`), the top left pad x pad pixels (`patch`; also
    `random_patch`, which keeps its patch there), or what the shrunk picture leaves free, partly too (`scaled`).
    """
    if kind in ("pad", "overlay"):
        return border_mask(frame, pad)
    if kind == "scaled":
        covered = cover(frame, torch.tensor(1 - 2 * pad / frame if scale is None else scale))
        return (torch.outer(covered, covered) < 1).float()[None]
    mask = torch.ones(1, frame, frame)
    if kind in ("patch", "random_patch"):
        mask[:, pad:], mask[:, :, pad:] = 0.0, 0.0
    return mask


def cover(frame: int, scale: Tensor) -> Tensor:
    """(frame,) which share of each row, or column, a picture of scale * frame pixels in the middle covers.

    The product of a row's and a column's share is the area of their pixel that the picture covers. Differentiable in
    `scale`, a scalar: a pixel is passed in a straight line, not at once.
    """
    places = torch.arange(frame, dtype=scale.dtype, device=scale.device)
    return (scale * frame / 2 - (places + 0.5 - frame / 2).abs() + 0.5).clamp(0.0, 1.0)


def encode_delta(delta: Tensor, encoding: str) -> np.ndarray:
    """delta (3, F, F) -> 8-bit picture (F, F, 3): `unsigned` holds [0, 1], `signed` [-1, 1]; outside is clamped."""
    scaled = 255 * delta.clamp(0, 1) if encoding == "unsigned" else 127.5 + 127.5 * delta.clamp(-1, 1)
    return np.ascontiguousarray(scaled.round().to(torch.uint8).permute(1, 2, 0).numpy())


def decode_pixels(pixels: np.ndarray, prompt: PromptTensors) -> Tensor:
    """8-bit picture (F, F, 3) -> delta (3, F, F) float32 in the encoding of the prompt's kind, zero inside (signed)."""
    values = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1).contiguous()
    if not prompt_kind(prompt.kind).is_added:
        return values / 255
    return torch.where(prompt.mask > 0, (values - 127.5) / 127.5, torch.zeros(()))


def read_png(data: bytes, prompt: PromptTensors, *, where: str) -> Tensor:
    """The delta in the bytes of a prompt.png; `where` names the file in messages.

    Raises:
        ValueError: not a readable PNG, or one of another size or mode than `prompt` needs.
    """
    try:
        with Image.open(BytesIO(data), formats=("PNG",)) as picture:
            expected = ((prompt.frame, prompt.frame), "RGB")
            if (picture.size, picture.mode) != expected:
                raise ValueError(
                    f"{where} is {picture.size}, mode {picture.mode}. Expected {expected[0]}, mode RGB: "
                    "use the file as it was exported."
                )
            pixels = np.array(picture)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{where} is damaged or no PNG ({error}). Copy it again.") from None
    return decode_pixels(pixels, prompt)


def png_bytes(pixels: np.ndarray) -> bytes:
    """(F, F, 3) uint8 as a PNG file."""
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
