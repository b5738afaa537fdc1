"""The 15 common corruptions of Hendrycks & Dietterich (ICLR 2019, arXiv 1903.12261) at 5 severities, for any picture.

Parameters are those published with the paper (github.com/hendrycks/robustness, `make_imagenet_c.py` and
`make_cifar_c.py`): the CIFAR-10-C table where the shorter side has at most 64 pixels, the ImageNet-C table above. That
table is meant for 224 pixels, so larger pictures are first brought to a shorter side of 224 (bicubic), as ImageNet-C
was made; their evaluation picture is thus resized twice. No kept library installs beside our pins (`imagecorruptions`
needs opencv and numba and is of 2021), so they are written with numpy, scipy and Pillow.

Deviations: `frost` has no photographs of frost and draws crystals instead (not comparable with published frost
numbers); `motion_blur` and `snow` do ImageMagick's motion blur in numpy. Everything random is a pure function of `key`
and the name, by numpy's frozen RandomState, and shared by the severities.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules import corruption_functions as functions

SMALL, LARGE = 64, 224  # pixels of the shorter side
SEVERITIES = (1, 2, 3, 4, 5)

_ELASTIC = ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02))

# name -> (ImageNet-C, CIFAR-10-C), one entry for each severity, in the published units (pixels, [0, 1] values, ...).
PARAMETERS: dict[str, tuple[list, list]] = {
    "gaussian_noise": ([0.08, 0.12, 0.18, 0.26, 0.38], [0.04, 0.06, 0.08, 0.09, 0.10]),
    "shot_noise": ([60, 25, 12, 5, 3], [500, 250, 100, 75, 50]),
    "impulse_noise": ([0.03, 0.06, 0.09, 0.17, 0.27], [0.01, 0.02, 0.03, 0.05, 0.07]),
    "defocus_blur": (
        [(3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)],
        [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)],
    ),
    "glass_blur": (
        [(0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)],
        [(0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)],
    ),
    "motion_blur": (
        [(10, 3), (15, 5), (15, 8), (15, 12), (20, 15)],
        [(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)],
    ),
    "zoom_blur": (
        [(1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)],
        [(1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)],
    ),
    "snow": (
        [
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ],
        [
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ],
    ),
    "frost": (
        [(1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)],
        [(1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)],
    ),
    "fog": (
        [(1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)],
        [(0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)],
    ),
    "brightness": ([0.1, 0.2, 0.3, 0.4, 0.5], [0.05, 0.1, 0.15, 0.2, 0.3]),
    "contrast": ([0.4, 0.3, 0.2, 0.1, 0.05], [0.75, 0.5, 0.4, 0.3, 0.15]),
    "elastic_transform": (  # lengths in shorter sides; the published code says 244 for pictures of 224
        [tuple(244 / 224 * length for length in row) for row in _ELASTIC],
        [(0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)],
    ),
    "pixelate": ([0.6, 0.5, 0.4, 0.3, 0.25], [0.95, 0.9, 0.85, 0.75, 0.65]),
    "jpeg_compression": ([25, 18, 15, 10, 7], [80, 65, 58, 50, 40]),
}
CORRUPTIONS = tuple(PARAMETERS)


def parse_corruption(text: str, known: tuple[str, ...] = CORRUPTIONS) -> tuple[str, int]:
    """("fog", 3) of "fog:3". Raises: ValueError naming the corruptions and severities there are."""
    name, _, severity = str(text).partition(":")
    if name not in known or severity not in map(str, SEVERITIES):
        raise ValueError(
            f"Unknown corruption '{text}'. Expected <name>:<severity>, as in 'fog:3', with a severity from 1 to 5 and "
            f"one of the names: {', '.join(known)}."
        )
    return name, int(severity)


def corrupt(image: Tensor, name: str, severity: int, key: str) -> Tensor:
    """A corrupted copy, (3, H, W) uint8 RGB to the same form; its shorter side is 224 where it was larger.

    key: whatever the randomness depends on, "{seed}:{id}".
    """
    picture = _fit(Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()))
    large, small = PARAMETERS[name]
    parameters = (small if min(picture.size) <= SMALL else large)[severity - 1]
    pixels = np.asarray(picture, dtype=np.float64) / 255
    result = getattr(functions, name)(pixels, parameters, _random(name, key))
    rounded = (np.clip(result, 0, 1) * 255 + 1e-9).astype(np.uint8)  # the published code truncates; 1e-9 keeps k / 255
    return torch.from_numpy(rounded).permute(2, 0, 1).contiguous()


def _fit(picture: Image.Image) -> Image.Image:
    shorter = min(picture.size)
    if shorter <= LARGE:
        return picture
    width, height = (max(LARGE, round(side * LARGE / shorter)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.BICUBIC)


def _random(name: str, key: str) -> np.random.RandomState:
    """RandomState's streams are frozen by numpy's compatibility policy, so that the pictures are the same for ever."""
    digest = hashlib.sha256(f"corruption:{name}:{key}".encode()).digest()
    return np.random.RandomState(np.frombuffer(digest[:16], dtype="<u4"))
