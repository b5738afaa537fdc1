"""The local engine: one subprocess a GPU, or a core where there is no GPU; restarted when it dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from experiments.sweep.engines.pool import PATIENCE, Pool, last_line, python_path, raise_problem
from experiments.sweep.folder import SweepFolder
from experiments.sweep.leases import this_machine
from experiments.sweep.slots import local_slots

WORKER = ("-m", "experiments.sweep.worker")


def run_local(folder: SweepFolder, plan: str, options: dict[str, Any], watch: Callable[[], None]) -> None:
    """Start workers, restart those that die, return when every cell has ended.

    options: `jobs`, how many workers (0: one a GPU, else one a core). watch: called a few times a second.

    Raises:
        KeyboardInterrupt: Ctrl-C; the workers have stopped. OSError: the disk is full. ValueError: code changed.
        SweepStopped: workers cannot start.
    """
    _Processes(folder, plan, int(options["jobs"])).run(watch)


class _Processes(Pool):
    """A process for each slot of this machine."""

    def __init__(self, folder: SweepFolder, plan: str, jobs: int) -> None:
        super().__init__(folder, plan, where=f"{folder.logs}/worker-*.log")
        self.slots = {f"w{i}": slot for i, slot in enumerate(local_slots(jobs, len(self.cells)))}
        self.workers = {name: self._start(name) for name in self.slots}

    def _log(self, name: str) -> Path:
        return self.folder.logs / f"worker-{name}.log"

    def _start(self, name: str) -> subprocess.Popen:
        words = [sys.executable, *WORKER, str(self.folder.path.resolve()), self.plan, name, str(os.getpid())]
        with open(self._log(name), "ab") as log:
            return subprocess.Popen(
                words,
                env=os.environ | self.slots[name] | {"PYTHONPATH": python_path()},
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C reaches this process alone, which tells the workers once
            )

    def done(self) -> bool:
        """Workers end by themselves when every cell has ended, wherever it was computed."""
        return all(process.poll() == 0 for process in self.workers.values())

    def tend(self) -> None:
        for name, process in list(self.workers.items()):
            code = process.poll()
            if code is None or code == 0:
                continue
            said = last_line(self._log(name).read_text(errors="replace"))
            raise_problem(code, said or f"worker {name} stopped")
            how = f"signal {-code}, out of memory?" if code == -signal.SIGKILL else f"exit code {code}"
            self.count_death(this_machine() | {"pid": process.pid}, how)
            self.workers[name] = self._start(name)

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
