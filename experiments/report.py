"""Rebuild a run's table and pictures from what is in its folder: `python -m experiments.report run=DIR`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.cli import flat_options, run_command

USAGE = """
python -m experiments.report run=DIR

Prints the table of a finished run again (scores, gains over every control, intervals), and its transfer curve over
validation epochs, from results.jsonl and scores/ alone: no model is loaded.
"""


def main(argv: Sequence[str]) -> int:
    options: Any = flat_options(argv, {"run": ...}, usage=USAGE)
    if options is None:
        return 0
    folder = Path(options["run"])
    if not (folder / "results.jsonl").is_file():
        raise FileNotFoundError(f"No results in '{folder}': expected results.jsonl there. Give run= a run folder.")
    from experiments.many import run_roles, run_scores
    from experiments.summary import markdown, show_records
    from lightning_modules.records import read_rows

    rows = read_rows(folder / "results.jsonl")
    curve = curve_rows(rows)
    if curve:
        print(markdown(curve[0], curve[1:]))
    records = run_scores(folder)
    if not records:
        print(f"'{folder}' has no test scores yet. Continue it with resume={folder}.")
        return 0
    metric = next(row["metric"] for row in rows if row["split"] == "test")
    show_records(str(folder), metric, records, run_roles(folder))
    return 0


def curve_rows(rows: Sequence[dict]) -> list[list[str]]:
    """Header and one line per validation epoch: the prompted score of every model in %."""
    val = [row for row in rows if (row["split"], row["input"], row["group"]) == ("val", "prompt", "")]
    metrics = list(dict.fromkeys(row["metric"] for row in val))[:1]
    val = [row for row in val if row["metric"] in metrics]
    models = list(dict.fromkeys(row["mllm"] for row in val))
    table = {(row["epoch"], row["mllm"]): f"{100 * row['value']:.1f}" for row in val}
    epochs = sorted({row["epoch"] for row in val})
    lines = [[str(epoch), *(table.get((epoch, name), "-") for name in models)] for epoch in epochs]
    return [["val epoch", *models], *lines] if lines else []


if __name__ == "__main__":
    run_command(main)
