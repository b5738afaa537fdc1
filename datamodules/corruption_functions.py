"""The common corruptions: (H, W, 3) float64 in [0, 1], its parameters, a random stream -> the same form.

One function for each name of `corruptions.PARAMETERS`; results may leave [0, 1], `corrupt` clips them.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import torch.nn.functional as F
from numpy.random import RandomState
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.signal import fftconvolve
from torch import from_numpy

Pixels = np.ndarray


# ---- noise ----------------------------------------------------------------------------------------------------------
def gaussian_noise(x: Pixels, scale: float, random: RandomState) -> Pixels:
    return x + scale * random.normal(size=x.shape)


def shot_noise(x: Pixels, photons: float, random: RandomState) -> Pixels:
    return random.poisson(x * photons) / photons


def impulse_noise(x: Pixels, amount: float, random: RandomState) -> Pixels:
    """Salt and pepper in equal parts, each channel for itself."""
    hit, salt = random.uniform(size=x.shape) < amount, random.uniform(size=x.shape) < 0.5
    return np.where(hit, salt.astype(x.dtype), x)


# ---- blur -----------------------------------------------------------------------------------------------------------
def defocus_blur(x: Pixels, parameters: tuple[float, float], random: RandomState) -> Pixels:
    kernel = _disk(*parameters)
    pad = len(kernel) // 2
    padded = np.pad(x, ((pad, pad), (pad, pad), (0, 0)), mode="reflect" if min(x.shape[:2]) > pad else "symmetric")
    return fftconvolve(padded, kernel[..., None], mode="valid", axes=(0, 1))


def _disk(radius: float, alias: float) -> np.ndarray:
    """A disk of that radius, its edge smoothed by a Gaussian of `alias` pixels (3 or 5 taps); sums to 1."""
    reach = 8 if radius <= 8 else int(radius)
    grid = np.arange(-reach, reach + 1)
    disk = (grid[:, None] ** 2 + grid**2 <= radius**2).astype(float)
    taps = 1 if radius <= 8 else 2
    return _gauss(disk / disk.sum(), alias, taps)


def glass_blur(x: Pixels, parameters: tuple[float, int, int], random: RandomState) -> Pixels:
    """Blur, overwrite each pixel by one at most `reach` away (as the published code does: it meant to swap), blur."""
    sigma, reach, rounds = parameters
    height, width = x.shape[:2]
    order = list(range(height * width))
    rows, columns = range(height - reach, reach, -1), range(width - reach, reach, -1)
    for _ in range(rounds):
        shifts = iter((random.randint(-reach, reach, size=(len(rows) * len(columns), 2)) @ (1, width)).tolist())
        for row in rows:
            for column in columns:
                here = row * width + column
                there = here + next(shifts)
                order[here] = order[there]
    blurred = _gauss(x, sigma).reshape(-1, 3)[order].reshape(x.shape)
    return _gauss(blurred, sigma)


def motion_blur(x: Pixels, parameters: tuple[int, float], random: RandomState) -> Pixels:
    return _motion(x, *parameters, angle=random.uniform(-45, 45))


def zoom_blur(x: Pixels, parameters: tuple[float, float], random: RandomState) -> Pixels:
    zooms = np.arange(1, *parameters)
    return (x + sum(_zoom(x, factor) for factor in zooms)) / (len(zooms) + 1)


# ---- weather --------------------------------------------------------------------------------------------------------
def snow(x: Pixels, parameters: tuple[float, ...], random: RandomState) -> Pixels:
    mean, std, size, threshold, radius, sigma, keep = parameters
    flakes = _zoom(random.normal(mean, std, size=x.shape[:2])[..., None], size)
    flakes = np.clip(np.where(flakes < threshold, 0, flakes), 0, 1)
    flakes = np.clip(_motion(flakes, int(radius), sigma, angle=random.uniform(-135, -45)), 0, 1)
    grey = x @ np.array([[0.299], [0.587], [0.114]])
    return keep * x + (1 - keep) * np.maximum(x, grey * 1.5 + 0.5) + flakes + np.rot90(flakes, 2)


def frost(x: Pixels, parameters: tuple[float, float], random: RandomState) -> Pixels:
    """Bluish white needles along the ridges of a fractal, in place of the published photographs of frost."""
    keep, amount = parameters
    height = plasma_fractal(max(x.shape[:2]), 1.8, random)[: x.shape[0], : x.shape[1]]
    ridges = 1 - np.abs(2 * height - 1)
    needles = 0.5 * ridges + 0.5 * ridges**6
    return keep * x + amount * needles[..., None] * np.array([0.85, 0.95, 1.0])


def fog(x: Pixels, parameters: tuple[float, float], random: RandomState) -> Pixels:
    amount, decay = parameters
    mist = plasma_fractal(max(x.shape[:2]), decay, random)[: x.shape[0], : x.shape[1]]
    return (x + amount * mist[..., None]) * x.max() / (x.max() + amount)


def brightness(x: Pixels, amount: float, random: RandomState) -> Pixels:
    """HSV's value (the largest channel) plus `amount`, hue and saturation kept."""
    value = x.max(-1, keepdims=True)
    brighter = np.clip(value + amount, 0, 1)
    return np.where(value > 0, x * brighter / np.where(value > 0, value, 1), brighter)


# ---- digital --------------------------------------------------------------------------------------------------------
def contrast(x: Pixels, factor: float, random: RandomState) -> Pixels:
    mean = x.mean((0, 1))
    return (x - mean) * factor + mean


def elastic_transform(x: Pixels, parameters: tuple[float, float, float], random: RandomState) -> Pixels:
    """A random affine map of three points, then a smooth random displacement; lengths in shorter sides."""
    height, width = x.shape[:2]
    alpha, sigma, shift = (value * min(height, width) for value in parameters)
    centre, third = np.array([height, width]) // 2, min(height, width) // 3
    points = centre + third * np.array([[1, 1], [1, -1], [-1, -1]])
    moved = points + random.uniform(-shift, shift, size=points.shape)
    affine = np.linalg.solve(np.c_[moved, np.ones(3)], points)  # from the new place to where it is read
    grid = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), -1)
    noise = random.uniform(-1, 1, size=(2, height, width))
    waves = [gaussian_filter(n, sigma, mode="reflect", truncate=3) * alpha if sigma else n * 0 for n in noise]
    mapped = _read(x, np.concatenate([grid, np.ones((height, width, 1))], -1) @ affine, "mirror")
    return _read(mapped, grid + np.stack(waves, -1), "reflect")


def pixelate(x: Pixels, factor: float, random: RandomState) -> Pixels:
    picture = _picture(x)
    small = picture.resize([max(1, int(side * factor)) for side in picture.size], Image.Resampling.BOX)
    return np.asarray(small.resize(picture.size, Image.Resampling.BOX)) / 255


def jpeg_compression(x: Pixels, quality: int, random: RandomState) -> Pixels:
    file = BytesIO()
    _picture(x).save(file, "JPEG", quality=quality)
    with Image.open(file) as picture:
        return np.asarray(picture) / 255


# ---- helpers --------------------------------------------------------------------------------------------------------
def plasma_fractal(side: int, decay: float, random: RandomState) -> np.ndarray:
    """(n, n) heights in [0, 1] by the diamond-square algorithm on a torus, n the power of two from `side` up."""
    n = 1 << max(1, (side - 1).bit_length())
    heights, step, wobble = np.zeros((n, n)), n, 100.0

    def mean(sums: np.ndarray) -> np.ndarray:
        return sums / 4 + wobble * random.uniform(-wobble, wobble, size=sums.shape)

    while step >= 2:
        half = step // 2
        corners = heights[::step, ::step]
        pairs = corners + np.roll(corners, -1, 0)
        heights[half::step, half::step] = mean(pairs + np.roll(pairs, -1, 1))
        centres = heights[half::step, half::step]
        rows = centres + np.roll(centres, 1, 0) + corners + np.roll(corners, -1, 1)
        columns = centres + np.roll(centres, 1, 1) + corners + np.roll(corners, -1, 0)
        heights[::step, half::step], heights[half::step, ::step] = mean(rows), mean(columns)
        step, wobble = half, wobble / decay
    heights -= heights.min()
    return heights / heights.max()


def _motion(x: Pixels, radius: int, sigma: float, angle: float) -> Pixels:
    """ImageMagick's motion blur: 2 r + 1 taps of one half of a Gaussian, from each pixel on in one direction."""
    taps = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2 * sigma**2))
    dy, dx = np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle))
    reach, (height, width) = len(taps), x.shape[:2]
    padded = np.pad(x, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    total = np.zeros_like(x)
    for i, tap in enumerate(taps / taps.sum()):
        top, left = reach + round(i * dy), reach + round(i * dx)
        total += tap * padded[top : top + height, left : left + width]
    return total


def _zoom(x: Pixels, factor: float) -> Pixels:
    """The middle of the picture enlarged to its whole size."""
    height, width = x.shape[:2]
    rows, columns = int(np.ceil(height / factor)), int(np.ceil(width / factor))
    top, left = (height - rows) // 2, (width - columns) // 2
    size = (round(rows * factor), round(columns * factor))
    middle = from_numpy(x[top : top + rows, left : left + columns].transpose(2, 0, 1)[None])
    large = F.interpolate(middle, size, mode="bilinear", align_corners=True)[0].numpy().transpose(1, 2, 0)
    top, left = (large.shape[0] - height) // 2, (large.shape[1] - width) // 2
    return large[top : top + height, left : left + width]


def _gauss(x: Pixels, sigma: float, taps: int | None = None) -> Pixels:
    """Gaussian over rows and columns; `taps` on each side, else 4 sigma."""
    if taps is None:
        return gaussian_filter(x, sigma, mode="nearest", axes=(0, 1))
    return gaussian_filter(x, sigma, mode="mirror", radius=taps, axes=(0, 1))


def _read(x: Pixels, places: np.ndarray, mode: str) -> Pixels:
    """x at (H, W, 2) fractional places, linear."""
    where = places.transpose(2, 0, 1)
    return np.stack([map_coordinates(x[..., c], where, order=1, mode=mode) for c in range(3)], -1)


def _picture(x: Pixels) -> Image.Image:
    pixels: Any = np.rint(x * 255).astype(np.uint8)
    return Image.fromarray(pixels)
