"""Score a finished prompt on any MLLM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from datamodules.whole_files.command_line import suggest
from datamodules.writable import note_unwritable_caches, require_writable
from experiments.cli import parse_options, run_command
from lightning_modules.vocabulary import CONTROLS


@dataclass
class Options:
    """
    python -m experiments.evaluate prompt=DIR mllm=NAME[,NAME...] [key=value ...]

    Scores a prompt artefact, float and as the 8-bit PNG read back from disk, beside the controls, with n and intervals.
    """

    prompt: Path
    """a prompt artefact (the `prompt` folder of a run)"""
    mllm: tuple[str, ...]
    """one model or several, separated by commas"""
    data: str = ""
    """data set (default: the one the prompt was learned on)"""
    root: Path = Path("data")
    """folder of the data sets"""
    split: Literal["val", "test"] = "test"
    """the rows to score"""
    n: int = 0
    """size of a fixed sub-sample (0: all)"""
    controls: tuple[str, ...] = CONTROLS
    """any of these, or none"""
    weights: Path = Path("weights")
    """folder of published weights"""
    dtype: str = "float32"
    """of the models: float32, bfloat16 or float16"""
    quant: Literal["8bit", "4bit"] | None = None
    """the LLM's linear layers in 8 or 4 bits, CUDA only"""
    tiles: Literal["one", "official"] = "official"
    """models of the hub: a picture is one tile, or as many as the official processor cuts"""
    device: str = "auto"
    """auto is cuda where there is one, else cpu"""
    batch_size: int = 64
    """most images scored at a time"""
    official: bool = False
    """reproduce the reference's deviations in adapters and data"""
    split_seed: int = 42
    """chooses which rows are held out and sub-sampled"""
    names: str = ""
    """recognition: the words the classes are called by: clean, raw, clip, ..."""
    corruption: str = ""
    """recognition: corruption of the pictures and its severity, e.g. fog:3"""
    through: tuple[str, ...] = ()
    """what every frame goes through before it is scored: 8bit, jpeg:QUALITY, resize:FACTOR (of the side, and back)"""
    max_corrupt: int | float = 0
    """images that cannot be read and may be left out: a number, or a fraction below 1"""
    scoring: Literal["likelihood", "generate"] = "likelihood"
    """generate lets the model also write its answers and parses them (gen_accuracy, unparsable, ...)"""
    style: Literal["infer", "vqa"] | None = None
    """how it is asked to write (default: vqa, short answers, except for recognition)"""
    max_new_tokens: int = 16
    """most tokens of a written answer"""
    beams: int = 0
    """beams of the search (0: the model's own number)"""
    label_mapping: bool = False
    """also read every score through a one-to-one map from classes to candidates, fitted on the model's own labelled
    validation rows (metric top1_mapped beside top1; recognition only)"""
    out: Path | None = None
    """append rows to DIR/results.jsonl"""


def main(argv: Sequence[str]) -> int:
    options = parse_options(Options, argv)
    if options is None:
        return 0
    if options.out:
        require_writable(options.out, "the folder of the rows", "out=DIR", inside=True)
    note_unwritable_caches(("controls", "images"))
    for name in options.controls:
        if name not in (*CONTROLS, "none"):
            known = ", ".join(CONTROLS)
            raise ValueError(f"Unknown control '{name}'.{suggest(name, CONTROLS)} Available: {known}, none.")
    from experiments.run.scoring import score_prompt

    score_prompt(options)
    return 0


if __name__ == "__main__":
    run_command(main)
