"""A learned frame by itself: what waves it is made of, and the parts that can be blacked out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from lightning_modules.prompts import Prompt

LOW, HIGH = 1 / 8, 1 / 4
"""Bounds of the bands in cycles a pixel: waves longer than 8 pixels, those in between, those of 4 and shorter."""
BANDS = ("flat", "low", "mid", "high")


def spectrum(prompt: Prompt) -> dict[str, float]:
    """The frame's `rms` (values, colour by colour), and the share of its power in each of BANDS; they add up to 1.

    flat: the mean of a strip, a constant colour. The border is taken as four strips (the corners belong to top and
    bottom), so that the hole in the middle is no edge; of other kinds the smallest rectangle around what is learned.
    A frame of zeros has no power: all shares are 0.
    """
    delta, power = prompt.delta.detach().double().cpu().numpy(), dict.fromkeys(BANDS, 0.0)
    mask = prompt.mask[0].cpu().numpy() > 0
    for rows, columns in _strips(mask, prompt.pad):
        for band, value in _powers(delta[:, rows, columns]).items():
            power[band] += value
    total = sum(power.values())
    rms = float(np.sqrt(np.square(delta[:, mask]).mean()))
    return {"rms": rms} | {band: value / total if total else 0.0 for band, value in power.items()}


def _strips(mask: np.ndarray, pad: int) -> list[tuple[slice, slice]]:
    size, inner = len(mask), slice(pad, len(mask) - pad)
    border = np.ones_like(mask)
    border[inner, inner] = False
    first, last = slice(0, pad), slice(size - pad, size)
    if (mask == border).all():
        return [(first, slice(None)), (last, slice(None)), (inner, first), (inner, last)]
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return [(slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))]


def _powers(strip: np.ndarray) -> dict[str, float]:
    """Band -> power of (3, H, W) values; together the sum of their squares (Parseval)."""
    height, width = strip.shape[1:]
    power = (np.abs(np.fft.fft2(strip)) ** 2).sum(0) / (height * width)
    wave = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    places = {"flat": wave == 0, "low": (wave > 0) & (wave < LOW), "mid": (wave >= LOW) & (wave < HIGH)}
    places["high"] = wave >= HIGH
    return {band: float(power[place].sum()) for band, place in places.items()}


def segments(frame: int, pad: int) -> dict[str, Tensor]:
    """Name -> (1, frame, frame) mask of 1.0 in it: the four corners and the four sides between them."""
    bands = {"top": slice(0, pad), "": slice(pad, frame - pad), "bottom": slice(frame - pad, frame)}
    sides = {"left": bands["top"], "": bands[""], "right": bands["bottom"]}
    found = {}
    for row, rows in bands.items():
        for column, columns in sides.items():
            if row or column:
                mask = torch.zeros(1, frame, frame)
                mask[:, rows, columns] = 1
                found[f"{row} {column}".strip()] = mask
    return found


def occluded(prompt: Prompt) -> Iterator[tuple[str, Tensor]]:
    """(name, delta with that segment zero) of every segment in which something is learned.

    Zero is black where the frame is a border, and the picture's own pixels where it is added to them.
    """
    for name, mask in segments(prompt.frame, prompt.pad).items():
        if (mask.to(prompt.mask) * prompt.mask).any():
            yield name, prompt.delta.detach() * (1 - mask.to(prompt.delta))
