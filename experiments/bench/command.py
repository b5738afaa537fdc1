"""What `python -m experiments.bench` does: rows of all that is asked for, on the screen and in a file."""

from __future__ import annotations

import platform
import sys
from itertools import chain
from pathlib import Path
from typing import Any

from datamodules.whole_files.command_line import suggest
from experiments.bench import models as bench_models
from experiments.bench.gpu import report, run_gpu, save
from experiments.bench.hub import HUB, hub_rows
from experiments.bench.measure import bench_rows
from experiments.bench.models import ARCHITECTURES
from experiments.bench.peak_memory import rss_row
from experiments.bench.table import bench_text, progress_line, targets_text
from experiments.bench.targets import targets_row
from experiments.bench.tasks import PATHS
from lightning_modules.atomic import replace_file

ALONE = ("hub", "rss", "targets")
"""What `only` may name beside architectures and paths."""


def run_bench(out: Path | None, *, batch: int, repeats: int, only: str, size: str) -> None:
    """Measure, print, and write `out` and its table beside it; the GPU variant too where nothing is left out.

    Raises ValueError where `only` names nothing that there is, before any work.
    """
    known = [*ARCHITECTURES, *PATHS, *ALONE, "gpu"]
    if only and only not in known:
        raise ValueError(f"Unknown only='{only}'.{suggest(only, known)} Available: {', '.join(known)}.")
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)  # now, not after the work
    rows, rss = run_cpu(batch=batch, repeats=repeats, only=only, size=size)
    extra: dict[str, Any] = {"rss": rss} if rss else {}
    if only in ("", "targets"):
        extra["targets"] = targets_row(batch=batch, repeats=repeats, size=getattr(bench_models, size))
        print(targets_text(extra["targets"]), end="")
    if not only and (gpu := run_gpu(None, batch=batch, repeats=repeats)):
        extra["gpu"] = gpu
    save(out, report(cpu_name(), rows, **extra))
    if out:
        replace_file(out.with_suffix(".txt"), (bench_text(rows, rss) + targets_text(extra.get("targets"))).encode())


def run_cpu(*, batch: int, repeats: int, only: str, size: str) -> tuple[list[dict], list[dict]]:
    """(rows, peak memory) of what `only` asks for; progress on stderr, the table on stdout."""
    architectures = [only] if only in ARCHITECTURES else ARCHITECTURES
    paths = [] if only in ALONE else [only] if only in PATHS else list(PATHS)
    hub = HUB if only in ("", "hub") else ()
    total, rows = len(architectures) * sum(len(PATHS[path]) for path in paths) + len(hub), []
    numbers: dict[str, Any] = {"batch": batch, "repeats": repeats}
    ours = bench_rows(architectures, paths, **numbers, size=getattr(bench_models, size)) if paths else ()
    for row in chain(ours, hub_rows(**numbers) if hub else ()):
        rows.append(row)
        print(progress_line(len(rows), total, row), file=sys.stderr, flush=True)
    rss = []
    for architecture in architectures if only not in (*PATHS, "hub", "targets") else ():
        rss.append(rss_row(architecture, batch=batch or 4, size=size))
        print(f"[rss] {architecture:13} {rss[-1]['ratio']:.2f}", file=sys.stderr, flush=True)
    print(bench_text(rows, rss), end="")
    return rows, rss


def cpu_name() -> str:
    """The processor's model as Linux names it, else the platform's word for it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"cpu: {models[0] if models else platform.processor() or platform.machine()}"
