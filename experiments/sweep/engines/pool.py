"""What every engine does with its workers: watch them, count their deaths, and stop the sweep where that must be."""

from __future__ import annotations

import errno
import os
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from experiments.sweep.engines import SweepStopped
from experiments.sweep.folder import SweepFolder
from experiments.sweep.leases import drop_leases, is_held_by, read_leases
from experiments.sweep.worker import FULL_DISK, OTHER_CODE
from lightning_modules.code_version import ROOT

LOOK = 0.3  # seconds between looks at the workers
PATIENCE = 120  # seconds that workers have to stop after Ctrl-C
DEATHS = 3  # a cell that took so many workers with it is given up


class Pool(ABC):
    """The workers of one engine and what became of them. where: people find more about them, a path or a name."""

    def __init__(self, folder: SweepFolder, plan: str, where: str) -> None:
        self.folder, self.plan, self.where = folder, plan, where
        self.cells, _ = folder.read_plan(plan)
        self.deaths: Counter[str] = Counter()

    def run(self, watch: Callable[[], None]) -> None:
        """Tend the workers until there is nothing left to do; they are stopped however this ends."""
        try:
            while not self.done():
                self.tend()
                watch()
                time.sleep(LOOK)
        finally:
            self.stop()
        watch()

    def done(self) -> bool:
        return self.folder.ended(self.cells)

    @abstractmethod
    def tend(self) -> None:
        """Look at every worker once and replace those that died."""

    @abstractmethod
    def stop(self) -> None:
        """Have workers that still run stop where they are; a Ctrl-C or an error may be the reason."""

    def count_death(self, worker: Mapping[str, Any], how: str) -> None:
        """One worker is dead for certain: its cell is free at once, and recorded as failed at the third death.

        Args:
            worker: what a lease (or an entry of a lease's `before`) says of it. how: it died, for people.

        Raises:
            SweepStopped: workers die again and again before they take a cell.
        """
        held = {key: [lease, *lease.get("before", [])] for key, lease in read_leases(self.folder.leases).items()}
        lost = [c for c in self.cells if any(is_held_by(lease, worker) for lease in held.get(c.id, []))]
        for cell in lost:
            self.deaths[cell.id] += 1
            if self.deaths[cell.id] == DEATHS:
                self.folder.record(cell, "failed", error=f"its worker died {DEATHS} times ({how})")
        if not lost:
            self.deaths["start"] += 1
            if self.deaths["start"] == DEATHS:
                raise SweepStopped(f"Workers die before they take a cell ({how}). See {self.where} for the reason.")
        drop_leases(self.folder.leases, worker)


def raise_problem(code: int, said: str) -> None:
    """Raise what a worker program ended with, where no other worker would fare better. said: its last words."""
    if code == OTHER_CODE:
        raise ValueError(said)
    if code == FULL_DISK:
        raise OSError(errno.ENOSPC, said)


def last_line(text: object) -> str:
    lines = [line.strip() for line in str(text).splitlines() if line.strip()]
    return lines[-1] if lines else ""


def python_path() -> str:
    """PYTHONPATH with which a worker finds this checkout first."""
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
