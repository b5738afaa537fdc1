"""What a training took: seconds of its updates and the most memory of its process."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from experiments.bench.peak_memory import peak_bytes


class Watch:
    """Told of updates and validations as they come (`experiments.run.progress.watching`), it times the updates.

    An update is timed from the end of the one before, the reading of its pictures included. The first one, and the
    first after a validation, has no such beginning: it counts as the mean of the others. The most memory is that of the
    process until a test begins or `stop` is called, validations included, less what it held when the watch was made and
    less the program itself: pages of mapped files, which come as they are first read. A GPU counts its tensors.

    Attributes:
        updates: how many were seen.
    """

    def __init__(self, device: str = "cpu") -> None:
        self._gpu = device.startswith("cuda")
        if self._gpu:
            torch.cuda.reset_peak_memory_stats()
        self._before = 0 if self._gpu else resident_bytes("RssAnon")
        self._wall = self._own = 0.0
        self._timed = self.updates = 0
        self._last: tuple[float, float] | None = None
        self._peak: int | None = None

    def __call__(self, *, phase: str, **_: Any) -> None:
        now = time.perf_counter(), time.process_time()
        if phase == "test":
            self.stop()
        if phase != "training":
            self._last = None
            return
        self.updates += 1
        if self._last is not None:
            self._wall, self._own = self._wall + now[0] - self._last[0], self._own + now[1] - self._last[1]
            self._timed += 1
        self._last = now

    def stop(self) -> None:
        """Note the most memory so far; later calls change nothing."""
        if self._peak is None:
            on_cpu = 0 if self._gpu else peak_bytes() - resident_bytes("RssFile")
            self._peak = (torch.cuda.max_memory_allocated() if self._gpu else on_cpu) - self._before

    def facts(self, updates: int) -> dict[str, float | int]:
        """Seconds of so many updates, on the wall and the process's own, and bytes at the peak."""
        self.stop()
        each = updates / max(self._timed, 1)
        seconds = {"seconds": round(each * self._wall, 3), "process_seconds": round(each * self._own, 3)}
        return {**seconds, "peak_bytes": int(self._peak or 0)}


def resident_bytes(kind: str) -> int:
    """Bytes this process has in memory now: its own (`RssAnon`) or of mapped files (`RssFile`). Linux; 0 elsewhere."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{kind}:")), 0)
