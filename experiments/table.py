"""`make table`: none, vp, evp, tvp x seeds from ONE source, each tuned on its validation data (`tune.py`)."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.cli import flat_options, run_command
from experiments.run.ensure import Cell, ensure_all
from experiments.tune import EPOCHS, choose, trial_cells, trial_table
from lightning_modules.atomic import replace_file

USAGE = """
python -m experiments.table [out=runs/table] [seeds=0,1,2] [exp=embedded] [jobs=2] [write=true]

Chooses lr and epochs of vp, evp and tvp on the SOURCE's validation data (the same number of trials each, no target is
loaded), runs every method with every seed, and writes experiments/results/<exp>.json, which `make train` prints beside
its own table (write=false only prints). jobs=N runs at a time, one thread each. Runs are ordinary run folders below
out=DIR: finished ones are kept, cut ones continue. The whole matrix of sources is `experiments.transfer_sweep`.
"""
DEFAULTS: dict[str, Any] = {"out": "runs/table", "seeds": "0,1,2", "exp": "embedded", "jobs": 2, "write": True}
METHODS = ("none", "vp", "evp", "tvp")


def main(argv: Sequence[str]) -> int:
    options: Any = flat_options(argv, DEFAULTS, usage=USAGE)
    if options is None:
        return 0
    out, exp, started = Path(options["out"]), options["exp"], time.time()
    seeds = [int(seed) for seed in options["seeds"].split(",")]
    trials = ensure_all(trial_cells(exp, "", seeds[0], EPOCHS), out / "trials", jobs=options["jobs"])
    table = trial_table(trials)
    chosen = choose(table)
    print("Chosen on the source's validation data:", json.dumps(chosen))
    runs = ensure_all(method_cells(exp, seeds, chosen), out, jobs=options["jobs"])
    from experiments.baselines import compare

    folders = {(method, seed): runs[f"{method}_s{seed}"] for method in METHODS for seed in seeds}
    data = {"exp": exp, "label": LABEL, "trials": table, "chosen": chosen, **compare(folders, "top1")}
    data["made"] = provenance(folders[METHODS[-1], seeds[0]])
    text = section(data)
    print(text)
    print(f"{time.time() - started:.0f} s in this call.")
    if options["write"]:
        write(exp, data)
    return 0


LABEL = (
    "Tiny models trained by us on rendered emoji scenes (model_zoo/embedded/MODEL_CARD.md): they show that the code "
    "works and what can go wrong, not how the 7B models behave."
)


def words_of(exp: str, method: str, seed: int) -> list[tuple[str, str]]:
    words = [("exp", exp), ("method", method), ("seed", str(seed)), ("log.wandb", "off"), ("log.progress", "false")]
    return words + ([("prompt.init", "zero")] if method == "vp" else [])


def method_cells(exp: str, seeds: Sequence[int], chosen: Mapping[str, dict]) -> list[Cell]:
    cells = []
    for method in METHODS:
        for seed in seeds:
            words = words_of(exp, method, seed)
            if method in chosen:
                words += [("method.lr", str(chosen[method]["lr"])), ("train.epochs", str(chosen[method]["epochs"]))]
            cells.append(Cell(f"{method}_s{seed}", words))
    return cells


def provenance(folder: Path) -> dict:
    """Commit, versions and fingerprints the comparison was made with."""
    from experiments.run.folder import read_status
    from lightning_modules.records import read_rows

    status = read_status(folder)
    rows = [row for row in read_rows(folder / "results.jsonl") if row["split"] == "test"]
    return {
        "commit": status.get("commit"),
        "versions": status.get("versions"),
        "model_fp": {row["mllm"]: row["model_fp"] for row in rows},
        "data": rows[0]["data"],
        "test_data_fp": rows[0]["data_fp"],
        "seconds": {"training_and_scoring_of_one_run": round(status["updated"] - status["started"], 1)},
    }


def section(data: Mapping) -> str:
    """The comparison as Markdown."""
    from experiments.baselines import comparison_table, controls_table, differences_table
    from lightning_modules.controls import CONTROLS

    trials = len(data["trials"]) // len(data["chosen"])
    chosen = "; ".join(f"{m}: lr {c['lr']:g}, {c['epochs']} epochs" for m, c in data["chosen"].items())
    seeds = data["methods"]["tvp"][next(iter(data["roles"]))]["prompted"]["seeds"]
    return "\n".join(
        [
            f"**{data['label']}** Test {data['metric']} in %; gains in points with 95 % intervals (paired bootstrap "
            f"over test images of the mean over {seeds} seeds) and the sd over seeds. lr and epochs chosen on the "
            f"source's validation data, {trials} trials a method ({chosen}).",
            "",
            controls_table(data),
            *(comparison_table(data, control) for control in CONTROLS),
            differences_table(data),
        ]
    )


def write(exp: str, data: Mapping) -> None:
    """The JSON that `make train` prints its baselines from."""
    results = Path(__file__).parent / "results" / f"{exp}.json"
    results.parent.mkdir(exist_ok=True)
    replace_file(results, (json.dumps(data, indent=1) + "\n").encode())


if __name__ == "__main__":
    run_command(main)
