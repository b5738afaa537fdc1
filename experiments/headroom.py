"""Say before any training what a prompt could win on a data set, and what of it could transfer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from datamodules.writable import note_unwritable_caches, require_writable
from experiments.cli import parse_options, run_command


@dataclass
class Options:
    """
    python -m experiments.headroom data=NAME mllm=NAME[,NAME...] [key=value ...]

    Scores each model at full size and in the three plain borders, then with K offsets fitted on validation labels (the
    most a repair blind to the image can win), then with every other model's offsets; probes the visual tokens; and says
    in words what there is to win. Nothing is trained but the offsets and the probe; scores are kept and used again.
    """

    data: str
    """data set, see `python -m datamodules list`"""
    mllm: tuple[str, ...]
    """one model or several, separated by commas"""
    root: Path = Path("data")
    """folder of the data sets"""
    frame: int = 0
    """pixels a side of what the models get to see (0: what the first model reads)"""
    pad: int = 0
    """width of the border in pixels (0: the paper's share, 30 of 224)"""
    n: int = 1000
    """most test rows (0: all)"""
    n_val: int = 500
    """most validation rows: offsets are fitted and the border's colour is chosen on them (0: all)"""
    n_probe: int = 1000
    """most train rows the probe is fitted on (0: no probe)"""
    weights: Path = Path("weights")
    """folder of published weights"""
    dtype: str = "float32"
    """of the models: float32, bfloat16 or float16"""
    quant: Literal["8bit", "4bit"] | None = None
    """the LLM's linear layers in 8 or 4 bits, CUDA only"""
    device: str = "auto"
    """auto is cuda where there is one, else cpu"""
    batch_size: int = 64
    """most images scored at a time"""
    split_seed: int = 42
    """chooses which rows are held out and sub-sampled"""
    names: str = ""
    """recognition: the words the classes are called by: clean, raw, clip, ..."""
    corruption: str = ""
    """recognition: corruption of the pictures and its severity, e.g. fog:3"""
    max_corrupt: int | float = 0
    """images that cannot be read and may be left out: a number, or a fraction below 1"""
    out: Path | None = None
    """write DIR/headroom.jsonl, of which a sweep's or run's report in DIR makes a section"""


def main(argv: Sequence[str]) -> int:
    options = parse_options(Options, argv)
    if options is None:
        return 0
    if not options.mllm:
        raise ValueError("mllm= names no model. Expected one or several: mllm=NAME,NAME.")
    if options.out:
        require_writable(options.out, "the folder of the rows", "out=DIR")
    note_unwritable_caches(("controls", "images"))
    from experiments.run.headroom import measure_headroom

    measure_headroom(options)
    return 0


if __name__ == "__main__":
    run_command(main)
