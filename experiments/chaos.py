"""Say whether a run's outcome depends on rounding."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from omegaconf import DictConfig

from datamodules.writable import note_unwritable_caches, require_writable
from experiments.cli import markdown, parse_options, run_command
from experiments.recipes import load_experiment
from experiments.run.ensure import NamedRun, ensure_all
from experiments.run.folder import read_status, run_id
from lightning_modules.atomic import replace_file
from lightning_modules.records import read_rows

LIMIT = 1.0  # points from which the difference of the two runs is warned of
FAR = 0.1  # of a pixel value, from which two prompts are called different
CAPABILITY = "ATEN_CPU_CAPABILITY"  # read by torch when a process first computes
UPDATES = tuple(2**i for i in range(20))  # rounding grows exponentially where it grows
Pairs = list[tuple[str, str]]


@dataclass
class Options:
    """
    python -m experiments.chaos [exp=embedded] [targets=true] [out=DIR] [key=value ...]

    Makes the same run twice, the second time with other rounding, and prints how far scores (in points) and prompts
    come apart. Where they differ by more than a point, a seed is one draw of chaos, and a difference of that size
    between two methods says nothing. Validation data only: no test row is read. The two are ordinary run folders in
    OUT: finished ones are kept, cut ones continue. Writes OUT/chaos.json. Any other key=value goes to both runs (see
    `python -m experiments.train --help`).
    """

    exp: str = "embedded"
    """the recipe"""
    targets: bool = False
    """score the recipe's targets too, not the source alone"""
    rounding: Literal["auto", "cpu", "tf32", "split"] = "auto"
    """what the second run does otherwise. cpu: torch's plain CPU kernels instead of the best ones; tf32: updates in
    TF32 (GPU, float32 models); split: the batch in two halves, which is the same update (any machine); auto: cpu on a
    CPU, on a GPU tf32, and split where neither would change anything"""
    out: Path | None = None
    """folder of the two runs (default: runs/chaos/<exp>/<run>)"""


def main(argv: Sequence[str]) -> int:
    others: Pairs = []
    options = parse_options(Options, argv, others=others)
    if options is None:
        return 0
    words = common_words(options.exp, others, targets=options.targets)
    config = load_experiment(words)
    if config.method.name == "none":
        raise ValueError("method=none learns nothing: two runs of it cannot come apart. Choose evp, tvp or vp.")
    rounding = choose_rounding(config) if options.rounding == "auto" else options.rounding
    cells = two_runs(words, config, rounding)
    out = options.out or Path("runs/chaos") / config.exp / run_id(config)
    require_writable(out, "the folder of the two runs", "out=DIR", inside=True)
    note_unwritable_caches(("controls", "images"))
    folders: dict[str, Path] = {}
    for cell in cells:
        with cpu_kernels("default" if cell.name == "cpu" else None):  # inherited by the process that makes the run
            folders |= ensure_all([cell], out)
    found = {"exp": config.exp, "words": dict(words), "rounding": rounding} | compare(*folders.values())
    replace_file(out / "chaos.json", (json.dumps(found, indent=1) + "\n").encode())
    print(describe(found))
    print(f"Written to {out / 'chaos.json'}.")
    return 0


# ---- the two runs ----------------------------------------------------------------------------------------------------
def common_words(exp: str, others: Pairs, *, targets: bool) -> Pairs:
    """What both runs are told: quiet, without test, with prompts kept on the way, without targets unless asked."""
    words = [("exp", exp), ("log.wandb", "off"), ("log.progress", "false"), ("data.n_test", "0")]
    words += [("train.keep_prompts", f"[{','.join(map(str, UPDATES))}]")]
    if not targets:
        words += [(f"targets.{key}", "[]") for key in ("names", "select", "heldout")]
    return [*words, *others]


def choose_rounding(config: DictConfig) -> str:
    """What changes the rounding of this run on this machine."""
    import torch

    sources = config.sources or [config.source]
    on_gpu = config.train.accelerator != "cpu" and (torch.cuda.is_available() or torch.backends.mps.is_available())
    if not on_gpu:
        return "split" if torch.backends.cpu.get_cpu_capability() == "DEFAULT" else "cpu"
    full = all(source.dtype == "float32" and not source.quant for source in sources) and not config.train.tf32
    return "tf32" if full and torch.cuda.is_available() else "split"


def two_runs(words: Pairs, config: DictConfig, rounding: str) -> list[NamedRun]:
    """The run as it is, and the same run that rounds otherwise.

    Raises:
        ValueError: a batch of an odd number of images cannot be halved.
    """
    other: Pairs = [("train.tf32", "true")] if rounding == "tf32" else []
    if rounding == "split":
        size, parts = config.train.batch_size, config.train.accumulate
        if size % 2:
            raise ValueError(f"rounding=split halves the batch, got train.batch_size={size}. Expected an even number.")
        other = [("train.batch_size", str(size // 2)), ("train.accumulate", str(2 * parts))]
    return [NamedRun("plain", words), NamedRun(rounding, [*words, *other])]


@contextmanager
def cpu_kernels(capability: str | None) -> Iterator[None]:
    """Processes started inside compute with torch's `default` CPU kernels, or with the best ones (None)."""
    before = os.environ.pop(CAPABILITY, None)
    if capability is not None:
        os.environ[CAPABILITY] = capability
    try:
        yield
    finally:
        os.environ.pop(CAPABILITY, None)
        if before is not None:
            os.environ[CAPABILITY] = before


# ---- the comparison --------------------------------------------------------------------------------------------------
def compare(first: Path, second: Path) -> dict[str, Any]:
    """Scores and prompts of two finished runs, as chaos.json holds them.

    `models`: model -> its validation scores in points after the last update and of the exported prompt (the best by
    validation, perhaps of different updates), `[first, second, difference]` each. `apart`: update -> largest difference
    of a pixel value. `worst`: the largest difference of the source's or a target's score. `chaotic`: is it above a
    point?
    """
    scores = [validation_scores(folder) for folder in (first, second)]
    models = {}
    for name, of_first in scores[0].items():
        of_second = scores[1][name]
        metric, n, role = (of_first[key] for key in ("metric", "n", "role"))
        pairs = {key: [of_first[key], of_second[key], of_second[key] - of_first[key]] for key in ("last", "exported")}
        rounded = {key: [round(value, 4) for value in values] for key, values in pairs.items()}
        models[name] = {"role": role, "metric": metric, "n": n, **rounded}
    worst = max(abs(model[key][2]) for model in models.values() for key in ("last", "exported"))
    status = [read_status(folder) for folder in (first, second)]
    return {
        "devices": [entry.get("device") for entry in status],
        "cpu_kernels": [entry.get("cpu_kernels") for entry in status],
        "models": models,
        "apart": prompts_apart(first, second),
        "worst": worst,
        "chaotic": worst > LIMIT,
    }


def validation_scores(folder: Path) -> dict[str, dict[str, Any]]:
    """model -> primary metric, rows, role, and the score in points of the last and of the exported prompt."""
    wanted = ("val", "prompt", "")
    rows = [row for row in read_rows(folder / "results.jsonl") if (row["split"], row["input"], row["group"]) == wanted]
    primary = rows[0]["metric"]
    of_model: dict[str, dict[int, dict]] = {}
    for row in rows:
        if row["metric"] == primary:
            of_model.setdefault(row["mllm"], {})[row["step"]] = row
    exported = json.loads((folder / "prompt" / "manifest.json").read_text("utf-8"))["steps"]
    return {
        name: {
            **{"role": by_step[exported]["role"], "metric": primary, "n": by_step[exported]["n"]},
            **{"last": 100 * by_step[max(by_step)]["value"], "exported": 100 * by_step[exported]["value"]},
        }
        for name, by_step in of_model.items()
    }


def prompts_apart(first: Path, second: Path) -> dict[str, float]:
    """update -> max |delta_first - delta_second| over pixels, for the updates after which both runs kept the prompt."""
    kept = [{int(path.stem): path for path in (folder / "prompts").glob("*.npy")} for folder in (first, second)]
    pairs = {step: [np.load(of[step], allow_pickle=False) for of in kept] for step in sorted(kept[0].keys() & kept[1])}
    return {str(step): float(np.abs(a - b).max()) for step, (a, b) in pairs.items()}


def describe(found: Mapping[str, Any]) -> str:
    """The comparison for people."""
    how = {
        "cpu": f"CPU kernels {' against '.join(map(str, found['cpu_kernels']))}",
        "tf32": "updates in float32 against TF32",
        "split": "the batch whole against in two halves",
    }[found["rounding"]]
    header = ["model", "rows", "metric"]
    runs = ("plain", found["rounding"], "difference")
    header += [f"{what} prompt: {which}" for what in ("last", "exported") for which in runs]
    rows = []
    for name, model in found["models"].items():
        cells = [text for key in ("last", "exported") for text in ("{:.1f} {:.1f} {:+.1f}".format(*model[key])).split()]
        rows.append([f"{name} ({model['role']})", str(model["n"]), model["metric"], *cells])
    apart = [[step, f"{value:.1e}"] for step, value in found["apart"].items()]
    lines = [f"The same run twice: {how}. Validation scores in %, differences in points:", "", markdown(header, rows)]
    lines += ["How far the two prompts are apart, in pixel values of [0, 1]:", "", markdown(["update", "max"], apart)]
    return "\n".join([*lines, verdict(found)])


def verdict(found: Mapping[str, Any]) -> str:
    """One sentence: a warning, or why there is none."""
    if found["chaotic"]:
        return (
            f"Warning: rounding alone moved a score by {found['worst']:.1f} points. This optimisation is chaotic: its "
            "seeds are draws of that chaos, other machines give other prompts, and smaller differences between two "
            "settings say nothing. Try method.optimizer=adam method.lr=0.01 method.schedule=cosine_step, or "
            "train.average_last=20, and state means over seeds."
        )
    far = max(found["apart"].values(), default=0.0)
    if not far:
        return (
            "Both prompts are the same to the bit: this change of kernels changed no rounding, so that nothing was "
            "tested. Try rounding=split."
        )
    if far > FAR:
        return (
            f"Scores differ by at most {found['worst']:.1f} points, but rounding made another prompt (pixels differ by "
            f"{far:.2g}): another seed may differ by more."
        )
    return f"Scores differ by at most {found['worst']:.1f} points: rounding does not decide this run."


if __name__ == "__main__":
    run_command(main)
