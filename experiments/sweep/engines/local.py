"""The local engine: one subprocess a GPU, or a core where there is no GPU; restarted when it dies."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from experiments.sweep.cells import ROOT, SweepCell
from experiments.sweep.engines.deaths import Deaths
from experiments.sweep.folder import SweepFolder
from experiments.sweep.leases import boot_id
from experiments.sweep.slots import local_slots
from experiments.sweep.worker import FULL_DISK, OTHER_CODE

WORKER = ("-m", "experiments.sweep.worker")
LOOK = 0.3  # seconds between looks at the workers
PATIENCE = 120  # seconds that workers have to stop after Ctrl-C


def run_local(folder: SweepFolder, plan: str, options: dict[str, Any], watch: Callable[[], None]) -> None:
    """Start workers, restart those that die, return when every cell has ended.

    options: `jobs`, how many workers (0: one a GPU, else one a core). watch: called a few times a second.

    Raises:
        KeyboardInterrupt: Ctrl-C; the workers have stopped. OSError: the disk is full. ValueError: code changed.
    """
    cells, _ = folder.read_plan(plan)
    slots = local_slots(int(options["jobs"]), len(cells))
    pool = _Pool(folder, plan, cells, slots)
    try:
        while pool.tend():
            watch()
            time.sleep(LOOK)
        watch()
    except BaseException:
        pool.stop()
        raise


class _Pool:
    """The worker processes and what became of them."""

    def __init__(self, folder: SweepFolder, plan: str, cells: list[SweepCell], slots: list[dict[str, str]]) -> None:
        self.folder, self.plan, self.here = folder, plan, (socket.gethostname(), boot_id())
        self.deaths = Deaths(folder, cells, where=f"{folder.logs}/worker-*.log")
        self.workers = {f"w{i}": self._start(f"w{i}", slot) for i, slot in enumerate(slots)}
        self.slots = {f"w{i}": slot for i, slot in enumerate(slots)}

    def _start(self, name: str, slot: dict[str, str]) -> subprocess.Popen:
        words = [sys.executable, *WORKER, str(self.folder.path.resolve()), self.plan, name]
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        with open(self.folder.logs / f"worker-{name}.log", "ab") as log:
            return subprocess.Popen(
                [*words, str(os.getpid())],
                env=os.environ | slot | {"PYTHONPATH": path},
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C reaches this process alone, which tells the workers once
            )

    def tend(self) -> bool:
        """Look at workers that ended: done, stopped for all, or dead and started again. False when all are done."""
        for name, process in list(self.workers.items()):
            code = process.poll()
            if code in (None, 0):
                continue
            if code in (FULL_DISK, OTHER_CODE):
                raise self._problem(code, name)
            self._count_death(process.pid, code)
            self.workers[name] = self._start(name, self.slots[name])
        return any(process.poll() != 0 for process in self.workers.values())

    def _problem(self, code: int, name: str) -> Exception:
        said = (self.folder.logs / f"worker-{name}.log").read_text(errors="replace").strip().splitlines()
        text = said[-1] if said else f"worker {name} stopped"
        return ValueError(text) if code == OTHER_CODE else OSError(errno.ENOSPC, text)

    def _count_death(self, pid: int, code: int) -> None:
        how = f"signal {-code}, out of memory?" if code == -signal.SIGKILL else f"exit code {code}"
        self.deaths.count(lambda lease: (lease["host"], lease["boot"], lease["pid"]) == (*self.here, pid), how)

    def stop(self) -> None:
        """Ask every worker to stop where it is, wait, and kill what does not."""
        until = time.time() + PATIENCE
        for process in self.workers.values():
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)
        for process in self.workers.values():
            try:
                process.wait(max(0.1, until - time.time()))
            except (subprocess.TimeoutExpired, KeyboardInterrupt):  # a second Ctrl-C: now
                until = 0
                process.kill()
                process.wait()
