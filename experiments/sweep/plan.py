"""`plan`: the cells of a sweep, what is there of them, and what the rest will cost; nothing is executed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from experiments.run.build import RunParts, build_datamodule, run_length, validation_interval
from experiments.run.memory_plan import memory_plan, planned_sizes, resident_lines
from experiments.sweep.cells import SweepCell, resolved
from experiments.sweep.display import clock
from experiments.sweep.folder import MARKER, States, SweepFolder
from experiments.sweep.identity import identified
from experiments.sweep.prompts import sweep_cells
from experiments.sweep.slots import local_slots
from lightning_modules.vocabulary import SPLITS
from model_zoo.memory.sizes import USUAL
from model_zoo.registry import get_entry

HOW = {
    "measured": "from cells finished in this folder",
    "counted": "updates and rows counted, at rates measured once on 2 CPU cores",
    "assumed": "operations counted, at an ASSUMED 50 TFLOP/s of a GPU",
}


def print_plan(sweep: DictConfig, own: dict[str, Any]) -> int:
    """One line for each source, data set and method: its seeds by state, predicted time of one and memory."""
    try:
        cells, missing = identified(sweep_cells(sweep))
    except FileNotFoundError as error:  # a finished sweep's prompts
        cells, missing = identified(sweep_cells(sweep, planning=True))
        missing = [str(error), *missing]
    states = SweepFolder(own["out"]).states() if (Path(own["out"]) / MARKER).is_file() else States()
    table = Table(title=f"{sweep.sweep}: {len(cells)} cells", title_justify="left")
    for column in ("source", "data", "method", "cells", "one cell takes", "peak memory"):
        table.add_column(column, justify="left" if column in ("source", "data", "method") else "right")
    todo: list[Cost] = []
    runs: list[RunParts] = []
    for kind, group in groupby(cells, key=lambda cell: (cell.source, cell.data, cell.method)):
        first, *rest = group
        config = resolved(first)
        runs.append(RunParts(config))
        cost = predicted(first, config, cells, states)
        counts = Counter(states.of(cell) if cell.id else "missing" for cell in (first, *rest))
        todo += [cost] * (counts["waiting"] + counts["missing"])
        told = ", ".join(f"{n} {state}" for state, n in counts.items())
        table.add_row(*kind, told, clock(cost.seconds), f"{memory_plan(runs[-1]).device / 2**30:.1f} GiB")
    Console(width=None if Console().is_terminal else 160).print(table)
    print("\n".join(["Weights of all models, each part once:", *resident_lines(runs)]))
    print(_total(todo, int(own["jobs"])))
    if missing:
        print("\n".join(["Missing, so that these cells cannot start:", *missing]))
    return 0


def _total(costs: list[Cost], jobs: int) -> str:
    if not costs:
        return "Nothing is left to do."
    slots = jobs or len(local_slots(0, len(costs)))
    seconds = sum(cost.seconds for cost in costs)
    how = "; ".join(HOW[kind] for kind in HOW if kind in {cost.how for cost in costs})
    return f"{len(costs)} cells to do: {clock(seconds)} of one slot, {clock(seconds / slots)} on {slots} ({how})."


# Seconds on one core of a 2-core machine, of a model of a million parameters: fits the worlds embedded (1 M), web (1 M)
# and lite (6 M) to 1.5x when larger ones take more by the root of their size (`slowness`; experiments/LOG.md).
UPDATE = {"tvp": 0.16, "evp": 0.10, "vp": 0.12, "none": 0.0}  # an update of 16 images
ROW = 0.0026  # one test row on one model
START = 6.0  # imports and loading: 8 in a fresh process, 3 in a worker that has them
# Published models: counted operations at a rate we assume, not one we measured.
FLOPS, PASSES = 50e12, {"tvp": 5, "evp": 3, "vp": 3, "none": 0}
TOKENS = 150  # that every weight of a model of unknown sizes reads of a picture and its texts

# (train, test) rows as published; POPE's train is what docs/method.md#data-sets builds.
PUBLISHED_ROWS = {
    "cifar10": (50_000, 10_000), "cifar100": (50_000, 10_000), "imagenette": (9_469, 3_925), "svhn": (73_257, 26_032),
    "eurosat": (21_600, 5_400), "oxford_pets": (3_680, 3_669), "dtd": (3_760, 1_880), "clevr": (70_000, 15_000),
    "fashion_mnist": (60_000, 10_000), "hateful_memes": (8_500, 500), "pope": (36_000, 9_000),
}  # fmt: skip


class Cost(NamedTuple):
    """seconds of one slot; how: `measured` (cells of its kind in this folder), `counted` or `assumed` (a GPU)."""

    seconds: float
    how: str


def predicted(cell: SweepCell, config: DictConfig, cells: Sequence[SweepCell], states: States) -> Cost:
    """The median of finished cells of the same kind, the nearest kind first; else counted work."""
    for kind in (("source", "data", "method"), ("data", "method"), ("method",)):
        same = [c for c in cells if all(getattr(c, key) == getattr(cell, key) for key in kind)]
        if took := states.seconds(same):
            return Cost(median(took), "measured")
    return counted(config)


def counted(config: DictConfig, rows: dict[str, int] | None = None) -> Cost:
    """Updates and scored rows times what one takes. rows: of `count_rows`, where they are known."""
    rows = count_rows(config) if rows is None else rows
    # Training: as many updates as the run itself will do; `none` learns nothing and validates once.
    per_update = config.train.batch_size * config.train.accumulate
    steps_per_epoch = updates_of_an_epoch(config, rows)
    epochs, updates = run_length(config, steps_per_epoch)
    updates = 0 if config.method.name == "none" else updates
    interval = validation_interval(config, steps_per_epoch)
    by_epoch = max(1, epochs // config.train.val_every)
    validations = 1 if not updates else by_epoch if interval is None else math.ceil(updates / interval)
    # Scoring: the controls are left out, as all cells of a sweep share their scores.
    scored = validations * min(config.targets.n or rows["val"], rows["val"])
    n_test = config.data.n_test
    test = rows["test"] if n_test is None else min(n_test, rows["test"])
    models = [config.source.name, *config.targets.names]
    sources = [source.name for source in config.sources] or [config.source.name]
    learned_on = [*sources, *config.method.anchors]
    of_png = models if config.targets.png == "all" else models[:1]
    on_val = models if config.targets.curves else [config.source.name, *config.targets.select]
    if all(get_entry(name).embedded or get_entry(name).served for name in models):
        # The tiny models were timed.
        visits = scored * sum(map(slowness, on_val))
        visits += test * sum(map(slowness, (*models, *of_png)))  # the float prompt and the PNG
        of_update = UPDATE[config.method.name] * per_update / 16 * sum(map(slowness, learned_on))
        return Cost(START + updates * of_update + visits * ROW, "counted")
    # Published models were not timed here: two operations for each multiplication, at an assumed rate.
    passes = PASSES[config.method.name] + (config.train.checkpointing and updates > 0)
    work = updates * per_update * passes * sum(picture_work(name, config, learning=True) for name in learned_on)
    work += scored * sum(picture_work(name, config) for name in on_val)
    work += test * sum(picture_work(name, config) for name in (*models, *of_png))
    return Cost(2 * work / FLOPS, "assumed")


def slowness(name: str) -> float:
    """How many times the seconds of a model of a million parameters a timed model takes."""
    return max(1.0, get_entry(name).parameters / 1e6) ** 0.5


def picture_work(name: str, config: DictConfig, *, learning: bool = False) -> float:
    """Multiplications of one forward of a picture with its texts: an answer while learning, else all candidates.

    Every token meets every weight of its tower or LLM once, and every other token in each layer's attention. A model
    of the hub reads as many tokens as its tiles make.
    """
    group = config.targets if name in config.targets.names else config.source
    entry = get_entry(name)
    weights = str(Path(config.source.weights).resolve())
    sizes = None if entry.embedded or entry.served else planned_sizes(name, weights, group.tiles, config.prompt.frame)
    if sizes is None:
        return TOKENS * entry.parameters
    tower, llm = sizes.vision, sizes.llm
    length = sizes.visual + USUAL.text + (USUAL.answer if learning else USUAL.candidates)
    seen = tower.tokens * (tower.parameters + 2 * tower.layers * tower.tokens * tower.width)
    return seen + length * (llm.linear + 2 * llm.layers * length * llm.inner)


def updates_of_an_epoch(config: DictConfig, rows: dict[str, int]) -> int:
    """How many updates a run makes of its train rows. rows: of `count_rows`."""
    return max(1, rows["train"] // (config.train.batch_size * config.train.accumulate))


def count_rows(config: DictConfig) -> dict[str, int]:
    """Rows of each split: counted where the data is here, else as it was published."""
    datamodule = build_datamodule(config)
    if datamodule.missing():
        return _published_rows(config)
    # Test rows of a run that never reads test are not looked for.
    splits = [split for split in SPLITS if not (split == "test" and config.data.n_test == 0)]
    return {"test": 0} | {split: len(datamodule.rows(split)) for split in splits}


def _published_rows(config: DictConfig) -> dict[str, int]:
    """Rows of a data set that is not here yet, by its publication, less what is held out of train for validation."""
    train, test = PUBLISHED_ROWS[config.data.name]
    wanted = config.data.n_train or train
    return {"train": int(wanted * train if wanted <= 1 else min(wanted, train)), "val": train, "test": test}
