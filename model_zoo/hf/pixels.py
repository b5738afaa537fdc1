"""The official image processor of a folder, differentiable and equal to its 8-bit path within 2/255.

PIL and torch's uint8 kernel resize the width, round and clip, then the height, round and clip. A float tensor is
neither rounded nor clipped, so bicubic and Lanczos overshoot: on a frame of noise, which a learned prompt is, by up to
107/255. Here the official processor of the family runs as it is, with two methods of its base class replaced.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tvf
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_utils import PILImageResampling

SMOOTH = {
    PILImageResampling.BILINEAR: InterpolationMode.BILINEAR,
    PILImageResampling.BICUBIC: InterpolationMode.BICUBIC,
    PILImageResampling.LANCZOS: InterpolationMode.LANCZOS,
}


class Uint8Like(TorchvisionBackend):
    """Stands between a family's processor and the library's backend; images are float tensors in [0, 1].

    An unbounded prompt leaves [0, 1], where no 8-bit picture exists: there the clip is to its own extremes.
    """

    do_rescale: bool
    rescale_factor: float

    def resize(self, image: Tensor, size: Any, resample: Any = None, antialias: bool = True, **kwargs: Any) -> Tensor:
        """(..., 3, H, W) -> (..., 3, h, w) in two passes, width first, each clipped."""
        mode = SMOOTH.get(resample, resample or InterpolationMode.BILINEAR)
        if not antialias or mode not in SMOOTH.values():
            return super().resize(image, size, resample, antialias, **kwargs)
        # The library works the size out from rules of its own; a tensor without data costs nothing.
        shape = image.new_empty(image.shape, device="meta")
        height, width = super().resize(shape, size, InterpolationMode.BILINEAR).shape[-2:]
        return two_passes(image, height, width, mode)

    def rescale_and_normalize(self, images: Tensor, *rest: Any, **options: Any) -> Tensor:
        """Normalise as the family does, in the dtype of the images; they are rescaled already."""
        names = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
        given = {**dict(zip(names, rest, strict=False)), **options}
        factor = 255.0 * (self.rescale_factor if self.do_rescale else 1.0)
        images = images if abs(factor - 1) < 1e-6 else images * factor
        return tvf.normalize(images, given["image_mean"], given["image_std"]) if given["do_normalize"] else images


def two_passes(image: Tensor, height: int, width: int, mode: InterpolationMode) -> Tensor:
    """(..., 3, H, W) -> (..., 3, height, width), each pass clipped to [0, 1], or to the image's own range if wider."""
    low = image.detach().amin((-3, -2, -1), keepdim=True).clamp(max=0)
    high = image.detach().amax((-3, -2, -1), keepdim=True).clamp(min=1)
    if width != image.shape[-1]:
        image = clipped(image @ matrix(image, image.shape[-1], width, mode).T, low, high)
    if height != image.shape[-2]:
        image = clipped(matrix(image, image.shape[-2], height, mode) @ image, low, high)
    return image


def keeping_aspect(method: Any) -> Any:
    """Gemma 4's own resize, which calls torchvision itself, in two passes."""

    def resize(self: Any, image: Tensor, *args: Any, resample: Any, **kwargs: Any) -> Tensor:
        shape = image.new_empty(image.shape, device="meta")
        height, width = method(self, shape, *args, resample=InterpolationMode.BILINEAR, **kwargs).shape[-2:]
        return two_passes(image, height, width, SMOOTH.get(resample, resample))

    return resize


def clipped(image: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Clip between low and high; the gradient passes as if nothing had been clipped."""
    return image + (image.detach().clamp(low, high) - image.detach())


@lru_cache(maxsize=64)
def _matrix(old: int, new: int, mode: InterpolationMode) -> Tensor:
    """(new, old) float64: what an antialiased resize does to one axis."""
    return tvf.resize(torch.eye(old, dtype=torch.float64)[None], [new, old], interpolation=mode, antialias=True)[0]


def matrix(image: Tensor, old: int, new: int, mode: InterpolationMode) -> Tensor:
    """`_matrix` where the image lives and in its dtype."""
    return _matrix(old, new, mode).to(image)


def differentiable(processor: Any) -> Any:
    """A copy of an image processor that takes float images in [0, 1], keeps gradients and clips as 8 bits would.

    Raises ValueError for a processor that does not run on torchvision.
    """
    if not isinstance(processor, TorchvisionBackend):
        raise ValueError(
            f"{type(processor).__name__} does not run on torchvision, so no gradient passes through it. Expected a "
            "processor with the torchvision backend; SmolVLM and Idefics3 have one from torchvision 0.27 on."
        )
    kind = type(processor)
    result = copy.copy(processor)
    own = "aspect_ratio_preserving_resize"
    methods = {own: keeping_aspect(getattr(kind, own))} if hasattr(kind, own) else {}
    # Processors look at their class's name, so it stays.
    result.__class__ = type(kind.__name__, (kind, Uint8Like), methods)
    return result


def run(processor: Any, images: Tensor, options: Mapping[str, Any]) -> dict[str, Any]:
    """What a differentiable processor makes of frames (B, 3, S, S): a dict of tensors and lists."""
    # A flat list would be one sample with B images to some families.
    nested = [[image] for image in images]
    return dict(processor(nested, **{**options, "do_rescale": False, "return_tensors": "pt"}))
