"""Compare what a prompt costs and brings with LoRA and fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datamodules.writable import note_unwritable_caches, require_writable
from experiments.cli import parse_options, require_each_once, run_command, unknown
from experiments.costing.ways import TUNED, WAYS

OURS = ("seed", "out", "resume", "source", "source.name", "sources", "official", "method")
OURS_OF = ("targets.names", "targets.select", "targets.heldout", "targets.curves", "method.name", "log.wandb")


@dataclass
class Options:
    """
    python -m experiments.cost [exp=fashion] [mllm=A,B,...] [seeds=0,1,2] [plan=true] [key=value ...] out=DIR

    Learns one prompt on the first model with the usual trainer and scores it on all. Beside it every model is tuned
    by itself for the same task: by LoRA adapters on the language model's linear layers (library peft), by its connector
    alone, and by all its weights, on whole pictures of the same train rows, with the same batches and number of updates
    and the task's own loss. Validation chooses the learning rate from a grid, with the first seed, and of each training
    the best stop; test is read once, from the stored weights.

    Every training runs in a process of its own, which measures it. Rows go to OUT/cost.jsonl as each is done, sums for
    N models to OUT/cost.json and OUT/cost.md. Killed at any moment, the same command goes on. Any other key=value goes
    to every run (see `python -m experiments.train --help`).

    plan=true prints the table of costs from shapes alone, for published models: exp=cifar10_minigpt4 plan=true.
    """

    exp: str = "fashion"
    """the recipe: data, prompt, batches, number of updates"""
    mllm: tuple[str, ...] = ()
    """models, separated by commas, the prompt's source first (default: the recipe's source and targets; of a plan
    whose recipe has no targets the paper's six)"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """of prompts, order, augmentation and LoRA's start"""
    ways: tuple[str, ...] = tuple(WAYS)
    """what is compared: prompt always, and any of lora, connector, full"""
    rank: int = 8
    """of LoRA"""
    alpha: int = 16
    """of LoRA, whose product counts alpha / rank"""
    lr_lora: tuple[float, ...] = (3e-3, 1e-2)
    """learning rates of Adam that validation chooses from, for LoRA"""
    lr_connector: tuple[float, ...] = (1e-3, 3e-3)
    """the same for the connector"""
    lr_full: tuple[float, ...] = (1e-4, 3e-4)
    """the same for all weights"""
    keep: bool = False
    """keep the tuned weights in OUT/weights (else their size alone)"""
    plan: bool = False
    """print the costs from shapes, train nothing and read no weights"""
    out: Path | None = None
    """folder of rows, runs and tables (of a plan: where cost_plan.json goes, if anywhere)"""


def main(argv: Sequence[str]) -> int:
    others: list[tuple[str, str]] = []
    options = parse_options(Options, argv, others=others)
    if options is None:
        return 0
    _check(options, others)
    if options.plan:
        from experiments.costing.plan import plan_cost

        plan_cost(options, others)
        return 0
    if options.out is None:
        raise ValueError("Missing out=DIR, the folder of rows and tables. For example: out=runs/cost.")
    require_writable(options.out, "the folder of the comparison", "out=DIR", inside=True)
    note_unwritable_caches(("controls", "images"))
    from experiments.costing.measure import measure_cost

    measure_cost(options, others)
    return 0


def _check(options: Options, others: Sequence[tuple[str, str]]) -> None:
    """Raises: ValueError for options without a meaning, and for words that the comparison decides itself."""
    for way in options.ways:
        if way not in WAYS:
            raise unknown("way", way, list(WAYS))
    if "prompt" not in options.ways:
        raise ValueError("ways= lacks prompt, to which the others are compared. Add it.")
    for key in ("rank", "alpha"):
        if getattr(options, key) < 1:
            raise ValueError(f"Expected {key} >= 1, got {key}={getattr(options, key)}.")
    require_each_once(options, ("mllm", "seeds", "ways", *(f"lr_{way}" for way in TUNED)), optional=("mllm",))
    for way in TUNED:
        if min(getattr(options, f"lr_{way}")) <= 0:
            raise ValueError(f"Expected lr_{way} above 0, got {', '.join(map(str, getattr(options, f'lr_{way}')))}.")
    for key, value in others:
        if key in (*OURS, *OURS_OF):
            raise ValueError(
                f"{key}={value} is decided by the comparison. Leave it out (see --help for mllm=, seeds=)."
            )
        if key == "data.n_test" and value == "0":
            raise ValueError("data.n_test=0 leaves test unread, where accuracy comes from. Leave it out.")


if __name__ == "__main__":
    run_command(main)
