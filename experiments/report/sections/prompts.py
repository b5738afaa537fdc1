"""Pictures of prompts: as it is, a corner magnified, its spectrum, its values."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
from PIL import Image

from experiments.report.charts import histogram
from experiments.report.load import CellKey, Material, Run, first_seeds, read_prompt
from experiments.report.numbers import change, is_own, method_order, short
from experiments.report.sections.gallery import LARGE, Picture, inline
from lightning_modules.vocabulary import CONTROL_NAMES

CORNER = 24
"""Pixels of the border's top left corner that are shown magnified."""


def prompts_section(material: Material) -> list[dict[str, Any]]:
    """A card for each source and data set: the main method's prompt with details, the other methods' beside it."""
    cards: list[dict[str, Any]] = []
    for cell in first_seeds(material.cells()):
        prompt = read_prompt(material.runs[cell]) if cell.method == material.method and cell in material.runs else None
        if prompt is not None:
            cards.append(_card(material, cell, prompt, f"p{len(cards)}h"))
    return cards


def _card(material: Material, cell: CellKey, prompt: Any, name: str) -> dict[str, Any]:
    delta, title = prompt.delta.detach().numpy(), f"{short(cell.source)}, {cell.data}"
    beside = [_thumbnail(run, read_prompt(run)) for run in _other_methods(material, cell)]
    corner = as_picture(delta[:, :CORNER, :CORNER], prompt.lowest < 0)
    wave = "Log magnitude of the Fourier transform, low frequencies in the middle"
    return {
        "title": title,
        "thumbnails": [_thumbnail(material.runs[cell], prompt, main=True), *(one for one in beside if one)],
        "views": [
            ("corner magnified", inline(corner, f"The top left {CORNER} pixels, magnified")),
            ("spectrum", inline(spectrum(delta), wave)),
        ],
        "gains": _gains(material, cell),
        "histogram": _histogram(prompt, delta, name, title),
        "facts": facts(prompt, delta),
    }


def _other_methods(material: Material, cell: CellKey) -> list[Run]:
    """Runs of the other learned methods on the same source, data set and seed, in the methods' order."""
    methods = method_order(other.method for other in material.runs)
    others = [cell._replace(method=method) for method in methods if method not in (cell.method, "none")]
    return [material.runs[other] for other in others if other in material.runs]


def _thumbnail(run: Run, prompt: Any, *, main: bool = False) -> tuple[str, Picture] | None:
    """(caption, picture); None without a prompt."""
    if prompt is None:
        return None
    image = as_picture(prompt.delta.detach().numpy(), prompt.lowest < 0)
    large = image.width > LARGE
    if large and not main:
        image = image.resize((LARGE, LARGE), Image.Resampling.LANCZOS)
    alt = f"Prompt of {run.cell.method} learned on {short(run.cell.source)}, {run.cell.data}, seed {run.cell.seed}"
    return f"{run.cell.method}, seed {run.cell.seed}", inline(image, alt, lossy=large)


def as_picture(delta: np.ndarray, signed: bool) -> Image.Image:
    """(3, H, W) -> RGB; signed: [-1, 1] with 0 as grey, for what is added to a picture."""
    values = 0.5 + delta / 2 if signed else delta
    return Image.fromarray((255 * values.clip(0, 1)).round().astype(np.uint8).transpose(1, 2, 0).copy())


def spectrum(delta: np.ndarray) -> Image.Image:
    """Log magnitude of the 2-D Fourier transform, mean over colours, zero frequency in the middle, in 8-bit cividis."""
    magnitude = np.fft.fftshift(np.abs(np.fft.fft2(delta.astype(np.float64))), axes=(1, 2)).mean(0)
    log = np.log10(magnitude + 1e-3)
    low, high = np.quantile(log, [0.01, 1.0])
    grey = (255 * ((log - low) / max(high - low, 1e-9)).clip(0, 1)).round().astype(np.uint8)
    image = Image.fromarray(grey)
    if image.width > LARGE:
        image = image.resize((LARGE, LARGE), Image.Resampling.BOX)
    colours = (255 * matplotlib.colormaps["cividis"](np.linspace(0, 1, 256))[:, :3]).round().astype(np.uint8)
    image = image.copy()
    image.putpalette(colours.tobytes())
    return image


def border_values(prompt: Any, delta: np.ndarray) -> np.ndarray:
    """(3, P) the trained pixels."""
    return delta[:, prompt.mask[0].numpy() > 0]


def _histogram(prompt: Any, delta: np.ndarray, name: str, title: str) -> str:
    values = border_values(prompt, delta)
    low = prompt.lowest
    limits = (min(low, float(values.min())), max(1.0, float(values.max())))
    return histogram(name, f"Values of the border's pixels of {title}, by colour", list(values), limits)


def facts(prompt: Any, delta: np.ndarray) -> str:
    """Size, range, saturation and roughness of the border in one sentence."""
    values = border_values(prompt, delta)
    at_ends = float(((values <= prompt.lowest) | (values >= 1)).mean())
    steps = np.abs(np.diff(delta, axis=2))[:, : prompt.pad].mean()
    what = (
        f"border {prompt.pad} px" if prompt.kind in ("pad", "overlay") else f"{prompt.kind} prompt, pad {prompt.pad} px"
    )
    return (
        f"Frame {prompt.frame}, {what}, bounds {prompt.bounds}; values {values.min():.2f} to "
        f"{values.max():.2f}, mean {values.mean():.2f}, {100 * at_ends:.0f} % of them at an end of the range; mean "
        f"step between neighbouring pixels {steps:.2f}."
    )


def _gains(material: Material, cell: CellKey) -> str:
    pairs = [p for p in material.statistics["pairs"] if (p["source"], p["data"], p["method"]) == cell[:3]]
    parts = []
    for name, own in (("the source itself", True), ("other targets", False)):
        some = [p for p in pairs if is_own(p) == own]
        gains = [p["gains"][material.control]["value"] for p in some if material.control in p["gains"]]
        if gains:
            seeds = len(some[0]["seeds"])
            models = f"{len(gains)} model{'s' * (len(gains) > 1)}"
            parts.append(f"{name} {change(sum(gains) / len(gains))} ({models}, {seeds} seeds, n {some[0]['n']})")
    over = CONTROL_NAMES[material.control]
    return f"Mean gain over the {over} in points: {'; '.join(parts)}." if parts else ""
