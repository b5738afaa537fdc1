"""Choose lr and epochs of each method on validation data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datamodules.writable import note_unwritable_caches, require_writable
from experiments.cli import parse_options, run_command
from experiments.recipes import load_experiment
from experiments.run.ensure import NamedRun, ensure_all
from lightning_modules.atomic import replace_file
from lightning_modules.records import read_rows

EPOCHS = ("3", "6")
# VP's update is not normalised, hence its own scale of lr: 1.0 and the published 2.9 (pixel units) lose to 0.3 on the
# source's validation rows, see LOG.md.
GRID: dict[str, tuple[str, ...]] = {
    "vp": ("0.03", "0.1", "0.3"),
    "evp": ("10", "20", "40"),
    "tvp": ("10", "20", "40"),
}


@dataclass
class Options:
    """
    python -m experiments.tune [exp=embedded] [data=NAME] [out=DIR] [key=value ...]

    Tries the same number of settings (lr x epochs) for each learned method on the SOURCE's validation data: no target
    is loaded, no test row is read. Prints every trial and the best of each method, and writes OUT/tuning.json; a sweep
    recipe takes them over (experiments/sweeps/embedded.yaml). Trials are ordinary run folders: finished ones are kept,
    cut ones continue. Any other key=value goes to every trial (see `python -m experiments.train --help`).
    """

    exp: str = "embedded"
    """the recipe"""
    data: str = ""
    """another data set than the recipe's"""
    out: Path | None = None
    """folder of the trials (default: runs/tune/<exp>-<data>)"""
    seed: int = 0
    """of every trial"""
    epochs: tuple[str, ...] = EPOCHS
    """lengths to try, separated by commas"""
    jobs: int = 2
    """trials at a time, one thread each"""


def main(argv: Sequence[str]) -> int:
    others: list[tuple[str, str]] = []
    options = parse_options(Options, argv, others=others)
    if options is None:
        return 0
    exp = options.exp
    data = options.data or load_experiment([("exp", exp)]).data.name
    out = options.out or Path(f"runs/tune/{exp}-{data}")
    require_writable(out, "the folder of the trials", "out=DIR", inside=True)
    note_unwritable_caches(("controls", "images"))
    cells = trial_cells(exp, data, options.seed, options.epochs, others)
    trials = trial_table(ensure_all(cells, out, jobs=options.jobs))
    result = {
        "exp": exp,
        "data": data,
        "seed": options.seed,
        "words": dict(others),
        "trials": trials,
        "chosen": choose(trials),
    }
    replace_file(out / "tuning.json", (json.dumps(result, indent=1) + "\n").encode())
    for trial in trials:
        print(f"{trial['method']:4} lr {trial['lr']:<5g} {trial['epochs']} epochs: {100 * trial['val']:.1f} %")
    print("Chosen on the source's validation data:", json.dumps(result["chosen"]))
    print(f"Written to {out / 'tuning.json'}.")
    return 0


def trial_cells(
    exp: str, data: str, seed: int, epochs: Sequence[str] = EPOCHS, others: Sequence[tuple[str, str]] = ()
) -> list[NamedRun]:
    """lr x epochs for each learned method, on the source's validation alone: no target is loaded, no test row read.

    data: another data set than the recipe's, or "". others: further words for every trial.
    """
    cells = []
    settings = [(method, lr, length) for method, rates in GRID.items() for lr in rates for length in epochs]
    for method, lr, length in settings:
        words = [("exp", exp), ("method", method), ("seed", str(seed)), *([("data", data)] if data else [])]
        words += [("method.lr", lr), ("train.epochs", length), ("log.wandb", "off"), ("log.progress", "false")]
        words += [("targets.select", "[]"), ("targets.heldout", "[]"), ("data.n_test", "0")]
        words += [("prompt.init", "zero")] if method == "vp" else []
        cells.append(NamedRun(f"{method}_lr{lr}_ep{length}", [*words, *others]))
    return cells


def trial_table(folders: Mapping[str, Path]) -> list[dict]:
    """Per trial the best validation score of the source, in its primary metric: what its checkpoint was chosen by.

    Of an epoch that was validated more than once (an attempt whose checkpoint was lost) the last row counts.
    """
    rows = []
    for name, folder in folders.items():
        method, lr, epochs = name.split("_")
        found = [
            row
            for row in read_rows(folder / "results.jsonl")
            if (row["split"], row["input"], row["group"]) == ("val", "prompt", "")
        ]
        last = {(row["epoch"], row["step"] or 0): row for row in found if row["metric"] == found[0]["metric"]}
        value, epoch, _ = max((row["value"], -epoch, -step) for (epoch, step), row in last.items())
        trial = {"method": method, "lr": float(lr[2:]), "epochs": int(epochs[2:]), "val": round(value, 6)}
        rows.append(trial | {"best_epoch": -epoch})
    return rows


def choose(trials: Sequence[dict]) -> dict[str, dict]:
    """The trial with the best validation score of each method; ties go to the shorter run, then the smaller lr."""
    best = {}
    for method in dict.fromkeys(trial["method"] for trial in trials):
        mine = [trial for trial in trials if trial["method"] == method]
        winner = max(mine, key=lambda trial: (trial["val"], -trial["epochs"], -trial["lr"]))
        best[method] = {"lr": winner["lr"], "epochs": winner["epochs"]}
    return best


if __name__ == "__main__":
    run_command(main)
