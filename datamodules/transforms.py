"""From an original image to (3, S, S) in [0, 1]: docs/method.md#losses, "The released setting".

train: horizontal flip (p = 0.5), shorter side to S bicubic, random S x S crop; evaluation: the same resize, centre
crop. Resized once, from the original. uint8 images go through PIL's antialiased bicubic exactly as torchvision does
with PIL images (the reference's path); float tensors through torch's antialiased bicubic, clamped to [0, 1].
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple, TypeVar

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

Picture = TypeVar("Picture", Tensor, Image.Image)


class Augmentation(NamedTuple):
    """One draw: whether to mirror, and where the crop lies (top and left as fractions of the room there is)."""

    flip: bool
    top: float
    left: float


def draw_augmentation(seed: int, epoch: int, row_id: str) -> Augmentation:
    """The augmentation of a row in an epoch: bits of a hash used as a counter-based generator, so order, worker and
    rank cannot change it."""
    digest = hashlib.sha256(f"augment:{seed}:{epoch}:{row_id}".encode()).digest()
    word = [int.from_bytes(digest[i : i + 8], "big") >> 11 for i in (0, 8, 16)]  # 53 bits: exact in a double
    return Augmentation(bool(word[0] & 1), word[1] / 2**53, word[2] / 2**53)


def prepare_image(image: Tensor, size: int, augmentation: Augmentation | None = None) -> Tensor:
    """(3, H, W) uint8, or float in [0, 1], to (3, size, size) float32 in [0, 1].

    augmentation: None for evaluation (centre crop, no flip).
    Raises: ValueError for any other shape, type or range.
    """
    check_image(image)
    if image.dtype == torch.uint8:
        picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
        return F.to_tensor(_resize_and_crop(picture, size, augmentation))
    return _resize_and_crop(image.float(), size, augmentation).clamp(0, 1).contiguous()


def _resize_and_crop(image: Picture, size: int, augmentation: Augmentation | None) -> Picture:
    if augmentation is not None and augmentation.flip:
        image = F.hflip(image)
    image = F.resize(image, [size], interpolation=InterpolationMode.BICUBIC, antialias=True)
    if augmentation is None:
        return F.center_crop(image, [size, size])
    _, height, width = F.get_dimensions(image)
    top = int(augmentation.top * (height - size + 1))
    left = int(augmentation.left * (width - size + 1))
    return F.crop(image, top, left, size, size)


def check_image(image: Tensor) -> None:
    """Refuse what is not an RGB image. Raises: ValueError saying what was got and what was expected."""
    if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise ValueError(
            f"An image has shape {tuple(image.shape)}. Expected (3, H, W), RGB; see datamodules/images.py."
        )
    if image.dtype == torch.uint8:
        return
    if not image.is_floating_point():
        raise ValueError(f"An image has type {image.dtype}. Expected torch.uint8 (0-255) or float (0-1).")
    low, high = image.min().item(), image.max().item()
    if not (low >= 0 and high <= 1):
        raise ValueError(f"A float image has values from {low:.4g} to {high:.4g}. Expected [0, 1]; divide or clamp it.")
