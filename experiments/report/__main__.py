"""Show what a sweep or a run found, on one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.writable import require_writable
from experiments.cli import parse_options, run_command


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
    from experiments.report.command import announce, report_run, report_sweep

    folder = options.run
    choices: dict[str, Any] = {"control": options.control, "method": options.method, "examples": options.examples}
    if folder.is_dir():
        require_writable(folder, "the folder of the report", "DIR (a copy of it)")
    if (folder / "results.jsonl").is_file():
        report_run(folder, **choices)
    elif any((folder / name).exists() for name in ("sweep.json", "samples", "statistics.json")):
        print(announce(report_sweep(folder, **choices)))
    else:
        raise FileNotFoundError(
            f"No results in '{folder}': expected sweep.json (a sweep's folder) or results.jsonl (a run's) there. Give "
            "the out= of a sweep, or the folder printed at the start of a run."
        )
    return 0


if __name__ == "__main__":
    run_command(main)
