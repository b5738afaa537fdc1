"""One worker of a sweep: takes free cells one after the other until none is left. Every engine runs these.

As a program (`python -m experiments.sweep.worker OUT PLAN NAME PARENT`) it is what the local engine and SLURM start.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from datamodules.whole_files.disk import is_full
from experiments.run.kept_models import keep_models
from experiments.sweep.cells import SweepCell, made_with, require_same
from experiments.sweep.folder import SweepFolder
from experiments.sweep.leases import Leases

POLL = 0.5  # seconds between looks at cells that others are computing
FULL_DISK, OTHER_CODE, STOPPED = 3, 4, 130  # exit codes of the program
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def work(out: Path, plan: str, name: str, *, stop: Callable[[], bool] = lambda: False, limit: int = 0) -> int:
    """Take and compute cells of a plan until all have ended; returns how many were done here.

    Args:
        plan: its digest. name: what leases and logs call this worker. limit: at most so many cells (0: no limit).
        stop: asked between cells.

    Raises:
        ValueError: this host's sources or libraries are not those the plan was made with.
        OSError: the disk is full.
    """
    import torch  # after the program has said what a signal does to it

    folder = SweepFolder(out)
    cells, made = folder.read_plan(plan)
    require_same(made, made_with())
    torch.set_num_threads(1)  # sums in one order whatever the machine; GPUs are not concerned
    leases, done, source = Leases(folder.leases, name), 0, ""
    with keep_models():
        while not stop() and not (limit and done >= limit):
            cell = take(folder, leases, cells, prefer=source)
            if cell is None:
                if folder.ended(cells):
                    break
                time.sleep(POLL)
                continue
            try:
                done += compute(folder, leases, cell)
            finally:
                leases.give_up()
            source = cell.source
    return done


def take(folder: SweepFolder, leases: Leases, cells: list[SweepCell], *, prefer: str) -> SweepCell | None:
    """The first free cell, of the source that is already loaded if there is one; None while others hold all."""
    states = folder.states()
    waiting = [cell for cell in cells if states.of(cell) == "waiting"]
    for cell in sorted(waiting, key=lambda cell: cell.source != prefer):
        if leases.take(cell.id, label=cell.label, started=round(time.time(), 1)):
            if folder.states().of(cell) != "waiting":  # it ended while we looked
                leases.give_up()
                continue
            return cell
    return None


def compute(folder: SweepFolder, leases: Leases, cell: SweepCell) -> bool:
    """Train and score one cell, and write down what became of it; True where it finished.

    A failure that concerns the cell is recorded and does not stop the worker. Ctrl-C and a full disk do; the run keeps
    what it has and is continued by whoever takes the cell next.
    """
    from experiments.run.ensure import NamedRun, ensure_run, logged
    from experiments.run.progress import watching
    from experiments.sweep.collect import keep_samples

    started, run = time.time(), folder.cells / cell.folder
    log = folder.logs / f"{cell.folder}.log"
    try:
        with logged(log), watching(leases.report):
            ensure_run(NamedRun(cell.folder, cell.words), folder.cells)
            keep_samples(run, cell)
        state, entries = "finished", {}
    except Exception as error:
        if is_full(error):
            raise
        with suppress(OSError), open(log, "a", encoding="utf-8") as file:
            traceback.print_exc(file=file)
        state, entries = "failed", {"error": f"{type(error).__name__}: {error}"}
    with leases.still_mine() as mine:
        if mine:
            folder.record(cell, state, seconds=round(time.time() - started, 1), worker=leases.worker, **entries)
    return state == "finished"


# ---- as a program ----------------------------------------------------------------------------------------------------
def main(argv: list[str]) -> int:
    out, plan, name, parent = Path(argv[0]), argv[1], argv[2], int(argv[3])
    if parent:
        die_with(parent)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        work(out, plan, name)
    except KeyboardInterrupt:
        return STOPPED
    except OSError as error:
        print(error, file=sys.stderr)
        return FULL_DISK if is_full(error) else 1
    except ValueError as error:
        print(error, file=sys.stderr)
        return OTHER_CODE
    return 0


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, however that dies (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it died before that took effect
        os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
