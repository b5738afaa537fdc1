"""One page about a sweep or a run, from what is in its folder: `python -m experiments.report DIR`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiments.cli import flat_options
from experiments.report.curves import curve_rows

__all__ = ["curve_rows", "main"]

USAGE = """
python -m experiments.report DIR [control=black] [method=tvp] [examples=6]

DIR, a sweep (it holds sweep.json): writes DIR/report.html, one page that opens from disk and needs nothing else, and
DIR/report.md; statistics.json is made anew where samples are newer. DIR, a run (it holds results.jsonl): prints its
table (scores, gains over every control, intervals) and its transfer curve again, and writes the same page of that run.
No model is loaded. `run=DIR` says the same as plain DIR.

control   the control shown first; the page switches between all (full, black, constant, replicate)
method    the method whose prompts and examples are shown; default tvp where there is one, else the last learned one
examples  test pictures shown for each source and data set
"""


def main(argv: Sequence[str]) -> int:
    words = [f"run={word}" if "=" not in word and not word.startswith("-") else word for word in argv]
    options = flat_options(words, {"run": ..., "control": "black", "method": "", "examples": 6}, usage=USAGE)
    if options is None:
        return 0
    from experiments.report.command import announce, report_run, report_sweep

    folder = Path(str(options["run"]))
    choices = {key: options[key] for key in ("control", "method", "examples")}
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
