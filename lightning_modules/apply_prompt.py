"""A finished prompt on one picture of any size and kind, and pictures of prompts for people to look at."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from datamodules.images import load_picture, to_rgb

__all__ = ["apply_prompt", "fit_picture", "frame_to_pil", "frames_to_uint8", "load_picture"]

FITS = ("crop", "letterbox")


def apply_prompt(prompt: Any, image: Any, *, fit: str = "crop") -> Any:
    """Put `prompt` on one picture; the same kind of picture comes back, frame x frame.

    8-bit kinds agree exactly; floats are resized in float, which the 8-bit resize rounds (by up to 2/255).
    A PIL image gives, bit for bit, what five lines of Pillow give with prompt.png alone (README, "Use a prompt"):
    `frame.paste(ImageOps.fit(photo, (size, size), Image.BICUBIC), (pad, pad))` of the upright photo over white.

    Args:
        prompt: what turns images (B, 3, image_size, image_size) into frames and has `image_size` and `delta`: any
            Prompt, on any device.
        image: PIL image of any mode (made upright RGB by `datamodules.images.to_rgb`, as training reads it), numpy
            (H, W, 3) or (H, W), or tensor (3, H, W); arrays and tensors uint8, or float in [0, 1].
        fit: `crop` takes the centre square, `letterbox` the whole picture between black bars.

    Returns:
        PIL RGB, numpy (frame, frame, 3) or tensor (3, frame, frame) with the dtype and device of the input. 8-bit
        results are clamped to [0, 1]; float results of an unbounded prompt may leave it.

    Raises:
        TypeError, ValueError: another kind, shape, dtype or value range.
    """
    return _put(image, prompt.image_size, fit, prompt)


def fit_picture(image: Any, size: int, *, fit: str = "crop") -> Any:
    """The same picture without a prompt: cropped or letterboxed, then resized to size x size (see `apply_prompt`)."""
    return _put(image, size, fit, None)


def frames_to_uint8(frames: Tensor) -> Tensor:
    """Frames nominally in [0, 1] -> 8 bits: round(255 * clamp(x, 0, 1)), the rounding of prompt.png."""
    return (255 * frames.clamp(0, 1)).round().to(torch.uint8)


def frame_to_pil(frame: Tensor) -> Image.Image:
    """(3, H, W) in [0, 1] (clamped) -> PIL RGB."""
    return Image.fromarray(np.ascontiguousarray(frames_to_uint8(frame.detach().cpu()).permute(1, 2, 0).numpy()))


@torch.no_grad()
def _put(image: Any, size: int, fit: str, prompt: Any) -> Any:
    if fit not in FITS:
        raise ValueError(f"Unknown fit '{fit}'. Available: {', '.join(FITS)}.")
    if isinstance(image, Image.Image):
        return Image.fromarray(_put_8bit(to_rgb(image), size, fit, prompt))
    if isinstance(image, Tensor):
        values = image.detach().cpu()
        values = values.float() if values.is_floating_point() else values  # numpy knows no bfloat16
        out = _put_array(_checked(values.numpy(), image, channels_first=True), size, fit, prompt)
        return torch.from_numpy(np.ascontiguousarray(out.transpose(2, 0, 1))).to(image)
    if isinstance(image, np.ndarray):
        return _put_array(_checked(image, image, channels_first=False), size, fit, prompt).astype(image.dtype)
    raise TypeError(f"Got a picture of type {type(image).__name__}. Expected a PIL image, numpy array or tensor.")


def _put_array(pixels: np.ndarray, size: int, fit: str, prompt: Any) -> np.ndarray:
    """(H, W, 3) uint8 -> uint8, or float -> float32, both (frame, frame, 3)."""
    if pixels.dtype == np.uint8:
        return _put_8bit(Image.fromarray(pixels), size, fit, prompt)
    channels = [np.asarray(_fitted(Image.fromarray(pixels[..., c].astype(np.float32)), size, fit)) for c in range(3)]
    photo = torch.from_numpy(np.stack(channels)).clamp(0, 1)  # bicubic overshoots, as the 8-bit resize clamps
    return _prompted(photo, prompt).permute(1, 2, 0).numpy()


def _put_8bit(photo: Image.Image, size: int, fit: str, prompt: Any) -> np.ndarray:
    pixels = torch.from_numpy(np.array(_fitted(photo, size, fit))).permute(2, 0, 1)
    return frames_to_uint8(_prompted(pixels / 255, prompt)).permute(1, 2, 0).contiguous().numpy()


def _prompted(photo: Tensor, prompt: Any) -> Tensor:
    return photo if prompt is None else prompt(photo[None].to(prompt.delta.device))[0].float().cpu()


def _fitted(photo: Image.Image, size: int, fit: str) -> Image.Image:
    """Pillow's own resize for every kind of picture (mode RGB, or F a channel), so that kinds agree."""
    if fit == "crop":
        return ImageOps.fit(photo, (size, size), Image.Resampling.BICUBIC)
    scale = size / max(photo.size)
    width, height = (min(size, max(1, round(side * scale))) for side in photo.size)
    canvas = Image.new(photo.mode, (size, size))
    canvas.paste(photo.resize((width, height), Image.Resampling.BICUBIC), ((size - width) // 2, (size - height) // 2))
    return canvas


def _checked(pixels: np.ndarray, given: Any, *, channels_first: bool) -> np.ndarray:
    """Pixels as (H, W, 3) uint8 or float in [0, 1]."""
    expected = "(3, H, W)" if channels_first else "(H, W, 3) or (H, W)"
    if channels_first and pixels.ndim == 3:
        pixels = pixels.transpose(1, 2, 0)
    elif not channels_first and pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise ValueError(f"Got a picture of shape {tuple(given.shape)}. Expected {expected}, without alpha, not empty.")
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels)
    if pixels.dtype.kind != "f":
        raise ValueError(f"Got a picture of dtype {given.dtype}. Expected uint8, or floats in [0, 1].")
    if not (pixels.min() >= -1e-3 and pixels.max() <= 1 + 1e-3):
        raise ValueError(
            f"Got a float picture with values in [{pixels.min():g}, {pixels.max():g}]. Expected [0, 1], never "
            "normalised: divide 8-bit values by 255."
        )
    return pixels
