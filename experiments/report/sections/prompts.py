"""Pictures of prompts: as it is, a corner magnified, its spectrum, its values."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from experiments.report.charts import histogram
from experiments.report.load import CellKey, Material, Run
from experiments.report.markup import LARGE, details, legend, picture
from experiments.report.numbers import CONTROL_NAMES, change, is_own, method_order, short

CORNER = 24
"""Pixels of the border's top left corner that are shown magnified."""


def prompts_section(material: Material) -> str:
    """A card for each source and data set: the main method's prompt with details, the other methods' beside it."""
    cards = []
    for cell in first_seeds(material.cells()):
        if cell.method == material.method and cell in material.runs:
            others = [
                run
                for other, run in material.runs.items()
                if (other.source, other.data, other.seed) == (cell.source, cell.data, cell.seed)
                and other.method not in (cell.method, "none")
            ]
            order = method_order(run.cell.method for run in others)
            others = sorted(others, key=lambda run: order.index(run.cell.method))
            cards.append(_card(material, material.runs[cell], others, f"p{len(cards)}"))
    cards = [card for card in cards if card]
    if not cards:
        return '<p class="none">No prompt could be read from the run folders.</p>'
    return f'<div class="cards">{"".join(cards)}</div>'


def first_seeds(cells: Sequence[CellKey]) -> list[CellKey]:
    """Of every (source, data, method) the lowest seed."""
    first: dict[tuple[str, str, str], CellKey] = {}
    for cell in sorted(cells):
        first.setdefault(cell[:3], cell)
    return list(first.values())


def load(run: Run) -> Any:
    """The run's prompt, or None where there is none that can be read."""
    from lightning_modules.artefact import load_prompt

    try:
        return load_prompt(run.folder / "prompt")
    except (OSError, ValueError):
        return None


def _card(material: Material, run: Run, others: Sequence[Run], name: str) -> str:
    prompt = load(run)
    if prompt is None:
        return ""
    cell, delta = run.cell, prompt.delta.detach().numpy()
    signed = prompt.kind == "overlay"
    title = f"{short(cell.source)}, {cell.data}"
    beside = "".join(_thumbnail(other) for other in others)
    views = _view(corner(delta, signed), "corner magnified", f"The top left {CORNER} pixels, magnified")
    views += _view(spectrum(delta), "spectrum", "Log magnitude of the Fourier transform, low frequencies in the middle")
    values = legend([(5, "red"), (6, "green"), (7, "blue")], marks=False) + _histogram(prompt, delta, f"{name}h", title)
    inside = f'<div class="views">{views}</div>{values}<p>{escape(facts(prompt, delta))}</p>'
    return (
        f'<article class="card"><h3>{escape(title)}</h3>'
        f'<div class="thumbs">{_thumbnail(run, prompt, main=True)}{beside}</div>'
        f"<p>{escape(_gains(material, cell))}</p>{details('Corner, spectrum and values', inside)}</article>"
    )


def _thumbnail(run: Run, prompt: Any = None, *, main: bool = False) -> str:
    prompt = prompt if prompt is not None else load(run)
    if prompt is None:
        return ""
    image = as_picture(prompt.delta.detach().numpy(), prompt.kind == "overlay")
    large = image.width > LARGE
    if large and not main:
        image = image.resize((LARGE, LARGE), Image.Resampling.LANCZOS)
    alt = f"Prompt of {run.cell.method} learned on {short(run.cell.source)}, {run.cell.data}, seed {run.cell.seed}"
    shown = picture(image, alt, classes="pixels main" if main else "pixels", lossy=large)
    return f"<figure>{shown}<figcaption>{escape(run.cell.method)}, seed {run.cell.seed}</figcaption></figure>"


def _view(image: Image.Image, caption: str, alt: str) -> str:
    return f"<figure>{picture(image, alt, classes='pixels view')}<figcaption>{escape(caption)}</figcaption></figure>"


def as_picture(delta: np.ndarray, signed: bool) -> Image.Image:
    """(3, H, W) -> RGB; signed: [-1, 1] with 0 as grey, for what is added to a picture."""
    values = 0.5 + delta / 2 if signed else delta
    return Image.fromarray((255 * values.clip(0, 1)).round().astype(np.uint8).transpose(1, 2, 0).copy())


def corner(delta: np.ndarray, signed: bool) -> Image.Image:
    return as_picture(delta[:, :CORNER, :CORNER], signed)


def spectrum(delta: np.ndarray) -> Image.Image:
    """Log magnitude of the 2-D Fourier transform, mean over colours, zero frequency in the middle, in 8-bit cividis."""
    import matplotlib

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
    low = 0.0 if prompt.kind == "pad" else -1.0
    limits = (min(low, float(values.min())), max(1.0, float(values.max())))
    return histogram(name, f"Values of the border's pixels of {title}, by colour", list(values), limits)


def facts(prompt: Any, delta: np.ndarray) -> str:
    """Size, range, saturation and roughness of the border in one sentence."""
    values = border_values(prompt, delta)
    low = 0.0 if prompt.kind == "pad" else -1.0
    at_ends = float(((values <= low) | (values >= 1)).mean())
    steps = np.abs(np.diff(delta, axis=2))[:, : prompt.pad].mean()
    return (
        f"Frame {prompt.frame}, border {prompt.pad} px, bounds {prompt.bounds}; values {values.min():.2f} to "
        f"{values.max():.2f}, mean {values.mean():.2f}, {100 * at_ends:.0f} % of them at an end of the range; mean "
        f"step between neighbouring pixels {steps:.2f}."
    )


def _gains(material: Material, cell: CellKey) -> str:
    pairs = [p for p in material.statistics["pairs"] if (p["source"], p["data"], p["method"]) == cell[:3]]
    parts = []
    for name, some in (
        ("the source itself", [p for p in pairs if is_own(p)]),
        ("other targets", [p for p in pairs if not is_own(p)]),
    ):
        gains = [p["gains"][material.control]["value"] for p in some if material.control in p["gains"]]
        if gains:
            seeds = len(some[0]["seeds"])
            models = f"{len(gains)} model{'s' * (len(gains) > 1)}"
            parts.append(f"{name} {change(sum(gains) / len(gains))} ({models}, {seeds} seeds, n {some[0]['n']})")
    over = CONTROL_NAMES[material.control]
    return f"Mean gain over the {over} in points: {'; '.join(parts)}." if parts else ""
