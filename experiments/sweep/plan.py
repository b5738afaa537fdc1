"""`plan`: the cells of a sweep, what is there of them, and what the rest will cost; nothing is executed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from omegaconf import DictConfig

from experiments.sweep.cells import SweepCell, build_cells, identified, resolved
from experiments.sweep.display import clock
from experiments.sweep.folder import MARKER, SweepFolder

HOW = {
    "measured": "from cells finished in this folder",
    "counted": "updates and rows counted, at rates measured once on 2 CPU cores",
    "assumed": "operations counted, at an ASSUMED 50 TFLOP/s of a GPU",
}


def print_plan(sweep: DictConfig, own: dict[str, Any]) -> int:
    """One line for each source, data set and method: its seeds by state, predicted time of one and memory."""
    from rich.console import Console
    from rich.table import Table

    cells, missing = identified(build_cells(sweep))
    states = SweepFolder(own["out"]).states() if (Path(own["out"]) / MARKER).is_file() else {}
    table = Table(title=f"{sweep.sweep}: {len(cells)} cells", title_justify="left")
    for column in ("source", "data", "method", "cells", "one cell takes", "peak memory"):
        table.add_column(column, justify="left" if column in ("source", "data", "method") else "right")
    todo: list[Cost] = []
    for key, group in _groups(cells).items():
        config = resolved(group[0])
        cost, states_of = predicted(group[0], config, cells, states), _states(group, states)
        todo += [cost] * (states_of["waiting"] + states_of["missing"])
        counted = ", ".join(f"{n} {state}" for state, n in states_of.items())
        table.add_row(*key, counted, clock(cost.seconds), f"{memory(config) / 2**30:.1f} GiB")
    Console(width=None if Console().is_terminal else 160).print(table)
    print(_total(todo, int(own["jobs"])))
    if missing:
        print("\n".join(["Missing, so that these cells cannot start:", *missing]))
    return 0


def _groups(cells: list[SweepCell]) -> dict[tuple[str, str, str], list[SweepCell]]:
    groups = defaultdict(list)
    for cell in cells:
        groups[cell.source, cell.data, cell.method].append(cell)
    return groups


def _states(cells: list[SweepCell], states: dict[str, dict]) -> Counter[str]:
    return Counter("missing" if c.id is None else states.get(c.id, {}).get("state", "waiting") for c in cells)


def _total(costs: list[Cost], jobs: int) -> str:
    if not costs:
        return "Nothing is left to do."
    from experiments.sweep.slots import local_slots

    slots = jobs or len(local_slots(0, len(costs)))
    seconds = sum(cost.seconds for cost in costs)
    how = "; ".join(HOW[kind] for kind in HOW if kind in {cost.how for cost in costs})
    return f"{len(costs)} cells to do: {clock(seconds)} of one slot, {clock(seconds / slots)} on {slots} ({how})."


# Seconds on one core of a 2-core machine, embedded zoo, one run each (experiments/LOG.md, 2026-11-23).
UPDATE = {"tvp": 0.16, "evp": 0.10, "vp": 0.12, "none": 0.0}  # an update of 16 images
ROW = 0.0036  # one test row of 16 candidates on one model
START = 6.0  # imports and loading
# Published models: counted operations at a rate we assume, not one we measured.
FLOPS, TOKENS, PASSES = 50e12, 150, {"tvp": 5, "evp": 3, "vp": 3, "none": 0}

# (train, test) rows as published; POPE's train is what docs/method.md#data-sets builds.
PUBLISHED_ROWS = {
    "cifar10": (50_000, 10_000), "cifar100": (50_000, 10_000), "imagenette": (9_469, 3_925), "svhn": (73_257, 26_032),
    "eurosat": (21_600, 5_400), "oxford_pets": (3_680, 3_669), "dtd": (3_760, 1_880), "clevr": (70_000, 15_000),
    "hateful_memes": (8_500, 500), "pope": (36_000, 9_000),
}  # fmt: skip


class Cost(NamedTuple):
    """seconds of one slot; how: `measured` (cells of its kind in this folder), `counted` or `assumed` (a GPU)."""

    seconds: float
    how: str


def predicted(cell: SweepCell, config: DictConfig, cells: Sequence[SweepCell], states: Mapping[str, dict]) -> Cost:
    """The median of finished cells of the same kind, the nearest kind first; else counted work."""
    for kind in (("source", "data", "method"), ("data", "method"), ("method",)):
        same = [c for c in cells if all(getattr(c, key) == getattr(cell, key) for key in kind)]
        took = [row["seconds"] for c in same if (row := states.get(c.id, {})).get("state") == "finished"]
        if took:
            return Cost(median(took), "measured")
    return counted(config)


def counted(config: DictConfig) -> Cost:
    """Updates and scored rows times what one takes."""
    from experiments.run.build import build_datamodule, run_length
    from model_zoo.registry import get_entry

    datamodule = build_datamodule(config)
    if datamodule.missing():
        rows = _published_rows(config)
    else:
        rows = {split: len(datamodule.rows(split)) for split in ("train", "val", "test")}
    per_update = config.train.batch_size * config.train.accumulate
    epochs, updates = run_length(config, max(1, rows["train"] // per_update))
    updates = 0 if config.method.name == "none" else updates
    validations = max(1, epochs // config.train.val_every) if updates else 1
    scored = validations * min(config.targets.n or rows["val"], rows["val"])
    scored += 2 * min(config.data.n_test or rows["test"], rows["test"])  # the float prompt and the PNG
    models = [config.source.name, *config.targets.names]
    if all(get_entry(name).embedded for name in models):
        seconds = START + updates * UPDATE[config.method.name] * per_update / 16 + scored * ROW * len(models)
        return Cost(seconds, "counted")
    size = {name: get_entry(name).parameters for name in models}
    work = updates * per_update * PASSES[config.method.name] * size[config.source.name]
    work += scored * 2 * sum(size.values())
    return Cost(2 * TOKENS * work / FLOPS, "assumed")


def _published_rows(config: DictConfig) -> dict[str, int]:
    """Rows of a data set that is not here yet, by its publication, less what is held out of train for validation."""
    train, test = PUBLISHED_ROWS[config.data.name]
    wanted = config.data.n_train or train
    return {"train": int(wanted * train if wanted <= 1 else min(wanted, train)), "val": train, "test": test}


def memory(config: DictConfig) -> int:
    """Bytes at the peak on the device of a slot (experiments/run/memory_plan.py)."""
    from experiments.run.memory_plan import memory_plan

    return memory_plan(config).device


def total(costs: Sequence[Cost], slots: int) -> dict[str, Any]:
    return {"seconds": sum(cost.seconds for cost in costs) / slots, "how": sorted({cost.how for cost in costs})}
