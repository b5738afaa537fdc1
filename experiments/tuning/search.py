"""The search itself: rounds of trials, the same number for every source and method, each recorded before it runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from experiments.sweep.tuned import FORMAT
from experiments.tuning.proposals import Params, Told, derived_seed, first_proposals, next_proposals, proposals_beyond
from experiments.tuning.space import Arm, Space, edges_of, grown, words_of
from lightning_modules.atomic import replace_file

WAVE = 4  # TPE's proposals at a time, whatever `jobs` is: a trial must not depend on the machine


class Study(NamedTuple):
    """One (source, method) that is tuned. space: where its search starts. steps_per_epoch: updates of an epoch."""

    source: str
    arm: Arm
    space: Space
    steps_per_epoch: int

    @property
    def method(self) -> str:
        """The arm's name."""
        return self.arm.name


@dataclass
class Trial:
    """One setting of a study, trained once a seed. val: mean over seeds of the source's validation score."""

    source: str
    method: str
    number: int
    round: int
    params: Params
    words: dict[str, Any]
    state: str = "planned"
    val: float | None = None
    by_seed: dict[str, float] = field(default_factory=dict)
    best_step: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    error: str = ""

    @property
    def name(self) -> str:
        """Beginning of the names of its run folders."""
        return f"{self.source}-{self.method}-{self.number:03d}".replace(" ", "_")


class Record:
    """OUT/tuning.json: what was asked for and every trial, planned, finished or failed; replaced as a whole.

    Raises:
        ValueError: the file is damaged, or of a tuning with other options.
    """

    def __init__(self, path: Path, asked: dict[str, Any], made_with: dict[str, Any] | None = None) -> None:
        """asked: the options that decide which trials there are. made_with: code and libraries, for the record."""
        self.path, self.asked, self.made_with = path, asked, made_with or {}
        self.trials: list[Trial] = []
        if path.exists():
            self._read()

    def _read(self) -> None:
        try:
            found = json.loads(self.path.read_text())
            before, trials = found["asked"], [Trial(**row) for row in found["trials"]]
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"'{self.path}' is no record of this kind of tuning. Choose another out=DIR, or move it away."
            ) from None
        wanted = json.loads(json.dumps(self.asked))
        other = [key for key in wanted if wanted[key] != before.get(key)]
        if other:
            told = ", ".join(f"{key} {before.get(key)} there, {wanted[key]} now" for key in other)
            raise ValueError(f"'{self.path}' is of another tuning: {told}. Give the same, or choose another out=DIR.")
        self.trials, self.made_with = trials, found.get("made_with", {})

    def of(self, study: Study) -> list[Trial]:
        """The trials of a study by number."""
        mine = [trial for trial in self.trials if (trial.source, trial.method) == (study.source, study.method)]
        return sorted(mine, key=lambda trial: trial.number)

    def write(self, studies: Sequence[Study], *, done: bool = False) -> None:
        """Replace the file. done: no trial will follow, so that a sweep may take over what is chosen."""
        result: dict[str, Any] = {"format": FORMAT, "state": "finished" if done else "running", "asked": self.asked}
        result |= {"made_with": self.made_with, "chosen": {}, "ranges": {}}
        for study in studies:
            trials = self.of(study)
            if best := best_of(trials):
                chosen = {"words": best.words, "val": best.val, "number": best.number, "edges": edges(study, trials)}
                result["chosen"].setdefault(study.source, {})[study.method] = chosen
            ranges = {name: dim.values for name, dim in space_of(study, trials).items()}
            ends = {k: list(v) if isinstance(v, tuple) else [v.low, v.high] for k, v in ranges.items()}
            result["ranges"].setdefault(study.source, {})[study.method] = ends
        result["trials"] = [asdict(trial) for trial in self.trials]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(self.path, (json.dumps(result, indent=1) + "\n").encode())


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """The finished trial with the best score; ties go to fewer updates, then to the earlier one."""
    over = [trial for trial in trials if trial.val is not None]
    return max(over, key=lambda t: (t.val, -t.params.get("steps", 0), -t.number), default=None)  # type: ignore[operator]


def spaces_of(study: Study, trials: Sequence[Trial]) -> list[Space]:
    """The space of every round so far; each follows from the trials of the rounds before it."""
    spaces = [study.space]
    for i in range(1, max((trial.round for trial in trials), default=0) + 1):
        spaces.append(_grown_after(spaces[-1], trials, i))
    return spaces


def _grown_after(space: Space, trials: Sequence[Trial], round_: int) -> Space:
    return grown(space, _edges(space, [trial for trial in trials if trial.round < round_]))


def _edges(space: Space, trials: Sequence[Trial]) -> dict[str, str]:
    best = best_of(trials)
    return edges_of(space, best.params, [trial.params for trial in trials]) if best else {}


def space_of(study: Study, trials: Sequence[Trial]) -> Space:
    """The space of the latest round."""
    return spaces_of(study, trials)[-1]


def edges(study: Study, trials: Sequence[Trial]) -> dict[str, str]:
    """Dimension -> `lower` or `upper`, where the best trial of a study lies on an edge of its space."""
    return _edges(space_of(study, trials), trials)


def search(
    studies: Sequence[Study],
    record: Record,
    run: Callable[[list[Trial]], None],
    *,
    seed: int,
    trials: int,
    rounds: int,
) -> None:
    """Try settings for every study until no best one lies on an edge that can move, or after `rounds` wider searches.

    The first round has `trials` trials for every study, each wider one half as many, also for the studies whose space
    did not grow: all get the same number. Killed at any moment, the same call goes on with the same trials.

    Args:
        record: keeps the trials; what is in it already is not done again.
        run: trains trials and fills in state, val, by_seed, best_step, seconds, error.

    Raises:
        ValueError: every trial of the first wave failed.
    """
    for i in range(rounds + 1):
        if i and not any(_moves(study, record.of(study)) for study in studies):
            break
        start = 0 if i == 0 else trials + (i - 1) * half(trials)
        for first, count in waves(start, trials if i == 0 else half(trials)):
            _do_wave(studies, record, run, seed=seed, round_=i, start=start, first=first, count=count)
            if first == 0 and all(trial.state == "failed" for trial in record.trials):
                said = record.trials[0].error
                raise ValueError(f"Every one of the first {len(record.trials)} trials failed, the first with: {said}")
    record.write(studies, done=True)


def half(trials: int) -> int:
    """Trials of a wider round."""
    return (trials + 1) // 2


def waves(start: int, count: int) -> list[tuple[int, int]]:
    """(first number, how many) of what is proposed at a time: half of a round, then by WAVE."""
    found, end, first = [(start, half(count))], start + count, start + half(count)
    while first < end:
        found.append((first, min(WAVE, end - first)))
        first += WAVE
    return found


def _moves(study: Study, trials: Sequence[Trial]) -> bool:
    space = space_of(study, trials)
    return grown(space, _edges(space, trials)) != space


def _do_wave(
    studies: Sequence[Study],
    record: Record,
    run: Callable[[list[Trial]], None],
    *,
    seed: int,
    round_: int,
    start: int,
    first: int,
    count: int,
) -> None:
    for study in studies:
        before = record.of(study)
        if len(before) <= first:
            proposed = _proposed(study, before, seed, round_, first == start, count)
            for i, params in enumerate(proposed):
                words = words_of(study.arm, params, study.steps_per_epoch)
                record.trials.append(Trial(study.source, study.method, first + i, round_, params, words))
    record.write(studies)
    todo = [trial for trial in record.trials if trial.number >= first and trial.state == "planned"]
    if todo:
        run(todo)
        record.write(studies)


def _proposed(study: Study, before: Sequence[Trial], seed: int, round_: int, opens: bool, count: int) -> list[Params]:
    """opens: this is the first wave of its round."""
    if not before:
        return first_proposals(study.space, seed, count)
    spaces = spaces_of(study, before)
    if len(spaces) <= round_:
        spaces.append(_grown_after(spaces[-1], before, round_))
    told = [Told(trial.params, trial.val) for trial in before]
    own = derived_seed(seed, study.source, study.method, len(before))
    if round_ and opens:
        return proposals_beyond(spaces[-2], spaces[-1], told, own, count)
    return next_proposals(spaces[-1], told, own, count)
