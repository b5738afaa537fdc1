"""Train every source x data set x method, score each on every target."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

from omegaconf import DictConfig

from datamodules.writable import note_unwritable_caches, require_writable
from experiments.cli import parse_options, run_command
from experiments.run.folder import plain_config
from experiments.sweep.cells import SweepCell, resolved
from experiments.sweep.display import Display, clock
from experiments.sweep.engines import SweepStopped, load_engine
from experiments.sweep.folder import SweepFolder
from experiments.sweep.prompts import sweep_cells
from experiments.sweep.recipe import list_sweeps, load_sweep


@dataclass
class Options:
    """
    python -m experiments.transfer_sweep [run|plan|status|retry|report] [sweep=NAME] [out=DIR] [key=value ...]
    python -m experiments.transfer_sweep --list

      run      compute the cells that are missing, then write OUT/matrix.csv, samples/, statistics.json and
               report.html; killed or interrupted, the same command goes on where it was
      plan     the cells, predicted time and memory; nothing is executed
      status   what is finished, running, waiting, failed
      retry    failed cells once more, then as run
      report   matrix, statistics and report from what is finished
      --list   the recipes of experiments/sweeps, one line each

    Any other key=value goes to every cell (see `python -m experiments.train --help`): train.epochs=1 log.wandb=offline.
    sources= targets= data= methods= seeds= narrow the recipe, separated by commas. Several machines may run the same
    command on one shared folder: they share the work, no cell is done twice.
    """

    action: Literal["run", "plan", "status", "retry", "report"] = "run"
    """what to do; the word stands alone, as above"""
    sweep: str = "fashion"
    """a recipe of experiments/sweeps"""
    out: str = ""
    """the sweep's folder (default: runs/sweeps/<sweep>)"""
    engine: str = "local"
    """local: one process a GPU, else a core; or ray, slurm (extras of the same names)"""
    jobs: int = 0
    """how many cells at a time (0: all GPUs or cores; ray: all of the cluster; slurm: 4)"""
    address: str = ""
    """ray: `auto` joins a running cluster; nothing starts one here"""
    gpus: float = 1
    """ray and slurm: GPUs of a worker, 0.5 puts two on one GPU (ignored where there is none)"""
    slurm: str = ""
    """slurm: further parameters, `partition=gpu,timeout_min=600`, cluster=local for a trial"""


def main(argv: Sequence[str]) -> int:
    others: list[tuple[str, str]] = []
    own = parse_options(Options, argv, flags=("--list",), bare="action", others=others)
    if own is None:
        return 0
    if "--list" in argv:
        print("\n".join(f"{name:16}  {header}" for name, header in list_sweeps().items()))
        return 0
    if own.jobs < 0:
        raise ValueError(f"Expected jobs=N, a whole number, got jobs={own.jobs}.")
    own.out = os.path.expanduser(own.out or f"runs/sweeps/{own.sweep}")
    if own.action in ("status", "report"):
        if others:
            given = "=".join(others[0])
            raise ValueError(f"{own.action} reads what is in out=DIR; got {given} beside it. Leave it out.")
        folder = SweepFolder(own.out)
        cells, _ = folder.read_plan()
        if own.action == "status":
            return _status(folder, cells)
        require_writable(own.out, "the sweep's folder", "out=DIR (a copy of it)", inside=True)
        return _finish(folder, cells)
    if own.action == "plan":
        from experiments.sweep.plan import print_plan

        return print_plan(load_sweep(own.sweep, others), vars(own))
    return _run(own, others, again=own.action == "retry")


# ---- run -------------------------------------------------------------------------------------------------------------
def _run(own: Options, others: list[tuple[str, str]], *, again: bool) -> int:
    engine = load_engine(own.engine)
    require_writable(own.out, "the sweep's folder", "out=DIR", inside=True)
    note_unwritable_caches(("controls", "images"))
    sweep, cells = _identified(own, others)
    folder = SweepFolder(own.out, create=sweep.sweep)
    plan = folder.write_plan(cells, plain_config(sweep))
    if again:
        print(f"{len(folder.ask_again(cells))} failed cells are asked for again.")
    before = folder.states().counts(cells)
    print(f"{own.out}: {before['finished']} of {len(cells)} cells are finished, {before['waiting']} to do.", flush=True)
    try:
        if before["waiting"]:
            with Display(folder, cells) as display:
                engine(folder, plan, vars(own), display.look)
    except KeyboardInterrupt:
        print(f"\nStopped; nothing that is finished is lost. Go on with: {_again(own, others)}", file=sys.stderr)
        raise
    except SweepStopped as error:
        raise ValueError(str(error)) from None
    return _finish(folder, cells)


def _identified(own: Options, others: list[tuple[str, str]]) -> tuple[DictConfig, list[SweepCell]]:
    """The recipe and its cells with ids. Raises FileNotFoundError listing all that is missing."""
    from experiments.sweep.identity import identified

    sweep = load_sweep(own.sweep, others)
    cells, missing = identified(sweep_cells(sweep))
    if missing:
        raise FileNotFoundError("\n".join([*missing, "See docs/models.md and docs/data.md. Nothing was started."]))
    return sweep, cells


def _again(own: Options, others: list[tuple[str, str]]) -> str:
    """The command to type; what stands at its default is left out, and so is the action: all go on as run."""
    given = [(field.name, getattr(own, field.name)) for field in fields(own) if field.name != "action"]
    words = [f"{key}={value}" for key, value in given if value != getattr(Options, key)]
    words += ["=".join(pair) for pair in others]
    return " ".join(["python -m experiments.transfer_sweep", *words])


def _finish(folder: SweepFolder, cells: Sequence[SweepCell]) -> int:
    """Matrix, statistics and report of all that is finished; 1 where a cell failed."""
    from experiments.sweep.collect import collect

    status = Counter(collect(folder, cells).values())
    if status["finished"]:
        _explain_results(folder, cells[0])
    print(f"{status['finished']} of {len(cells)} cells finished: {folder.matrix}")
    if status["failed"]:
        print(f"{status['failed']} failed: `python -m experiments.transfer_sweep status out={folder.path}` says why.")
    return 1 if status["failed"] else 0


def _explain_results(folder: SweepFolder, cell: SweepCell) -> None:
    """Statistics and report, and the sweep's own W&B run where its cells log to W&B."""
    from experiments.report.command import announce, report_sweep
    from experiments.statistics import write_statistics
    from experiments.tracking.sweep import log_sweep

    write_statistics(folder.path)
    print(announce(report_sweep(folder.path)))
    log = resolved(cell).log
    if log.wandb != "off":
        log_sweep(folder.path, project=log.project, mode=log.wandb)


# ---- looking ---------------------------------------------------------------------------------------------------------
def _status(folder: SweepFolder, cells: Sequence[SweepCell]) -> int:
    states = folder.states()
    print("\n".join(Display(folder, cells).lines(states)))
    for cell in cells:
        if states.of(cell) == "failed":
            print(f"failed  {cell.label}: {states[cell.id]['error']}\n        {folder.logs / cell.folder}.log")
    print(f"{clock(sum(states.seconds(cells)))} of computing so far.")
    return 0


if __name__ == "__main__":
    run_command(main)
