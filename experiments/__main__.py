"""Lists every command of the project, with what it does in one line: `python -m experiments`."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path

from experiments.cli import run_command

ROOT = Path(__file__).resolve().parents[1]
# In the order a newcomer meets them.
COMMANDS = (
    *("experiments.headroom", "experiments.train", "experiments.evaluate", "experiments.apply", "experiments.ask"),
    *("experiments.transfer_sweep", "experiments.tune", "experiments.chaos", "experiments.cost"),
    *("experiments.report", "experiments.why", "experiments.dashboards"),
    *("model_zoo", "datamodules", "experiments.import_prompt", "experiments.embedded_zoo", "experiments.write_docs"),
    *("experiments.bench", "experiments.bench.data", "experiments.bench.peak_memory"),
)


def main(argv: Sequence[str]) -> None:
    width = max(map(len, COMMANDS))
    print("Every command says more with --help.\n")
    for name in COMMANDS:
        print(f"  python -m {name:{width}}  {summary(name)}")


def summary(name: str) -> str:
    """The first line of a command's docstring, read without importing it."""
    path = ROOT / name.replace(".", "/")
    source = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    text = ast.get_docstring(ast.parse(source.read_text("utf-8"))) or ""
    return text.splitlines()[0].split(": `")[0]


if __name__ == "__main__":
    run_command(main)
