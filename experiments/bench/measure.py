"""The rows of the bench: for each architecture ours, the naive protocol and the floor do the same work in turn."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch.nn.functional as F

from experiments.bench import models as bench_models
from experiments.bench.models import MEDIUM, Size, bench_inputs, bench_names, build_bench_clip, build_bench_model
from experiments.bench.tasks import PATHS, Task, rank_task, start_delta, train_task
from experiments.bench.timing import Side, counted, paired, seconds

FIELDS = (
    "architecture", "path", "candidates", "batch", "repeats", "ours_s", "naive_s", "floor_s", "ratio_naive",
    "ratio_floor", "forwards",
)  # fmt: skip
TOLERANCE = 1e-4
"""Largest difference between ours and naive: of scores, or of a loss or gradient relative to its largest value."""
PATIENCE = 4.0
"""Seconds of a naive side's first pass from which on it is not repeated: that pass is its time."""


class Pass(NamedTuple):
    """A side's first pass, which warms it up: its result, forward calls and seconds."""

    result: Any
    forwards: dict[str, int]
    seconds: float


def bench_rows(
    architectures: Sequence[str],
    paths: Sequence[str],
    *,
    batch: int = 0,
    repeats: int = 5,
    size: Size = MEDIUM,
) -> Iterator[dict[str, Any]]:
    """All rows of the architectures and paths (`PATHS`), group by group. batch 0: 4 for ranking, 2 for training."""
    trained = [path for path in paths if path != "rank"]
    clip = build_bench_clip(size) if trained else None
    for architecture in architectures:
        model = build_bench_model(architecture, size)
        if "rank" in paths:
            yield from measure(model, rank_group(model, batch or 4, size), repeats)
        if trained:
            with tempfile.TemporaryDirectory() as folder:
                yield from measure(model, train_group(model, clip, trained, batch or 2, size, Path(folder)), repeats)


def rank_group(model: Any, batch: int, size: Size) -> list[Task]:
    """One task per number of candidates; the floor is one for all."""
    inputs = bench_inputs(batch, size)
    frames = F.pad(inputs.images, [size.pad] * 4)
    tasks: list[Task] = []
    for n in PATHS["rank"]:
        floor = tasks[0].floor if tasks else None
        tasks.append(rank_task(model, frames, inputs.questions, bench_names(n), floor))
    return tasks


def train_group(model: Any, clip: Any, paths: Sequence[str], batch: int, size: Size, folder: Path) -> list[Task]:
    """One task per training path; the naive step is one for both kinds of FCA + TSE."""
    inputs, delta = bench_inputs(batch, size), start_delta(size)
    tasks: list[Task] = []
    for path in paths:
        twin = tasks[-1].naive if tasks and path == f"{tasks[-1].path}_cached" else None
        tasks.append(train_task(model, clip, size, inputs, delta, path, folder, twin))
    return tasks


def run_once(architecture: str, side: str, batch: int, candidates: int, size: str) -> None:
    """One pass of a side (`prefix` or `packed`) over a random model; `size` names one of `bench_models`."""
    numbers = getattr(bench_models, size)
    model, inputs = build_bench_model(architecture, numbers), bench_inputs(batch, numbers)
    frames = F.pad(inputs.images, [numbers.pad] * 4)
    task = rank_task(model, frames, inputs.questions, bench_names(candidates))
    (task.floor if side == "prefix" else task.ours)()


def measure(model: Any, tasks: Sequence[Task], repeats: int) -> Iterator[dict[str, Any]]:
    """Rows (`FIELDS`) of tasks that take turns; sides shared between tasks are timed once a round.

    repeats: rounds, after a first pass of each side that warms up, counts and checks. A naive side whose first pass
        takes `PATIENCE` seconds or more has no further one.
    Raises RuntimeError where ours and naive differ by more than `TOLERANCE`.
    """
    naive = {task.naive for task in tasks if task.naive is not None}
    sides = [side for task in tasks for side in (task.ours, task.naive, task.floor) if side is not None]
    first = {side: _first(model, side) for side in dict.fromkeys(sides)}
    for task in tasks:
        _agree(task, first)
    slow = {side: first[side].seconds for side in naive if first[side].seconds >= PATIENCE}
    times = paired([side for side in first if side not in slow], repeats) | slow
    for task in tasks:
        yield _row(model.name, task, 1 if task.naive in slow else repeats, times, first)


def _first(model: Any, side: Side) -> Pass:
    results: list[Any] = []
    with counted(model) as calls:
        taken = seconds(lambda: results.append(side()))
    return Pass(results[0], dict(calls), taken)


def _agree(task: Task, first: Mapping[Side, Pass]) -> None:
    if task.naive is None:
        return
    error = task.difference(first[task.ours].result, first[task.naive].result)
    if not error <= TOLERANCE:
        raise RuntimeError(
            f"{task.path} {task.candidates or ''}: ours and the naive protocol differ by {error:.1e}. Expected at "
            f"most {TOLERANCE:.0e}; a time for another function says nothing. Run tests/test_experiments_bench.py."
        )


def _row(
    architecture: str,
    task: Task,
    repeats: int,
    times: Mapping[Side, float],
    first: Mapping[Side, Pass],
) -> dict[str, Any]:
    """One row; `repeats` counts the naive side's passes (ours and the floor have all rounds)."""
    ours, floor = times[task.ours], times[task.floor]
    naive, calls = (times[task.naive], first[task.naive].forwards) if task.naive else (None, None)
    forwards = {"ours": first[task.ours].forwards, "naive": calls}
    ratios = (None if naive is None else naive / ours, ours / floor)
    values = (architecture, task.path, task.candidates, task.batch, repeats, ours, naive, floor, *ratios, forwards)
    return dict(zip(FIELDS, values, strict=True))
