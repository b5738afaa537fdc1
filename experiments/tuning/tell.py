"""What a tuning says before it starts and when it is over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from experiments.cli import markdown
from experiments.recipes import as_yaml, load_experiment
from experiments.sweep.display import clock
from experiments.sweep.plan import HOW, Cost, counted
from experiments.tuning.search import Record, Study, Trial, best_of, edges, half
from experiments.tuning.space import range_of, words_of
from experiments.tuning.trials import Pairs, trial_runs


def estimate(
    studies: Sequence[Study],
    record: Record,
    base: Mapping[str, Pairs],
    rows: dict[str, int],
    *,
    trials: int,
    rounds: int,
    seeds: int,
    jobs: int,
) -> str:
    """How many runs there will be at least and at most, and how long they will take.

    base: source -> the words that all its trials share. rows: split -> how many. trials, rounds: as `search` takes
    them. seeds: runs a trial. jobs: runs at a time.
    """
    least, most = trials, trials + rounds * half(trials)
    costs = [_cost(study, record.of(study), base[study.source], rows, seeds) for study in studies]
    seconds = [sum(cost.seconds for cost in costs) * n * seeds / jobs for n in (least, most)]
    how = "; ".join(HOW[kind] for kind in HOW if kind in {cost.how for cost in costs})
    done = sum(trial.state != "planned" for trial in record.trials)
    return (
        f"{len(studies)} searches (source x method), {least} trials each, up to {most} if ranges grow; {seeds} runs a "
        f"trial: {_span(str(least * len(studies) * seeds), str(most * len(studies) * seeds))} runs, "
        f"{_span(*map(clock, seconds))} with jobs={jobs} ({how}). {done} trials are done."
    )


def _span(least: str, most: str) -> str:
    return least if least == most else f"{least} to {most}"


def _cost(study: Study, trials: Sequence[Trial], base: Pairs, rows: dict[str, int], seeds: int) -> Cost:
    """Of one run: the median of those that are done, else what is counted for a run in the middle of the space."""
    if took := [trial.seconds / seeds for trial in trials if trial.state == "finished" and trial.seconds]:
        return Cost(median(took), "measured")
    middle = {name: range_of(study.space, name).at(0.5) for name in ("lr", "steps") if name in study.space}
    words = words_of(study.arm, middle, study.steps_per_epoch)
    (run,) = trial_runs(Trial(study.source, study.method, 0, 0, {}, words), study.arm, base, [0])
    return counted(load_experiment(run.words), rows)


def summary(studies: Sequence[Study], record: Record) -> str:
    """A table of what was chosen, and what remains at an edge."""
    rows, notes = [], []
    for study in studies:
        trials = record.of(study)
        best, failed = best_of(trials), sum(trial.state == "failed" for trial in trials)
        told = f"{len(trials)}" + (f" ({failed} failed)" if failed else "")
        if best is None or best.val is None:
            rows.append((study.source, study.method, told, "-", "-", "nothing: every trial failed"))
            continue
        by_seed = ", ".join(f"{100 * value:.1f}" for value in best.by_seed.values())
        words = " ".join(f"{key}={as_yaml(value)}" for key, value in best.words.items())
        rows.append((study.source, study.method, told, f"{100 * best.val:.1f}", by_seed, words))
        notes += [_edge_note(study, name, edge, best) for name, edge in edges(study, trials).items()]
    table = markdown(("source", "method", "trials", "val %", "by seed", "chosen on the source's validation data"), rows)
    return "\n".join([table, *(notes or ["No chosen value lies on the edge of what was tried."])])


def _edge_note(study: Study, name: str, edge: str, best: Trial) -> str:
    where = f"{study.source}, {study.method}: {name} {best.params[name]:g} lies on the {edge} edge of what was tried"
    if name == "steps" and edge == "upper":
        return f"{where}, the cap; give max_steps=N for more."
    if name in ("fca", "fca_scale_free", "tse") and edge == "lower":
        return f"{where}: its own validation data would rather do without this loss."
    if not range_of(study.space, name).can_grow(edge):
        return f"{where}, where its range ends."
    return f"{where}; give rounds=N for more."
