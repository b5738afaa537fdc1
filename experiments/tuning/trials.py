"""The runs behind a tuning: what a trial trains, and what it is judged by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, get_args, get_type_hints

from omegaconf import DictConfig

from experiments.cli import alternatives
from experiments.recipes import as_yaml, load_experiment
from experiments.run.build import run_length
from experiments.run.ensure import NamedRun, ensure_all
from experiments.run.folder import read_status
from experiments.schema import Prompt
from experiments.sweep.identity import Fingerprints
from experiments.sweep.plan import updates_of_an_epoch
from experiments.tuning.search import Study, Trial
from experiments.tuning.space import FIXES, Arm, Value, initial_space, words_of
from lightning_modules.records import read_rows

Pairs = Sequence[tuple[str, str]]
NO_RATE = ("method.lr", "null")


def trial_words(exp: str, data: str, others: Pairs = ()) -> list[tuple[str, str]]:
    """The words that all trials of a source share: no target is loaded, no test row read. others: further words."""
    words = [("exp", exp), ("data", data), ("sources", "[]"), ("monitor", "source"), ("data.n_test", "0")]
    words += [("targets.names", "[]"), ("targets.select", "[]"), ("targets.heldout", "[]")]
    return [*words, ("log.wandb", "off"), ("log.progress", "false"), *others]


def build_study(base: Pairs, source: str, arm: Arm, max_steps: int, rows: dict[str, int]) -> Study:
    """Where the search for a source and method starts, less what the shared words fix.

    max_steps: most updates of a trial; 0: as many as the recipe's run. rows: split -> how many, the same for all.

    Raises:
        ValueError: the words make no valid run, or validation rows are test rows.
    """
    words = _neutral_words(base, source, arm, {})
    config = load_experiment(words)
    per_epoch = updates_of_an_epoch(config, rows)
    most = max_steps or run_length(config, per_epoch)[1]
    given = {FIXES[key] for key, _ in base if key in FIXES}
    inits = tuple(init for init in _inits() if "init" in given or _is_valid([*words, ("prompt.init", init)]))
    space = initial_space(arm, config.method.optimizer, most, inits)
    return Study(source, arm, {name: dim for name, dim in space.items() if name not in given}, per_epoch)


def _neutral_words(base: Pairs, source: str, arm: Arm, params: Mapping[str, Value]) -> list[tuple[str, str]]:
    """Without the recipe's rate and weights, which belong to another optimizer or method."""
    return [NO_RATE, *_run_words(base, source, arm, words_of(arm, params, 1))]


def _run_words(base: Pairs, source: str, arm: Arm, words: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [*base, ("source.name", source), ("method", arm.base), *_as_pairs(arm.words), *_as_pairs(words)]


def _as_pairs(words: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(key, as_yaml(value)) for key, value in words.items()]


def require_studies(studies: Sequence[Study], base: Mapping[str, Pairs]) -> None:
    """Every missing weight and data file of all the trials, all at once and before the first is trained.

    base: source -> the words that all its trials share.

    Raises: FileNotFoundError with a block of text for each.
    """
    files, blocks = Fingerprints(), dict[str, None]()
    for study in studies:
        params = {"tse": 1.0} if study.arm.tse else {}  # any weight makes a run load CLIP
        words = _neutral_words(base[study.source], study.source, study.arm, params)
        blocks |= dict.fromkeys(files.missing(load_experiment(words)))
    if blocks:
        raise FileNotFoundError("\n".join([*blocks, "See docs/models.md and docs/data.md. No trial was made."]))


def shared_config(base: Pairs, source: str) -> DictConfig:
    """The configuration whose data all trials share.

    Raises:
        ValueError: the words make no valid run, or validation rows are test rows.
    """
    config = load_experiment([NO_RATE, *base, ("source.name", source)])
    if config.data.val != "train":
        raise ValueError("data.val=official takes validation rows from test. Tune with rows of train: data.val=train.")
    return config


def _inits() -> tuple[str, ...]:
    """Every start that the schema knows."""
    return tuple(get_args(alternatives(get_type_hints(Prompt)["init"])[0]))


def _is_valid(words: Pairs) -> bool:
    try:
        load_experiment(words)
    except ValueError:
        return False
    return True


def trial_runs(trial: Trial, arm: Arm, base: Pairs, seeds: Sequence[int]) -> list[NamedRun]:
    """One run a seed; their folders are called by trial and seed. arm: the trial's method."""
    words = _run_words(base, trial.source, arm, trial.words)
    return [NamedRun(f"{trial.name}-s{seed}", [*words, ("seed", str(seed))]) for seed in seeds]


def train_trials(
    trials: Sequence[Trial],
    arms: Mapping[str, Arm],
    base: Mapping[str, Pairs],
    out: Path,
    seeds: Sequence[int],
    jobs: int,
) -> None:
    """Finish the runs of trials and fill in what they found; a trial with a failed run has failed.

    arms: name -> the method of a trial. base: source -> the words that all its trials share.
    """
    runs = {trial.name: trial_runs(trial, arms[trial.method], base[trial.source], seeds) for trial in trials}
    failures: dict[str, str] = {}
    folders = ensure_all([run for own in runs.values() for run in own], out, jobs=jobs, failures=failures)
    for trial in trials:
        for seed, run in zip(seeds, runs[trial.name], strict=True):
            found = None if run.name in failures else best_validation(folders[run.name])
            if found is None:
                trial.error = trial.error or failures.get(run.name, f"{run.name} has no validation score")
                continue
            trial.by_seed[str(seed)], trial.best_step[str(seed)] = found
            status = read_status(folders[run.name])
            trial.seconds += round(status.get("updated", 0.0) - status.get("started", 0.0), 1)
        trial.state = "failed" if trial.error else "finished"
        trial.val = None if trial.error else round(fmean(trial.by_seed.values()), 6)


def best_validation(folder: Path) -> tuple[float, int] | None:
    """(score, update) of the best validation of a run's source in its primary metric: what its prompt was chosen by.

    None where there is none. Of an update that was validated more than once (an attempt whose checkpoint was lost) the
    last row counts.
    """
    rows = read_rows(folder / "results.jsonl")
    rows = [row for row in rows if (row["split"], row["input"], row["group"]) == ("val", "prompt", "")]
    last = {(row["epoch"], row["step"] or 0): row["value"] for row in rows if row["metric"] == rows[0]["metric"]}
    scores = [(value, -step) for (_, step), value in last.items() if value is not None]
    if not scores:
        return None
    value, step = max(scores)
    return value, -step
