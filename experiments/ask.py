"""Ask a model about a picture, before and after a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from experiments.cli import parse_options, run_command


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
    from experiments.run.asking import show_answers

    show_answers(options)
    return 0


if __name__ == "__main__":
    run_command(main)
