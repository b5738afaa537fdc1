"""Train the tiny models of the embedded zoo, and measure their gates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datamodules.writable import note_unwritable_caches, require_writable
from experiments.cli import parse_options, run_command
from experiments.embedded_zoo.gates_text import GATES


@dataclass
class Options:
    """
    python -m experiments.embedded_zoo NAME|all|web|lite [key=value ...]
    python -m experiments.embedded_zoo gates [world=NAME] [n=N] [out=FILE]

    Same seed, same machine: same weights. A file is written after every stage of training; a file that lacks stages is
    continued, a finished one is made anew. `gates` says what the shipped models hold before any prompt (gates --help).
    """

    name: str
    """vit, cnn, clip, embedded_minigpt4 ... (an MLLM needs its tower in out or in the package), or all: the first emoji
    world; web_vit ..., web_clip, web_minigpt4 ..., or web: its successor (several calls at once share the work);
    lite0_llava ..., lite_clip, or lite: the models on pretrained towers; tokenizer writes tokenizer.json and
    lite_tokenizer writes tokenizer_lite.json, of which all others use the package's"""
    out: Path | None = None
    """where the files go (default: model_zoo/embedded/weights)"""
    steps_scale: float = 1.0
    """fraction of every number of steps, for a trial"""
    third_style: bool = True
    """false leaves the derived `sketch` and `sticker` art out of every world"""
    threads: int = 2
    """CPU threads (1 on a busy machine)"""


@dataclass
class GateOptions:
    """
    python -m experiments.embedded_zoo gates [world=NAME] [n=N] [out=FILE]

    Measures every model of a world on its data, before any prompt: border, linear probe, offsets. Prints which gates of
    gates.yaml it passes and which it misses, and writes gates.json, of which the documents make their tables. What was
    scored before is used again. A gate that is missed is no error.
    """

    world: str = "all"
    """a world of gates.yaml, several with commas, or all"""
    n: int = 1000
    """most test rows (0: all)"""
    out: Path = GATES
    """the file that is written; worlds that are not measured stay in it as they are"""
    threads: int = 1
    """CPU threads"""


def main(argv: Sequence[str]) -> int:
    if argv and argv[0] == "gates":
        return main_gates(argv[1:])
    options = parse_options(Options, argv or ["--help"], bare="name")
    if options is None:
        return 0
    from experiments.embedded_zoo.train import train_zoo

    if options.out:
        require_writable(options.out, "the folder of the models", "out=DIR")
    from experiments.embedded_zoo import lite, web

    if options.name in (lite.WHOLE, *lite.lite_names()):
        lite.train_lite(options.name, out=options.out, steps_scale=options.steps_scale, threads=options.threads)
    elif options.name in (web.WHOLE, *web.web_names()):
        web.train_web(options.name, out=options.out, steps_scale=options.steps_scale, threads=options.threads)
    elif options.name == "lite_tokenizer":
        lite.train_lite_tokenizer((options.out or Path()) / "tokenizer_lite.json")
    else:
        train_zoo(**vars(options))
    return 0


def main_gates(argv: Sequence[str]) -> int:
    options = parse_options(GateOptions, argv)
    if options is None:
        return 0
    require_writable(options.out.parent, "the folder of the gates", "out=FILE")
    note_unwritable_caches(("controls", "images"))
    from experiments.embedded_zoo.gates import measure_gates

    measure_gates(options)
    return 0


if __name__ == "__main__":
    run_command(main)
