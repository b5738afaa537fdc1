"""Writes the tables of the README that follow from data (a test compares them), and keeps a sweep's results with us."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from experiments.cli import flat_options, run_command

README = Path(__file__).resolve().parents[1] / "README.md"
RESULTS = Path(__file__).parent / "results"
SWEEP = RESULTS / "sweep_embedded"
KEPT = ("matrix.csv", "statistics.json", "report.html", "report.md")
USAGE = """
python -m experiments.write_docs [sweep=OUT]

Rewrites the generated sections of README.md. sweep=OUT first copies what a finished sweep=embedded leaves (matrix.csv,
statistics.json, report.html, report.md) to experiments/results/sweep_embedded, which README's results are made from.
"""


def result_section() -> str:
    """README's results: the committed statistics of `sweep=embedded`."""
    from experiments.report.markdown import result_section as section

    return section(json.loads((SWEEP / "statistics.json").read_text()), label="`sweep=embedded`")


def keep(out: Path) -> None:
    """Copy a finished sweep's small files into the repository.

    Raises:
        ValueError: cells are missing or failed.
    """
    from lightning_modules.atomic import replace_file

    statistics = json.loads((out / "statistics.json").read_text())
    if statistics["missing"]:
        raise ValueError(f"{len(statistics['missing'])} cells of '{out}' have no result. Finish the sweep first.")
    SWEEP.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        replace_file(SWEEP / name, (out / name).read_bytes())
    replace_file(SWEEP / "statistics.json", json.dumps(statistics, separators=(",", ":")).encode() + b"\n")


def key_tables() -> str:
    """Every key a run and a sweep log."""
    from experiments.tracking.keys import keys_table

    return f"{keys_table('run').strip()}\n\nA sweep's own run:\n\n{keys_table('sweep').strip()}"


def weights_tables() -> str:
    """Every published model with its two commands, then every file once, with who needs it."""
    return "\n".join([*_models(), "", *_files()])


def _models() -> list[str]:
    from model_zoo.memory.need import source_need, target_need
    from model_zoo.memory.sizes import PUBLISHED_SIZES
    from model_zoo.registry import get_entry
    from model_zoo.weights.catalogue import PUBLISHED

    lines = [
        "| name | what | parameters | GiB as source / target | check the files | train on it |",
        "|---|---|---|---|---|---|",
    ]
    for name in PUBLISHED:
        sizes, entry = PUBLISHED_SIZES[name], get_entry(name)
        source = source_need(sizes, 16, "bfloat16", clip=True).total / 2**30
        target = target_need(sizes, 32, "bfloat16").total / 2**30
        lines.append(
            f"| `{name}` | {entry.description} | {sizes.parameters / 1e6:,.1f} M | {source:.0f} / {target:.0f} "
            f"| `python -m model_zoo check {name} weights=weights` | `make train EXP=cifar10_{name}` |"
        )
    return lines


def _files() -> list[str]:
    from model_zoo.weights.catalogue import PUBLISHED

    users: dict[str, list[str]] = {}
    items = {}
    for name, known in PUBLISHED.items():
        for item in known.files:
            items[item.path] = item
            users.setdefault(item.path, []).append(name)
    lines = ["| below `weights/` | what | published | licence | needed by |", "|---|---|---|---|---|"]
    for path, item in items.items():
        folder = "/" if item.holds else ""
        lines.append(f"| `{path}{folder}` | {item.what} | {item.source} | {item.licence} | {', '.join(users[path])} |")
    return lines


CHOSEN = ("svhn", "eurosat", "oxford_pets", "dtd")
"""Not named by the paper: our choice (METHOD.md section 6)."""


def data_table() -> str:
    """The ten data sets and CIFAR-10-C: task, size, licence, where from, and the command that gets them."""
    from datamodules.prepare.catalogue import PUBLISHED

    lines = ["| name | task | what | to get | licence | publisher | command |", "|---|---|---|---|---|---|---|"]
    for name, known in PUBLISHED.items():
        size = sum(max(archive.size or 0 for archive in part) for part in known.parts())
        amount = f"{size / 1e9:.1f} GB" if size > 1e9 else f"{size / 1e6:.0f} MB" if size else "by hand"
        mark = " (our choice)" if name in CHOSEN else ""
        lines.append(
            f"| `{name}`{mark} | {known.task} | {known.what} | {amount} | {known.licence} | {known.homepage} "
            f"| `python -m datamodules prepare {name}` |"
        )
    return "\n".join(lines)


def sections() -> dict[str, str]:
    """Mark -> generated text."""
    made = {"results": result_section, "keys": key_tables, "weights": weights_tables, "data": data_table}
    return {mark: make() for mark, make in made.items()}


def replace(text: str, mark: str, section: str) -> str:
    """`text` with what lies between `<!-- mark -->` and `<!-- /mark -->` replaced. Raises ValueError without marks."""
    start, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    if start not in text or end not in text:
        raise ValueError(f"README.md has no '{start}' ... '{end}'. Expected both marks; put them back.")
    before, after = text.split(start)[0], text.split(end)[1]
    return f"{before}{start}\n{section}\n{end}{after}"


def main(argv: Sequence[str]) -> int:
    options = flat_options(argv, {"sweep": ""}, usage=USAGE)
    if options is None:
        return 0
    if options["sweep"]:
        keep(Path(str(options["sweep"])))
    text = README.read_text()
    for mark, section in sections().items():
        text = replace(text, mark, section)
    README.write_text(text)
    print(f"Wrote {README.name}: {', '.join(sections())}.")
    return 0


if __name__ == "__main__":
    run_command(main)
