"""Learn a prompt on one MLLM, show what it does to others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiments.cli import HELP, help_text, parse_words, run_command
from experiments.recipes import list_recipes, load_experiment
from experiments.schema import Experiment

FLAGS = (*HELP, "--list", "--dry-run")
USAGE = """
usage: python -m experiments.train exp=NAME [key=value ...] [--list] [--dry-run]
       python -m experiments.train resume=RUN_FOLDER

Learns one visual prompt on a frozen source MLLM, scores it on every target at each validation epoch and once on test,
and writes everything to one run folder.

  --list      the recipes, one line each
  --dry-run   the resolved configuration, what would be loaded, and the memory it needs; loads nothing

A recipe sets some of the keys below, a word on the command line wins over it. A default of `-` is nothing, typed as
null. method=evp is short for method.name=evp; data= and source= likewise. Lists are typed [a,b].
"""


def main(argv: Sequence[str]) -> int:
    words = parse_words(argv, flags=FLAGS)
    if words.flags & set(HELP):
        print(help_text(Experiment, USAGE))
        return 0
    if "--list" in words.flags:
        return _list()
    resumed = [value for key, value in words.pairs if key == "resume" and value not in ("null", "")]
    if resumed:
        return _resume(resumed[-1], [pair for pair in words.pairs if pair[0] not in ("resume", "exp")])
    config = load_experiment(words.pairs)
    if "--dry-run" in words.flags:
        from experiments.run.memory_plan import print_plan

        return print_plan(config)
    from experiments.run.start import start_run

    start_run(config)
    return 0


def _list() -> int:
    recipes = list_recipes()
    width = max(map(len, recipes))
    print("\n".join(f"{name:{width}}  {header}" for name, header in recipes.items()))
    return 0


def _resume(folder: str, others: list[tuple[str, str]]) -> int:
    if others:
        raise ValueError(
            f"A resumed run keeps its configuration; got {' '.join('='.join(pair) for pair in others)} beside resume=. "
            "Leave them out, or start a new run."
        )
    from experiments.run.start import resume_run

    resume_run(Path(folder).expanduser())
    return 0


if __name__ == "__main__":
    run_command(main)
