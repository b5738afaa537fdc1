"""Any image file to RGB, with every conversion spelled out, and every failure naming the file."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

MAX_PIXELS = 100_000_000  # larger than any photograph of the data sets; a bomb claims more in a few bytes


def decode_image(path: str | Path) -> Tensor:
    """(3, H, W) uint8 RGB of the first frame, upright.

    The content decides the format, not the file's name. EXIF orientation is applied. Transparency is composited over
    white (opaque images are unchanged); 16-bit grey is scaled (value / 257), not clipped; CMYK, palette and grey
    are converted by Pillow; colour profiles are ignored, as the reference ignores them.
    Raises: FileNotFoundError; ValueError naming the file and what is wrong with it.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"No image '{path}'. Expected a file; restore it, or rebuild the list it is named in.")
    return _decode(path, str(path))


def decode_bytes(data: bytes, name: str) -> Tensor:
    """Decode a file's bytes as `decode_image` does; `name` says in errors where they are from."""
    return _decode(BytesIO(data), name)


def _decode(file: str | Path | BinaryIO, name: str) -> Tensor:
    try:
        with Image.open(file) as image:
            _check_size(image)
            rgb = to_rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # decoders raise whatever they like: OSError, SyntaxError, struct.error, EOFError, ...
        raise ValueError(
            f"Cannot read image '{name}': {error or type(error).__name__}. "
            "Expected a complete image file (JPEG, PNG, ...); restore it or take it out of the data set."
        ) from error
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).contiguous()


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode to RGB as `decode_image` says. Raises: ValueError for values without a known scale."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.copy()
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep_grey(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _from_deep_grey(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ValueError(
            f"mode {image.mode} with values from {values.min()} to {values.max()} has no known scale, "
            "only 8 and 16 bits do: convert it"
        )
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8)).convert("RGB")


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels, more than the {MAX_PIXELS:,} allowed (a decompression bomb?)")
