"""A model asked about one picture, before and after a prompt: what `python -m experiments.ask` does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from datamodules.rows import check_candidates
from lightning_modules.apply_prompt import fit_picture, load_picture
from lightning_modules.artefact import read_manifest
from lightning_modules.prompts import Prompt
from model_zoo.base import MLLM
from model_zoo.registry import load_mllm


def show_answers(options: Any) -> None:
    """Print a free answer for each input, or what the model makes of each candidate.

    options: as `experiments.ask.Options`.
    """
    prompt, manifest = Prompt.load(options.prompt, reading=options.reading), read_manifest(options.prompt)
    names, frames = build_inputs(prompt, load_picture(options.image), fit=options.fit)
    candidates = [text.strip() for text in options.candidates]
    if candidates:
        check_candidates(candidates, "candidates=")
    device = find_device(options.device)
    with Console(stderr=True).status(f"Loading {options.mllm}"):
        mllm = load_mllm(options.mllm, weights=options.weights, dtype=options.dtype).to(device)
    print(f"{options.mllm}: {options.question}")
    if options.reading == "png" and manifest.get("png_clamped_fraction", 0) > 0:
        share = manifest["png_clamped_fraction"]
        print(f"Note: the PNG clamps {share:.0%} of this unbounded border; reading=float is the prompt as trained.")
    if candidates:
        print_scores(names, ask_candidates(mllm, frames, options.question, candidates), candidates)
        return
    decoding = {"max_new_tokens": options.max_new_tokens} | ({"num_beams": options.beams} if options.beams else {})
    questions = [options.question] * len(frames)
    with torch.inference_mode():
        answers = mllm.generate(frames.to(mllm.device), questions, style=options.style, **decoding)
    for name, answer in zip(names, answers, strict=True):
        print(f"  {name:<14}{answer}")


def build_inputs(prompt: Prompt, photo: Any, *, fit: str) -> tuple[list[str], Tensor]:
    """Names and frames (N, 3, frame, frame): full picture, black border (of prompts that shrink it), prompted."""

    def fitted(size: int) -> Tensor:
        return pil_to_tensor(fit_picture(photo, size, fit=fit))[None]

    with torch.no_grad():
        small = fitted(prompt.image_size)
        inputs = {"full picture": fitted(prompt.frame), "black border": prompt.blank(small), "prompted": prompt(small)}
    if prompt.lowest < 0:
        del inputs["black border"]  # what is added to pixels has no border of its own: it is the full picture
    return list(inputs), torch.cat(list(inputs.values()))


def pil_to_tensor(picture: Any) -> Tensor:
    """PIL RGB -> (3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


def ask_candidates(mllm: MLLM, frames: Tensor, question: str, candidates: Sequence[str]) -> list[list[float]]:
    """Mean log-likelihood of each candidate for each frame."""
    with torch.inference_mode():
        return mllm.score(frames.to(mllm.device), [question] * len(frames), list(candidates)).cpu().tolist()


def print_scores(names: Sequence[str], scores: Sequence[Sequence[float]], candidates: Sequence[str]) -> None:
    """One row a candidate, one column an input; the best of each column carries a star."""
    width = max(16, *(len(text) + 2 for text in candidates))
    print("  " + " " * width + "".join(f"{name:>16}" for name in names))
    for k, text in enumerate(candidates):
        cells = (f"{row[k]:.3f}{'*' if row[k] == max(row) else ' '}" for row in scores)
        print(f"  {text:<{width}}" + "".join(f"{cell:>16}" for cell in cells))
    print("  (mean log-likelihood of the answer's tokens; * the model's choice)")


def find_device(name: str) -> str:
    """`auto` is cuda where there is one. Raises ValueError for a device this machine does not have."""
    kind = name.split(":")[0]
    have = ["cpu"] + ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()
    if kind not in ["auto", *have]:
        raise ValueError(f"No device '{name}' here. Available: auto, {', '.join(have)}.")
    return ("cuda" if "cuda" in have else "cpu") if kind == "auto" else name
