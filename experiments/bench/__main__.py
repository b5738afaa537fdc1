"""Time ranking and training against the naive protocol."""

from __future__ import annotations

import io
import json
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datamodules.writable import require_writable
from experiments.cli import parse_options, run_command, suggest


@dataclass
class Options:
    """
    python -m experiments.bench [out=FILE.json] [batch=N] [repeats=5] [only=NAME]

    Medium-size random models, 224 px frames: seconds of one ranking pass (2, 10, 45, 100 candidates) and of one
    training step (plain, FCA + TSE, FCA + TSE with cached clean features), in ours, in the naive protocol (what the
    reference does to compute the same) and at the floor (one vision encode and one prefix forward). Both are checked to
    compute the same to 1e-4 before they are timed, in turns. About 16 minutes on two cores.
    """

    out: Path | None = None
    """a JSON file with {device, threads, torch, rows, rss}; the table goes beside it as .txt"""
    batch: int = 0
    """pictures (0: 4 for ranking, 2 for training)"""
    repeats: int = 5
    """passes of which the median counts, where one naive pass takes under 4 s; else one pass"""
    only: str = ""
    """an architecture (minigpt4 instructblip blip2_t5 blip2_opt vpgtrans bliva visualglm), a path (rank train_plain
    train_fca_tse train_fca_tse_cached), rss (peak memory), or gpu (the published 7B shapes with random weights; its
    JSON has the GPU's rows)"""


def main(argv: Sequence[str], size: str = "MEDIUM") -> int:
    """`size` names another size of `bench_models`, for tests."""
    options = parse_options(Options, argv)
    if options is None:
        return 0
    check(options)
    if options.out:
        require_writable(options.out.parent, "the folder of the numbers", "out=FILE")
        options.out.parent.mkdir(parents=True, exist_ok=True)
    if options.only == "gpu":
        run_gpu(options)
        return 0
    rows, rss = run_cpu(options, size)
    extra: dict[str, Any] = {"rss": rss} if rss else {}
    if not options.only and (gpu := run_gpu(replace(options, out=None))):
        extra["gpu"] = gpu
    save(options.out, report(cpu_name(), rows, **extra))
    return 0


def names() -> tuple[list[str], list[str]]:
    """Architectures and paths."""
    from experiments.bench.models import ARCHITECTURES
    from experiments.bench.tasks import PATHS

    return list(ARCHITECTURES), list(PATHS)


def check(options: Options) -> None:
    """Raise ValueError for numbers and names that cannot be."""
    if options.batch < 0 or options.repeats < 1:
        raise ValueError(f"Expected batch >= 1 and repeats >= 1, got batch={options.batch} repeats={options.repeats}.")
    if options.only in ("", "gpu", "rss"):  # known without an import that a bare GPU machine could not make
        return
    architectures, paths = names()
    known = [*architectures, *paths, "rss", "gpu"]
    if options.only not in known:
        close = suggest(options.only, known)
        raise ValueError(f"Unknown only='{options.only}'.{close} Available: {', '.join(known)}.")


def run_cpu(options: Options, size: str) -> tuple[list[dict], list[dict]]:
    """(rows, peak memory) of what `only` asks for; progress on stderr, the table on stdout."""
    from experiments.bench import models as bench_models
    from experiments.bench.measure import bench_rows
    from experiments.bench.peak_memory import rss_row
    from experiments.bench.tasks import PATHS

    (architectures, paths), only = names(), options.only
    architectures = [only] if only in architectures else architectures
    paths = [] if only == "rss" else [only] if only in paths else paths
    total, rows = len(architectures) * sum(len(PATHS[path]) for path in paths), []
    numbers = {"batch": options.batch, "repeats": options.repeats, "size": getattr(bench_models, size)}
    for row in bench_rows(architectures, paths, **numbers) if paths else ():
        rows.append(row)
        print(progress_line(len(rows), total, row), file=sys.stderr, flush=True)
    rss = []
    for architecture in architectures if only not in paths else ():
        rss.append(rss_row(architecture, batch=options.batch or 4, size=size))
        print(f"[rss] {architecture:13} {rss[-1]['ratio']:.2f}", file=sys.stderr, flush=True)
    print(bench_text(rows, rss), end="")
    return rows, rss


def run_gpu(options: Options) -> dict[str, Any] | None:
    """Measure, print and save the GPU variant; None and "no GPU" without one."""
    import torch

    from experiments.bench.gpu import NO_GPU, gpu_line, gpu_rows

    if not torch.cuda.is_available():
        print(NO_GPU)
        return None
    rows = []
    for row in gpu_rows(batch=options.batch, repeats=options.repeats):
        rows.append(row)
        print(gpu_line(row), flush=True)
    result = report(torch.cuda.get_device_name(), rows)
    save(options.out, result)
    return result


def report(device: str, rows: list[dict], **extra: Any) -> dict[str, Any]:
    """The whole result: {device, threads, torch, rows} and what was measured beside."""
    import torch

    return {"device": device, "threads": torch.get_num_threads(), "torch": torch.__version__, "rows": rows, **extra}


def save(out: Path | None, result: dict[str, Any]) -> None:
    """Write the JSON, and the table of rows of ours beside it, each completely or not at all."""
    from lightning_modules.atomic import replace_file

    if not out:
        return
    replace_file(out, (json.dumps(result, indent=1) + "\n").encode())
    if "rss" in result or any("ratio_floor" in row for row in result["rows"]):
        text = bench_text(result["rows"], result.get("rss", []))
        replace_file(out.with_suffix(".txt"), text.encode())


def cpu_name() -> str:
    """The processor's model as Linux names it, else the platform's word for it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"cpu: {models[0] if models else platform.processor() or platform.machine()}"


def bench_text(rows: Sequence[Mapping[str, Any]], rss: Sequence[Mapping[str, Any]], *, width: int = 120) -> str:
    """Rows (`bench_rows.FIELDS`) and peak memory as plain text, one line each."""
    from rich.console import Console

    file = io.StringIO()
    console = Console(file=file, width=width)
    if rows:
        console.print(_rows_table(rows))
    if rss:
        console.print(_rss_table(rss))
    return file.getvalue()


def _table(title: str, caption: str, columns: Sequence[str], left: int) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(title=title, caption=caption, box=box.SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i < left else "right", no_wrap=True)
    return table


def _rows_table(rows: Iterable[Mapping[str, Any]]) -> Any:
    columns = ("architecture", "path", "classes", "batch", "ours s", "naive s", "floor s", "naive/ours", "ours/floor")
    caption = "median wall-clock seconds of a pass; calls: vision/LLM forwards of ours, of naive"
    table = _table("Ours against the naive protocol and the floor", caption, (*columns, "calls"), 2)
    for row in rows:
        numbers = [_number(row[key], "") for key in ("candidates", "batch")]
        numbers += [_number(row[key], ".3f") for key in ("ours_s", "naive_s", "floor_s")]
        numbers += [_number(row[key], ".2f") for key in ("ratio_naive", "ratio_floor")]
        table.add_row(row["architecture"], row["path"], *numbers, _calls(row["forwards"]))
    return table


def _rss_table(rss: Iterable[Mapping[str, Any]]) -> Any:
    columns = ("architecture", "classes", "batch", "prefix MiB", "packed MiB", "packed/prefix")
    table = _table("Peak resident memory, weights included", "each side in its own process", columns, 1)
    for row in rss:
        sides = [f"{row[key] / 2**20:,.0f}" for key in ("prefix_bytes", "packed_bytes")]
        table.add_row(row["architecture"], str(row["candidates"]), str(row["batch"]), *sides, f"{row['ratio']:.2f}")
    return table


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _calls(forwards: Mapping[str, Mapping[str, int] | None]) -> str:
    sides = [forwards["ours"], forwards["naive"]]
    return ", ".join("-" if side is None else f"{side['vision']}/{side['llm']}" for side in sides)


def progress_line(done: int, total: int, row: Mapping[str, Any]) -> str:
    """What is shown as each row is ready."""
    naive = "not timed" if row["ratio_naive"] is None else f"{row['ratio_naive']:.2f}x as long"
    what = f"{row['architecture']} {row['path']} {row['candidates'] or ''}".rstrip()
    return f"[{done:2}/{total}] {what:42} {row['ours_s']:6.2f} s; naive {naive}, {row['ratio_floor']:.2f} of the floor"


if __name__ == "__main__":
    run_command(main)
