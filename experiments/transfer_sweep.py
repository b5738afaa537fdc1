"""Every source x method x seed as ordinary runs scored on all other models, and the matrix they make."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from experiments.cli import parse_words, run_command, suggest

USAGE = """
python -m experiments.transfer_sweep [run|plan|status] [key=value ...]

  run     make what is missing, continue what was cut short, write OUT/matrix.csv (the default)
  plan    the cells and their state, nothing executed          status   the same

  exp=embedded              the recipe every cell starts from
  sources=NAME,NAME         default: the recipe's source and targets, each in turn
  methods=evp,tvp  seeds=0  out=runs/sweep  jobs=2 (runs at a time, one thread each)
  any other key=value goes to every cell (see `python -m experiments.train --help`)
"""
ACTIONS = ("run", "plan", "status")
OWN = {"exp": "embedded", "sources": "", "methods": "evp,tvp", "seeds": "0", "out": "runs/sweep", "jobs": "2"}
COLUMNS = ("source", "target", "data", "method", "seed", "control", "metric", "n", "value")


def main(argv: Sequence[str]) -> int:
    action = argv[0] if argv and argv[0] in ACTIONS else "run"
    words = parse_words([w for i, w in enumerate(argv) if i or w not in ACTIONS], flags=("--help", "-h"))
    if words.flags:
        print(USAGE.strip())
        return 0
    own = OWN | {key: value for key, value in words.pairs if key in OWN}
    others = [(key, value) for key, value in words.pairs if key not in OWN]
    cells = build_cells(own, others)
    out = Path(own["out"])
    from experiments.many import ensure_all, state_of

    if action != "run":
        print("\n".join(f"{cell.name}: {state_of(out / cell.name)}" for cell in cells))
        return 0
    folders = ensure_all(cells, out, jobs=int(own["jobs"]))
    write_matrix(out / "matrix.csv", list(folders.values()))
    print(f"{len(cells)} cells finished: {out / 'matrix.csv'}")
    return 0


def build_cells(own: dict[str, str], others: Sequence[tuple[str, str]]) -> list:
    """One cell per (source, method, seed); every other model of the recipe is a held-out target."""
    from experiments.many import Cell
    from experiments.recipes import load_experiment

    recipe = load_experiment([("exp", own["exp"]), *others])
    models = [recipe.source.name, *recipe.targets.names]
    sources = [name for name in own["sources"].split(",") if name] or models
    for name in sources:
        if name not in models:
            raise ValueError(f"Unknown source '{name}'.{suggest(name, models)} Available here: {', '.join(models)}.")
    cells = []
    for source in sources:
        targets = ",".join(name for name in models if name != source)
        for method in own["methods"].split(","):
            for seed in own["seeds"].split(","):
                chosen = [("source.name", source), ("targets.select", "[]"), ("targets.heldout", f"[{targets}]")]
                words = [("exp", own["exp"]), ("method", method), ("seed", seed), *chosen, *others]
                cells.append(Cell(f"{source}_{method}_s{seed}", words))
    return cells


def write_matrix(path: Path, folders: Sequence[Path]) -> None:
    """Test scores and gains of all cells, sorted, the same bytes for the same results."""
    from omegaconf import OmegaConf

    from experiments.many import run_roles, run_scores
    from experiments.run_folder import CONFIG
    from lightning_modules.atomic import replace_file
    from lightning_modules.controls import CONTROLS
    from lightning_modules.metrics import estimate, paired_gain
    from lightning_modules.records import read_rows

    rows = []
    for folder in folders:
        config = OmegaConf.load(folder / CONFIG)
        metric = next(row["metric"] for row in read_rows(folder / "results.jsonl") if row["split"] == "test")
        source = next(name for name, role in run_roles(folder).items() if role == "source")
        for target, of_input in run_scores(folder).items():
            cell = (source, target, config.data.name, config.method.name, config.seed)
            score = estimate(metric, of_input["prompt"])
            rows.append((*cell, "", metric, score.n, f"{score.value:.6f}"))
            for control in (c for c in CONTROLS if c in of_input):
                gain = paired_gain(metric, of_input["prompt"], of_input[control])
                rows.append((*cell, control, f"gain_{metric}", gain.n, f"{gain.value:.6f}"))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([COLUMNS, *sorted(rows)])
    replace_file(path, text.getvalue().encode())


if __name__ == "__main__":
    run_command(main)
