"""Pictures for people: a prompt magnified, and a sheet of prompted examples with the answers before and after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lightning_modules.apply_prompt import frame_to_pil
from lightning_modules.prompts import Prompt

EXAMPLES = 12


@torch.no_grad()
def examples(
    callback: Any, prompt: Prompt, split: str = "test"
) -> tuple[torch.Tensor, list[str], list[str], list[str]]:
    """(frames, answers with a black border, answers with the prompt, true answers) of the first samples of a split."""
    records = callback.latest[split][callback.sources[0].name]
    place = {key: i for i, key in enumerate(records["prompt"].ids)}
    data = callback.scorer.datamodule.with_image_size(prompt.image_size)
    batch = next(iter(data.loader(split, n=callback.scorer.sizes[split], batch_size=EXAMPLES)))
    at = [place[key] for key in batch.ids]
    options = batch.candidates or [data.candidates] * len(batch.ids)
    black = records.get("black", records["prompt"]).predictions
    before = [options[row][black[i]] for row, i in enumerate(at)]
    after = [options[row][records["prompt"].predictions[i]] for row, i in enumerate(at)]
    truth = [options[row][int(batch.labels[row])] for row in range(len(at))]
    return prompt(batch.images.to(prompt.delta.device)).cpu(), before, after, truth


RIGHT, WRONG = (22, 120, 60), (190, 30, 40)


def magnify(picture: Tensor | Image.Image, size: int, *, signed: bool = False) -> Image.Image:
    """A frame or delta (3, H, W), or a PIL image, drawn size x size with its pixels kept sharp.

    Args:
        signed: show [-1, 1] with 0 as grey, for what is added to pixels.
    """
    if isinstance(picture, Tensor):
        picture = frame_to_pil(0.5 + picture / 2 if signed else picture)
    shrinking = size < max(picture.size)
    return picture.resize((size, size), Image.Resampling.LANCZOS if shrinking else Image.Resampling.NEAREST)


def contact_sheet(
    frames: Tensor,
    captions_before: Sequence[str],
    captions_after: Sequence[str],
    labels: Sequence[str],
    *,
    columns: int = 6,
    size: int = 160,
    title: str = "",
    names: tuple[str, str] = ("before", "after"),
) -> Image.Image:
    """A grid of prompted examples, each with the true answer and the model's answers before and after.

    Args:
        frames: (N, 3, S, S) prompted frames, nominally in [0, 1]; drawn size x size with sharp pixels.
        captions_before, captions_after: N answers of the model without and with the prompt.
        labels: N true answers. An answer is right when it equals the label but for case and outer spaces; right ones
            are green with a filled dot, wrong ones red with a ring.
        names: the words before the two answers.
    """
    lengths = {len(frames), len(captions_before), len(captions_after), len(labels)}
    if lengths == {0} or len(lengths) > 1:
        raise ValueError(
            f"Got {len(frames)} frames, {len(captions_before)} answers before, {len(captions_after)} after and "
            f"{len(labels)} labels. Expected as many of each, at least one."
        )
    columns = max(1, min(columns, len(frames)))
    line, gap = max(12, size // 10), max(6, size // 16)
    head, width, height = (2 * line if title else 0), size + gap, size + 4 * line + gap
    sheet = Image.new("RGB", (columns * width + gap, head + -(-len(frames) // columns) * height + gap), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(line * 0.85)
    if title:
        draw.text((gap, gap), _shortened(title, font, sheet.width - 2 * gap), "black", font)
    for i, (frame, label) in enumerate(zip(frames, labels, strict=True)):
        x, y = gap + i % columns * width, head + gap + i // columns * height
        sheet.paste(magnify(frame, size), (x, y))
        draw.text((x, y + size + 2), _shortened(label, font, size), "black", font)
        for row, (name, answer) in enumerate(zip(names, (captions_before[i], captions_after[i]), strict=True), start=1):
            right = answer.strip().casefold() == label.strip().casefold()
            _draw_answer(draw, (x, y + size + 2 + row * line), f"{name}: {answer}", right, font, size)
    return sheet


def _draw_answer(draw: ImageDraw.ImageDraw, at: tuple, text: str, right: bool, font: Any, width: int) -> None:
    colour, side = (RIGHT if right else WRONG), int(font.size * 0.6)
    top = at[1] + int(font.size * 0.35)
    draw.ellipse((at[0], top, at[0] + side, top + side), fill=colour if right else None, outline=colour, width=2)
    draw.text((at[0] + side + 4, at[1]), _shortened(text, font, width - side - 4), colour, font)


def _shortened(text: str, font: Any, width: float) -> str:
    """One line of `text`, cut with an ellipsis to `width` pixels."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..."
