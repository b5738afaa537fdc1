"""How far a prompt moves the picture's CLIP feature, and whether towards the right caption."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from experiments.report.load import CellKey
from experiments.why.measure import FULL, batches, blank_key
from experiments.why.swept import Swept
from model_zoo.base import CLIP_MEAN, CLIP_STD, resize_square
from model_zoo.registry import load_clip, missing_clip

SHIFTS = ("moved", "caption", "caption_clean")


@torch.inference_mode()
def measure_clip(swept: Swept, n: int | None, device: str) -> dict[CellKey, dict[str, float]]:
    """Cell -> means over pictures: `moved`, 1 - cosine of the prompted and the prompt's own clean frame's feature;
    `caption` and `caption_clean`, the cosine of either with the right caption's (absent where there are no captions).

    Empty, with a line that says so, where the sweep's CLIP is not here.
    """
    config = swept.parts.config
    if missing_clip(config.method.clip, config.source.weights):
        print(f"No shift of CLIP's features: the CLIP '{config.method.clip}' is not in '{config.source.weights}'.")
        return {}
    clip = load_clip(config.method.clip, weights=config.source.weights).to(device)
    found: dict[CellKey, list[Tensor]] = {cell: [] for cell in swept.prompts}
    for groups in batches(swept, n, "CLIP"):
        clean: dict[tuple, Tensor] = {}
        for cell, prompt in swept.prompts.items():
            batch = groups[prompt.image_size]
            images = batch.images.to(device)
            if (key := blank_key(prompt)) not in clean:
                clean[key] = image_features(clip, images if key == (FULL,) else prompt.blank(images))
            prompted, plain = image_features(clip, prompt(images)), clean[key]
            columns = [1 - (prompted * plain).sum(-1)]
            if all(batch.captions):
                texts = clip.text_features(batch.captions).to(prompted.device)
                columns += [(features * texts).sum(-1) for features in (prompted, plain)]
            found[cell].append(torch.stack(columns, 1).double().cpu())
    return {cell: dict(zip(SHIFTS, torch.cat(parts).mean(0).tolist(), strict=False)) for cell, parts in found.items()}


def image_features(clip: Any, frames: Tensor) -> Tensor:
    """(B, E) normalised image features, as `ClipScorer.similarity` makes them."""
    pixels = resize_square(frames.float(), clip.image_size)
    mean, std = (pixels.new_tensor(v).view(1, 3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    return nn.functional.normalize(clip.model.encode_image((pixels - mean) / std), dim=-1)
