"""Shows a running sweep to people: a line a worker, and a total with the time left."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from rich.console import Console
from rich.live import Live

from experiments.sweep.cells import SweepCell
from experiments.sweep.folder import States, SweepFolder
from experiments.sweep.leases import Leases, read_leases

EVERY = 1.0  # seconds between looks at the folder


class Display:
    """A context that shows the progress of a plan; `look()` as often as you like.

    On a terminal the lines are live (rich). Elsewhere one line is printed as each cell ends; with CI set, nothing.
    """

    def __init__(self, folder: SweepFolder, cells: Sequence[SweepCell]) -> None:
        self.folder, self.cells, self.console = folder, list(cells), Console()
        self.live: Any = None
        self.seen = {key for key, row in folder.states().items() if row["state"] != "waiting"}
        self._leases, self._next, self._started = Leases(folder.leases, "display"), 0.0, time.time()

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            self.live = Live(console=self.console, refresh_per_second=4, transient=True)
            self.live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._next = 0.0  # what ended since the last look is still said
        self.look()
        if self.live is not None:
            self.live.__exit__(*error)

    def look(self) -> None:
        if time.time() < self._next:
            return
        self._next = time.time() + EVERY
        states = self.folder.states()
        self._print_ended(states)
        if self.live is not None:
            self.live.update("\n".join(self.lines(states)))

    def _print_ended(self, states: States) -> None:
        for cell in self.cells:
            state = states.of(cell)
            if state == "waiting" or cell.id in self.seen:
                continue
            self.seen.add(cell.id)
            if state == "finished" and os.environ.get("CI"):
                continue
            ended, row = sum(c.id in self.seen for c in self.cells), states[cell.id]
            why = f": {row['error']}" if state == "failed" else f" in {row.get('seconds', 0):.0f} s"
            self.console.print(f"[{ended}/{len(self.cells)}] {cell.label} {state}{why}", markup=False, highlight=False)

    def lines(self, states: States) -> list[str]:
        """One line a worker, then the total."""
        running = {k: lease for k, lease in read_leases(self.folder.leases).items() if not self._leases.is_free(k)}
        lines = [worker_line(lease) for lease in sorted(running.values(), key=lambda lease: str(lease["worker"]))]
        counts = states.counts(self.cells)
        left = remaining(self.cells, states, len(running) or 1)
        total = f"{counts['finished']} of {len(self.cells)} cells finished"
        total += f", {counts['failed']} failed" if counts["failed"] else ""
        total += f"; about {clock(left)} left" if left is not None and counts["waiting"] else ""
        return [*lines, total]


def worker_line(lease: Mapping[str, Any]) -> str:
    """`w0  embedded_llava-emoji_counting-tvp-s1  training 48/192  23 s`."""
    done = f" {lease.get('step', 0)}/{lease['steps']}" if lease.get("steps") else ""
    took = clock(max(0.0, time.time() - lease.get("started", time.time())))
    return f"{lease['worker']}  {lease.get('label', '')}  {lease.get('phase', 'starting')}{done}  {took}"


def remaining(cells: Sequence[SweepCell], states: States, workers: int) -> float | None:
    """Seconds until all cells have ended, from what cells of the same method took here; None before the first did."""
    overall = states.seconds(cells)
    if not overall:
        return None
    took = {cell.method: states.seconds(c for c in cells if c.method == cell.method) for cell in cells}
    waiting = [cell for cell in cells if states.of(cell) == "waiting"]
    return sum(mean(took[cell.method] or overall) for cell in waiting) / workers


def clock(seconds: float) -> str:
    """`42 s`, `12 min`, `3.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"
