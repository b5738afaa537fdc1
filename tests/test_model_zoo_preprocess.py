"""Frames become each model's input as its official processor would make it, differentiably.

Stated tolerance: 1e-5 in normalised units against the processor on the same float tensor (one kernel, other order of
operations); 1.5 grey levels of 255 against the Pillow path on 8-bit pictures, which rounds after each of its two passes
and clips the overshoot of the bicubic kernel.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from support.tiny_models import PUBLISHED_TINY, tiny_images, tiny_mllm
from torch import Tensor

from model_zoo.base import CLIP_MEAN, CLIP_STD, MLLM

SIZES = {"same": 224, "up": 96, "down": 401}


@pytest.fixture(scope="module", params=PUBLISHED_TINY)
def model(request: pytest.FixtureRequest) -> MLLM:
    return tiny_mllm(request.param, image_size=224)


def official_processor(size: int):
    """BLIP-2's own; LAVIS, MiniGPT-4, VPGTrans, BLIVA and VisualGLM evaluate with the same resize and statistics."""
    from transformers import BlipImageProcessor

    return BlipImageProcessor(size={"height": size, "width": size}, image_mean=CLIP_MEAN, image_std=CLIP_STD)


def smooth_images(size: int) -> Tensor:
    """(3, 3, size, size) in [0, 1] with structure at every scale, as 8-bit levels."""
    coarse = torch.nn.functional.interpolate(tiny_images(3, 16), size=size, mode="bilinear")
    return ((0.7 * coarse + 0.3 * tiny_images(3, size, seed=1)) * 255).round() / 255


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_it_equals_the_official_processor_on_the_same_tensor(model: MLLM, size: int) -> None:
    frames = smooth_images(size)
    expected = official_processor(224)(frames, do_rescale=False, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(model.prepare(frames), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_it_equals_the_pillow_path_within_rounding(model: MLLM, size: int) -> None:
    frames = smooth_images(size)
    pictures = [Image.fromarray(np.uint8(f.permute(1, 2, 0).mul(255).round())) for f in frames]
    resized = [np.asarray(p.resize((224, 224), Image.Resampling.BICUBIC)) for p in pictures]
    expected = torch.stack([torch.from_numpy(r.copy()) for r in resized]).permute(0, 3, 1, 2).float()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    levels = ((model.prepare(frames) * std + mean) * 255).clamp(0, 255)
    assert (levels - expected).abs().max() <= (1e-3 if size == 224 else 1.5)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_every_pixel_of_a_frame_of_any_size_has_a_gradient(model: MLLM, size: int) -> None:
    frames = smooth_images(size)[:1].requires_grad_()
    weights = 1 + torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(3))
    (gradient,) = torch.autograd.grad((model.prepare(frames) * weights).sum(), frames)
    assert (gradient.abs() > 0).float().mean() > 0.99


def test_values_outside_the_range_are_not_clipped(model: MLLM) -> None:
    frames = smooth_images(224)
    shifted = model.prepare(frames * 3 - 1)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    torch.testing.assert_close(shifted, (frames * 3 - 1 - mean) / std, atol=1e-5, rtol=0)
