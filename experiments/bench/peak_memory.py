"""Measure the peak memory of ranking, in its own process."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from experiments.cli import parse_options, run_command

SIDES = ("prefix", "packed")


@dataclass
class Options:
    """
    python -m experiments.bench.peak_memory architecture=NAME side=prefix|packed [key=value ...]

    One process of `experiments.bench`: prints its own peak resident bytes, weights included, after one pass.
    """

    architecture: str
    """one of those `experiments.bench` names"""
    side: Literal["prefix", "packed"]
    """one vision encode and one prefix forward; packed scores the candidates too"""
    batch: int = 4
    """pictures"""
    candidates: int = 100
    """answers to rank"""
    size: Literal["MEDIUM", "MICRO"] = "MEDIUM"
    """of the random model"""


def main(argv: Sequence[str]) -> int:
    options = parse_options(Options, argv)
    if options is None:
        return 0
    from experiments.bench.measure import run_once

    run_once(**vars(options))
    print(peak_bytes())
    return 0


def peak_bytes() -> int:
    """Peak resident bytes of this process.

    Linux: VmHWM. `getrusage` will not do there: a child's peak begins at its parent's size at the fork.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        if "VmHWM" in lines:
            return 1024 * int(lines["VmHWM"].split()[0])

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def rss_row(architecture: str, *, batch: int = 4, candidates: int = 100, size: str = "MEDIUM") -> dict[str, Any]:
    """{architecture, candidates, batch, prefix_bytes, packed_bytes, ratio}; ratio = packed / prefix.

    Raises RuntimeError with the process's own words where one fails.
    """
    peaks = {f"{side}_bytes": _measured(architecture, side, batch, candidates, size) for side in SIDES}
    ratio = peaks["packed_bytes"] / peaks["prefix_bytes"]
    return {"architecture": architecture, "candidates": candidates, "batch": batch, **peaks, "ratio": ratio}


def _measured(architecture: str, side: str, batch: int, candidates: int, size: str) -> int:
    words = [f"architecture={architecture}", f"side={side}", f"batch={batch}", f"candidates={candidates}"]
    command = [sys.executable, "-m", "experiments.bench.peak_memory", *words, f"size={size}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:])} ended with code {done.returncode}: {done.stderr.strip()[-500:]}")
    return int(done.stdout.split()[-1])


if __name__ == "__main__":
    run_command(main)
