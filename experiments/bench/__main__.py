"""Time ranking and training against the naive protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datamodules.writable import require_writable
from experiments.cli import parse_options, run_command


@dataclass
class Options:
    """
    python -m experiments.bench [out=FILE.json] [batch=N] [repeats=5] [only=NAME]

    Medium-size random models, 224 px frames: seconds of one ranking pass (2, 10, 45, 100 candidates) and of one
    training step (plain, FCA + TSE, FCA + TSE with cached clean features), in ours, in the naive protocol (what the
    reference does to compute the same) and at the floor (one vision encode and one prefix forward). Both are checked to
    compute the same to 1e-4 before they are timed, in turns. Then five tiny models of the hub rank 100 candidates,
    beside their own forward, one candidate at a time, and an epoch over the paper's six models is timed with one loaded
    at a time and with all resident, shared weights once. About 18 minutes on two cores.
    """

    out: Path | None = None
    """a JSON file with {device, threads, torch, rows, rss}; the table goes beside it as .txt"""
    batch: int = 0
    """pictures (0: 4 for ranking, 2 for training)"""
    repeats: int = 5
    """passes of which the median counts, where one naive pass takes under 4 s; else one pass"""
    only: str = ""
    """an architecture (minigpt4 instructblip blip2_t5 blip2_opt vpgtrans bliva visualglm), a path (rank train_plain
    train_fca_tse train_fca_tse_cached), hub (tiny models of the hub), targets (six models resident), rss (peak memory),
    or gpu (the published 7B shapes with random weights, and six of them resident at once scoring 500 frames; its JSON
    has the GPU's rows)"""


def main(argv: Sequence[str], size: str = "MEDIUM") -> int:
    """`size` names another size of `bench_models`, for tests."""
    options = parse_options(Options, argv)
    if options is None:
        return 0
    if options.out:
        require_writable(options.out.parent, "the folder of the numbers", "out=FILE")
        options.out.parent.mkdir(parents=True, exist_ok=True)
    if options.batch < 0 or options.repeats < 1:
        raise ValueError(f"Expected batch >= 1 and repeats >= 1, got batch={options.batch} repeats={options.repeats}.")
    if options.only == "gpu":  # alone: a bare GPU machine could not import what the rest needs
        from experiments.bench.gpu import run_gpu

        run_gpu(options.out, batch=options.batch, repeats=options.repeats)
    else:
        from experiments.bench.command import run_bench

        run_bench(**vars(options), size=size)
    return 0


if __name__ == "__main__":
    run_command(main)
