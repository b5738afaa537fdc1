"""The rows of the bench as lines of text."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

TIMES = ("apart_s", "sequential_s", "auto_s", "own_towers_s", "loading_s")
"""Seconds in a row of `targets.targets_row`."""


def bench_text(rows: Sequence[Mapping[str, Any]], rss: Sequence[Mapping[str, Any]], *, width: int = 120) -> str:
    """Rows (`bench_rows.FIELDS`) and peak memory as plain text, one line each."""
    file = io.StringIO()
    console = Console(file=file, width=width)
    if rows:
        console.print(_rows_table(rows))
    if rss:
        console.print(_rss_table(rss))
    return file.getvalue()


def targets_text(row: Mapping[str, Any] | None) -> str:
    """`targets.targets_row` in three lines; empty where it was not asked for."""
    if row is None:
        return ""
    apart_s, sequential, auto, own, loading = (f"{row[key]:.2f} s" for key in TIMES)
    once, apart = (f"{row[key] / 2**20:,.0f} MiB" for key in ("once_bytes", "apart_bytes"))
    return (
        f"An epoch over the paper's six models, {row['batch']} frames: each loaded and encoding alone {apart_s}, tower "
        f"passes shared {sequential}\nAll resident: {auto} ({row['ratio']:.2f}x, with loading "
        f"{row['ratio_first']:.2f}x), each encoding alone {own} ({row['ratio_scoring']:.2f}x)\n"
        f"Weights: {once} with shared parts once, {apart} apart ({row['ratio_bytes']:.2f}x); {row['files']} files read "
        f"once ({loading}), {row['reads_an_epoch']} in every epoch of the other way\n"
    )


def _table(title: str, caption: str, columns: Sequence[str], left: int) -> Table:
    table = Table(title=title, caption=caption, box=box.SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i < left else "right", no_wrap=True)
    return table


def _rows_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    columns = ("architecture", "path", "classes", "batch", "ours s", "naive s", "floor s", "naive/ours", "ours/floor")
    caption = "median wall-clock seconds of a pass; calls: vision/LLM forwards of ours, of naive"
    table = _table("Ours against the naive protocol and the floor", caption, (*columns, "calls"), 2)
    for row in rows:
        numbers = [_number(row[key], "") for key in ("candidates", "batch")]
        numbers += [_number(row[key], ".3f") for key in ("ours_s", "naive_s", "floor_s")]
        numbers += [_number(row[key], ".2f") for key in ("ratio_naive", "ratio_floor")]
        table.add_row(row["architecture"], row["path"], *numbers, _calls(row["forwards"]))
    return table


def _rss_table(rss: Iterable[Mapping[str, Any]]) -> Table:
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
