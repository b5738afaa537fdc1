"""The 8-bit picture of a prompt: `prompt.png`, the file people use without any of this code. Tensors in and out."""

from __future__ import annotations

from io import BytesIO
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

BOUNDS = ("image", "unbounded")
PNG_ENCODINGS = {"pad": "unsigned", "overlay": "signed"}


class PromptTensors(NamedTuple):
    """The content of a prompt on disk.

    kind: `pad` (the border surrounds the shrunken image) or `overlay` (it is added to the full-size one).
    frame, pad: sides in pixels of the frame and of its border. bounds: `image` or `unbounded`.
    delta: (3, frame, frame) float32 on the CPU, zero inside the border.
    """

    kind: str
    frame: int
    pad: int
    bounds: str
    delta: Tensor

    @property
    def image_size(self) -> int:
        """Side of the images the prompt is put on."""
        return self.frame - 2 * self.pad if self.kind == "pad" else self.frame

    @property
    def mask(self) -> Tensor:
        """(1, frame, frame) float32: 1 on the border."""
        return border_mask(self.frame, self.pad)


def check_geometry(frame: int, pad: int, bounds: str) -> None:
    """Raises ValueError for bounds that do not exist, or a border that does not fit its frame."""
    if bounds not in BOUNDS:
        raise ValueError(f"Unknown prompt bounds '{bounds}'. Available: {', '.join(BOUNDS)}.")
    if not 0 < 2 * pad < frame:
        raise ValueError(f"A border of {pad} px does not fit a frame of {frame} px. Expected 0 < 2 * pad < frame.")


def border_mask(frame: int, pad: int) -> Tensor:
    """(1, frame, frame) float32: 1 on the outer `pad` pixels, 0 inside."""
    mask = torch.ones(1, frame, frame)
    mask[:, pad : frame - pad, pad : frame - pad] = 0.0
    return mask


def encode_delta(delta: Tensor, encoding: str) -> np.ndarray:
    """delta (3, F, F) -> 8-bit picture (F, F, 3): `unsigned` holds [0, 1], `signed` [-1, 1]; outside is clamped."""
    scaled = 255 * delta.clamp(0, 1) if encoding == "unsigned" else 127.5 + 127.5 * delta.clamp(-1, 1)
    return np.ascontiguousarray(scaled.round().to(torch.uint8).permute(1, 2, 0).numpy())


def decode_pixels(pixels: np.ndarray, prompt: PromptTensors) -> Tensor:
    """8-bit picture (F, F, 3) -> delta (3, F, F) float32 in the encoding of the prompt's kind, zero inside (signed)."""
    values = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1).contiguous()
    if PNG_ENCODINGS[prompt.kind] == "unsigned":
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
