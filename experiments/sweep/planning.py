"""`plan`: the cells of a sweep, what is there of them, and what the rest will cost; nothing is executed."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from experiments.sweep.cells import SweepCell, build_cells, identified, resolved
from experiments.sweep.display import clock
from experiments.sweep.folder import MARKER, SweepFolder
from experiments.sweep.predict import Cost, memory, predicted

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
    from experiments.sweep.local import local_slots

    slots = jobs or len(local_slots(0, len(costs)))
    seconds = sum(cost.seconds for cost in costs)
    how = "; ".join(HOW[kind] for kind in HOW if kind in {cost.how for cost in costs})
    return f"{len(costs)} cells to do: {clock(seconds)} of one slot, {clock(seconds / slots)} on {slots} ({how})."
