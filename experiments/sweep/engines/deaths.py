"""Workers that died: each loses its cell only, and a cell that takes worker after worker with it is given up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from experiments.sweep.cells import SweepCell
from experiments.sweep.folder import SweepFolder
from experiments.sweep.leases import drop_leases, read_leases

DEATHS = 3  # a cell that took so many workers with it is given up


class Deaths:
    """What one engine saw of its workers' deaths. where: people find more about them, a path or a sentence's end."""

    def __init__(self, folder: SweepFolder, cells: Sequence[SweepCell], where: str) -> None:
        self.folder, self.cells, self.where = folder, {cell.id: cell for cell in cells}, where
        self.counts: Counter[str] = Counter()

    def count(self, held: Callable[[dict[str, Any]], bool], how: str) -> None:
        """One worker is dead for certain: its cell is free at once, and recorded as failed at the third death.

        Args:
            held: whether a lease (or an entry of a lease's `before`) is of that worker. how: it died, for people.

        Raises:
            RuntimeError: workers die again and again before they take a cell.
        """
        found = {key: [lease, *lease.get("before", [])] for key, lease in read_leases(self.folder.leases).items()}
        cells = [key for key, holders in found.items() if key in self.cells and any(map(held, holders))]
        for key in cells or ["start"]:
            self.counts[key] += 1
            if self.counts[key] == DEATHS:
                self._give_up(key, how)
        drop_leases(self.folder.leases, held)

    def _give_up(self, key: str, how: str) -> None:
        if key == "start":
            raise RuntimeError(f"Workers die before they take a cell ({how}). See {self.where} for the reason.")
        self.folder.record(self.cells[key], "failed", error=f"its worker died {DEATHS} times ({how})")
