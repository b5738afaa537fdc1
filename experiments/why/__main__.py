"""Say why the prompts of a sweep help or harm, and what foretells it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datamodules.writable import require_writable
from experiments.cli import parse_options, run_command


@dataclass
class Options:
    """
    python -m experiments.why SWEEP [key=value ...]

    Reads the prompts, runs and statistics.json of a finished sweep and measures, on VALIDATION pictures only: how far
    each prompt moves every model's features, layer by layer; how far CLIP's; what waves a frame is made of; which
    parts of it matter; how much of what it does is one shift of all answers; and which of six numbers says best
    which models a prompt helps, chosen on half of the sources and tested on the others.

    Writes why.json, why.md and its charts; a report of the sweep has a section where why.json is beside it. Models are
    loaded one at a time; what is not finished is lost, so a killed measurement begins anew. docs/why.md
    """

    sweep: Path
    """a finished sweep's folder, with statistics.json; `sweep=DIR` says the same as plain DIR. Only read"""
    n: int = 256
    """most validation pictures (0: all)"""
    seeds: tuple[int, ...] = (0, 1)
    """the prompts of these seeds are measured"""
    methods: tuple[str, ...] = ()
    """of these methods only (default: all that learn)"""
    n_occlude: int = 64
    """most pictures on which parts of a frame are blacked out, for the lowest seed (0: none)"""
    occlude_targets: int = 2
    """beside its source, so many models a frame is blacked out on: those that share most and least with the source"""
    half: int = 0
    """seed that draws the half of the sources on which the predictor is chosen"""
    root: Path | None = None
    """folder of the data sets (default: the runs' own)"""
    weights: Path | None = None
    """folder of published weights (default: the runs' own)"""
    batch_size: int = 0
    """most pictures at a time (0: the runs' own train.eval_batch_size)"""
    device: str = "auto"
    """auto is cuda where there is one, else cpu"""
    out: Path | None = None
    """folder of what is written (default: the sweep's)"""


def main(argv: Sequence[str]) -> int:
    options = parse_options(Options, argv, bare="sweep")
    if options is None:
        return 0
    out = options.out or options.sweep
    if options.out or options.sweep.is_dir():
        require_writable(out, "the folder of why.json", "out=DIR")
    from experiments.why.command import explain_sweep

    explain_sweep(options, out)
    return 0


if __name__ == "__main__":
    run_command(main)
