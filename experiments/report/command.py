"""What `python -m experiments.report` does for a sweep's folder, and for a run's."""

from __future__ import annotations

from pathlib import Path

from experiments.cli import markdown
from experiments.report.gain_curves import curve_rows
from experiments.report.load import Material, run_material, sweep_material
from experiments.report.markdown import report_markdown
from experiments.report.page import page
from experiments.report.verdict import verdicts
from experiments.run.folder import run_roles, run_scores
from experiments.run.summary import show_records
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
