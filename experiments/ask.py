"""Ask a model about a picture, before and after a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from experiments.cli import parse_options, run_command

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_modules.prompts import Prompt
    from model_zoo.base import MLLM


@dataclass
class Options:
    """
    python -m experiments.ask prompt=DIR mllm=NAME image=FILE question=TEXT [key=value ...]
        e.g. prompt=runs/embedded/ID/prompt mllm=embedded_blip2 image=cat.jpg question="What is it?"

    Before is twofold: the whole-size picture, and the shrunken picture in a black border (the prompt's own control).
    """

    prompt: Path
    """a prompt artefact (the `prompt` folder of a run)"""
    mllm: str
    """the model to ask, e.g. minigpt4, embedded_blip2"""
    image: Path
    """a picture of any size"""
    question: str
    """raw text; the model's own template is put around it"""
    candidates: tuple[str, ...] = ()
    """a,b,c: the log-likelihood of each answer before and after, instead of free text"""
    style: Literal["infer", "vqa"] = "infer"
    """free answers, or short ones"""
    weights: Path = Path("weights")
    """folder of published weights"""
    dtype: str = "float32"
    """of the model: float32, bfloat16 or float16"""
    device: str = "auto"
    """auto is cuda where there is one, else cpu"""
    reading: Literal["png", "float"] = "png"
    """the 8-bit prompt, or prompt.safetensors"""
    fit: Literal["crop", "letterbox"] = "crop"
    """the centre square of the picture, or all of it between black bars"""
    max_new_tokens: int = 32
    """most tokens of an answer"""
    beams: int = 0
    """beams of the search (0: the model's own number)"""


def main(argv: Sequence[str]) -> int:
    options = parse_options(Options, argv)
    if options is None:
        return 0
    from rich.console import Console

    from lightning_modules.apply_prompt import load_picture
    from lightning_modules.artefact import read_manifest
    from lightning_modules.prompts import Prompt
    from model_zoo.registry import load_mllm

    prompt, manifest = Prompt.load(options.prompt, reading=options.reading), read_manifest(options.prompt)
    names, frames = build_inputs(prompt, load_picture(options.image), fit=options.fit)
    device = find_device(options.device)
    with Console(stderr=True).status(f"Loading {options.mllm}"):
        mllm = load_mllm(options.mllm, weights=options.weights, dtype=options.dtype).to(device)
    candidates = [text.strip() for text in options.candidates if text.strip()]
    print(f"{options.mllm}: {options.question}")
    if options.reading == "png" and manifest.get("png_clamped_fraction", 0) > 0:
        share = manifest["png_clamped_fraction"]
        print(f"Note: the PNG clamps {share:.0%} of this unbounded border; reading=float is the prompt as trained.")
    if candidates:
        print_scores(names, ask_candidates(mllm, frames, options.question, candidates), candidates)
    else:
        decoding = {"max_new_tokens": options.max_new_tokens} | ({"num_beams": options.beams} if options.beams else {})
        print_answers(names, ask_freely(mllm, frames, options.question, options.style, decoding))
    return 0


def build_inputs(prompt: Prompt, photo: Any, *, fit: str) -> tuple[list[str], Tensor]:
    """Names and frames (N, 3, frame, frame): full picture, black border (pad prompts), prompted."""
    import torch

    from lightning_modules.apply_prompt import fit_picture

    def fitted(size: int) -> Tensor:
        return pil_to_tensor(fit_picture(photo, size, fit=fit))[None]

    with torch.no_grad():
        small = fitted(prompt.image_size)
        inputs = {"full picture": fitted(prompt.frame), "black border": prompt.blank(small), "prompted": prompt(small)}
    if prompt.image_size == prompt.frame:
        del inputs["black border"]  # an overlay has no border of its own: it is the full picture
    return list(inputs), torch.cat(list(inputs.values()))


def pil_to_tensor(picture: Any) -> Tensor:
    """PIL RGB -> (3, H, W) float32 in [0, 1]."""
    import numpy as np
    import torch

    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


def ask_freely(mllm: MLLM, frames: Tensor, question: str, style: str, decoding: dict[str, Any]) -> list[str]:
    """One free-text answer for each frame."""
    import torch

    with torch.inference_mode():
        return mllm.generate(frames.to(mllm.device), [question] * len(frames), style=style, **decoding)


def ask_candidates(mllm: MLLM, frames: Tensor, question: str, candidates: Sequence[str]) -> list[list[float]]:
    """Mean log-likelihood of each candidate for each frame."""
    import torch

    with torch.inference_mode():
        return mllm.score(frames.to(mllm.device), [question] * len(frames), list(candidates)).cpu().tolist()


def print_answers(names: Sequence[str], answers: Sequence[str]) -> None:
    for name, answer in zip(names, answers, strict=True):
        print(f"  {name:<14}{answer}")


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
    import torch

    kind = name.split(":")[0]
    have = ["cpu"] + ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()
    if kind not in ["auto", *have]:
        raise ValueError(f"No device '{name}' here. Available: auto, {', '.join(have)}.")
    return ("cuda" if "cuda" in have else "cpu") if kind == "auto" else name


if __name__ == "__main__":
    run_command(main)
