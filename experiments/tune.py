"""Choose the settings of every method on validation data, fairly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from datamodules.writable import note_unwritable_caches, require_writable
from experiments.cli import parse_options, require_each_once, run_command, unknown
from experiments.sweep.cells import made_with
from experiments.tuning.arms import methods_of_recipe, rows_of_sweep
from experiments.tuning.search import Record, Trial, search
from experiments.tuning.space import METHODS

# Given as words these would let a trial read more than the source's validation data, or differ from the others.
OURS = ("seed", "out", "resume", "monitor", "official", "method", "source", "data.n_test")
OURS_OF = ("targets.names", "targets.select", "targets.heldout", "source.name", "data.name", "method.name", "sources")
WEIGHTS = ("method.fca", "method.fca_relative", "method.tse")


@dataclass
class Options:
    """
    python -m experiments.tune [exp=fashion | sweep=NAME] [data=NAME] [sources=A,B] [methods=vp,evp,fca,tse,tvp]
                               [trials=N] [plan=true] [out=DIR] [key=value ...]

    One seeded search for each source and method over lr, number of updates, start (prompt.init) and the weights of FCA
    (also its scale-free form) and TSE, with the same number of trials for all, judged by the mean over two training
    seeds of the SOURCE's validation score: no target is loaded, no test row is read. The methods fca and tse are evp
    with that one loss more.

    A range grows where the best trial lies on its edge, with half as many trials more for every source and method;
    what still lies on an edge after `rounds` of it is said. Every trial, also a failed one, is in OUT/tuning.json.
    Killed at any moment, the same command goes on; the same seed makes the same trials, whatever `jobs` is.

    A sweep takes the result over: `tuned: FILE` in its recipe, or tuned=FILE beside `transfer_sweep`. Any other
    key=value goes to every trial (see `python -m experiments.train --help`); method.lr, prompt.init, train.max_steps
    and train.epochs are then fixed instead of searched for.

    sweep=NAME tunes the rows of a sweep's recipe instead of those five: each with its own words (a kind of prompt, of
    step, of frames), all with the same number of trials, on its sources and its words for every cell.
    """

    exp: str = ""
    """the recipe (default: fashion)"""
    sweep: str = ""
    """a sweep's recipe in its place"""
    data: str = ""
    """another data set than the recipe's, or one of the sweep's"""
    sources: tuple[str, ...] = ()
    """models to tune on, separated by commas, each for itself (default: the recipe's source, the sweep's)"""
    methods: tuple[str, ...] = ()
    """methods to tune (default: vp,evp,fca,tse,tvp, or the sweep's)"""
    out: Path | None = None
    """folder of the trials (default: runs/tune/<exp or sweep>-<data>)"""
    seed: int = 0
    """of the search"""
    seeds: tuple[int, ...] = (0, 1)
    """training seeds of every trial"""
    trials: int = 16
    """of each source and method in the first round"""
    rounds: int = 3
    """most times that ranges grow"""
    max_steps: int = 0
    """most updates of a trial (0: as long as the recipe's run)"""
    jobs: int = 2
    """runs at a time, one thread each"""
    plan: bool = False
    """only say how many trials there will be and how long they will take"""


def main(argv: Sequence[str]) -> int:
    others: list[tuple[str, str]] = []
    options = parse_options(Options, argv, others=others)
    if options is None:
        return 0
    _check(options, others)
    what = (options.data, options.sources, options.methods)
    if options.sweep:
        compared = rows_of_sweep(options.sweep, *what)
    else:
        compared = methods_of_recipe(options.exp or "fashion", *what[:2], options.methods or tuple(METHODS))
    exp, data, sources, arms, words_of = compared
    out = options.out or Path(f"runs/tune/{options.sweep or exp}-{data}")
    if not options.plan:
        require_writable(out, "the folder of the trials", "out=DIR", inside=True)
        note_unwritable_caches(("controls", "images"))
    # Lightning takes seconds to import: --help and a wrong word are answered before.
    from experiments.sweep.plan import count_rows
    from experiments.tuning.tell import estimate, summary
    from experiments.tuning.trials import build_study, require_studies, shared_config, train_trials, trial_words

    words = {source: [*words_of.get(source, ()), *others] for source in sources}
    base = {source: trial_words(exp, data, own) for source, own in words.items()}
    rows = count_rows(shared_config(base[sources[0]], sources[0]))
    studies = [
        build_study(base[source], source, arm, options.max_steps, rows) for source, arm in product(sources, arms)
    ]
    asked: dict[str, Any] = {"exp": exp, "data": data, "sources": list(sources), "methods": [arm.name for arm in arms]}
    asked |= {key: getattr(options, key) for key in ("seed", "seeds", "trials", "rounds", "max_steps")}
    shared = words[sources[0]]
    asked |= {"words": dict(shared)}
    if any(own != shared for own in words.values()):
        asked |= {"words": {}, "source_words": {source: dict(own) for source, own in words.items()}}
    if options.sweep:
        asked |= {"sweep": options.sweep, "words_of": {arm.name: dict(arm.words) for arm in arms}}
    record = Record(out / "tuning.json", asked, made_with())
    costs = {"rounds": options.rounds, "seeds": len(options.seeds), "jobs": options.jobs}
    print(estimate(studies, record, base, rows, trials=options.trials, **costs), flush=True)
    if options.plan:
        return 0
    require_studies(studies, base)

    def run(trials: list[Trial]) -> None:
        first, last = min(trial.number for trial in trials), max(trial.number for trial in trials)
        print(f"Round {trials[0].round}, trials {first} to {last} of each source and method:", flush=True)
        train_trials(trials, {arm.name: arm for arm in arms}, base, out, options.seeds, options.jobs)

    search(studies, record, run, seed=options.seed, trials=options.trials, rounds=options.rounds)
    print(summary(studies, record))
    print(f"Written to {record.path}. A sweep takes it over with tuned={record.path}, or `tuned:` in its recipe.")
    return 0


def _check(options: Options, others: Sequence[tuple[str, str]]) -> None:
    """Raises: ValueError for options without a meaning, and for words that tuning decides itself."""
    for key, least in (("trials", 2), ("rounds", 0), ("max_steps", 0), ("jobs", 1)):
        if getattr(options, key) < least:
            raise ValueError(f"Expected {key} >= {least}, got {key}={getattr(options, key)}.")
    if options.sweep and options.exp:
        raise ValueError(f"sweep={options.sweep} names its recipe itself. Leave out exp={options.exp}.")
    for method in () if options.sweep else options.methods:
        if method not in METHODS:
            raise unknown("method", method, list(METHODS))
    require_each_once(options, ("sources", "methods", "seeds"), optional=("sources", "methods"))
    for key, value in others:
        if key in (*OURS, *OURS_OF):
            raise ValueError(
                f"{key}={value}: a trial reads the source's validation data and nothing else, and tuning decides what "
                "it trains. Leave it out (see --help for sources=, data=, methods=, seeds=)."
            )
        if key in WEIGHTS:
            raise ValueError(f"{key}={value} is searched for, by the methods that have it. Leave it out.")


if __name__ == "__main__":
    run_command(main)
