"""What `python -m experiments.report` does for a sweep's folder, and for a run's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.writable import require_writable
from experiments.cli import parse_options
from experiments.report.gain_curves import curve_rows
from experiments.report.load import Material, run_material, sweep_material
from experiments.report.markdown import report_markdown
from experiments.report.page import page
from experiments.report.verdict import verdicts
from experiments.run.folder import run_roles, run_scores
from lightning_modules.atomic import replace_file
from lightning_modules.records import read_rows

HTML, MARKDOWN = "report.html", "report.md"


def report_sweep(folder: Path, *, control: str = "black", method: str = "", examples: int = 6) -> Path:
    """Write report.html and report.md of a sweep; returns the page.

    Raises:
        FileNotFoundError: nothing has finished. ValueError: damaged file, unknown control or method.
        OSError: the folder is not writable.
    """
    material = sweep_material(folder, control=control, method=method, examples=examples)
    for text in verdicts(material.statistics):
        print(f"* {text}")
    return write(material)


def report_run(folder: Path, *, control: str = "black", method: str = "", examples: int = 6) -> None:
    """Print a run's curve and table, and write its page."""
    from experiments.run.summary import markdown, show_records

    rows = read_rows(folder / "results.jsonl")
    curve = curve_rows(rows)
    if curve:
        print(markdown(curve[0], curve[1:]))
    records = run_scores(folder)
    if not records:
        print(f"'{folder}' has no test scores yet. Continue it with resume={folder}.")
        return
    metric = next(row["metric"] for row in rows if row["split"] == "test")
    show_records(str(folder), metric, records, run_roles(folder))
    print(announce(write(run_material(folder, control=control, method=method, examples=examples))))


def announce(path: Path) -> str:
    """What a user reads at the end."""
    size = path.stat().st_size / 1e6
    return f"Report: {path} ({size:.1f} MB, opens in any browser from disk) and {MARKDOWN} beside it."


def write(material: Material) -> Path:
    path = material.folder / HTML
    content = page(material).encode()
    try:
        replace_file(path, content)
        replace_file(material.folder / MARKDOWN, report_markdown(material).encode())
    except OSError as error:
        raise OSError(
            error.errno, f"Cannot write the report into '{material.folder}' ({error.strerror}). Make it writable"
        ) from None
    return path


__all__ = ["curve_rows", "main"]


@dataclass
class Options:
    """
    python -m experiments.report DIR [control=black] [method=tvp] [examples=6]

    DIR, a sweep (it holds sweep.json): writes DIR/report.html, one page that opens from disk and needs nothing else,
    and DIR/report.md; statistics.json is made anew where samples are newer. DIR, a run (it holds results.jsonl): prints
    its table (scores, gains over every control, intervals) and its transfer curve again, and writes the same page of
    that run. No model is loaded.
    """

    run: Path
    """a sweep's folder or a run's; `run=DIR` says the same as plain DIR"""
    control: str = "black"
    """the control shown first; the page switches between all (full, black, constant, replicate)"""
    method: str = ""
    """the method whose prompts and examples are shown (default: tvp where there is one, else the last learned one)"""
    examples: int = 6
    """test pictures shown for each source and data set"""


def main(argv: Sequence[str]) -> int:
    options = parse_options(Options, argv, bare="run")
    if options is None:
        return 0
    folder = options.run
    choices: dict[str, Any] = {"control": options.control, "method": options.method, "examples": options.examples}
    if folder.is_dir():
        require_writable(folder, "the folder of the report", "DIR (a copy of it)")
    if (folder / "results.jsonl").is_file():
        report_run(folder, **choices)
    elif is_sweep(folder):
        print(announce(report_sweep(folder, **choices)))
    else:
        raise FileNotFoundError(
            f"No results in '{folder}': expected sweep.json (a sweep's folder) or results.jsonl (a run's) there. Give "
            "the out= of a sweep, or the folder printed at the start of a run."
        )
    return 0


def is_sweep(folder: Path) -> bool:
    """A folder the sweep wrote into, finished or not."""
    return any((folder / name).exists() for name in ("sweep.json", "samples", "statistics.json"))
