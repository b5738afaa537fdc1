"""Reading a model by what it writes: generate, parse (answer_parser.py), and set beside the likelihood reading.

Metrics bear the names of the likelihood reading with `gen_` before them; an answer that names no candidate counts as
wrong, as not yes, and in `unparsable`; `gen_mae` is over the parsed answers, its n says how many. `agreement` is the
share of rows where the parsed answer is also the most likely candidate (an unparsable one never agrees). There is no
generated ROC-AUC: a text has no score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_modules.answer_parser import parse_answer
from lightning_modules.metrics import Estimate, Scores, estimate, group_places, proportion
from lightning_modules.vocabulary import TASK_METRICS

ToFrames = Callable[[Tensor], Tensor]
STYLES = {"recognition": "infer", "counting": "vqa", "reasoning": "vqa", "hallucination": "vqa"}  # vqa asks for short


def read_parsed(text: str, candidates: Sequence[str], label: int) -> int:
    """The candidate a text names by our parser, -1 for none; the right one plays no part."""
    named = parse_answer(text, candidates)
    return -1 if named is None else named


def read_substring(text: str, candidates: Sequence[str], label: int) -> int:
    """The reference's rule: right is a text that holds the right answer anywhere, "3" in "13" too; "three" is wrong."""
    if candidates[label] in text:
        return label
    named = read_parsed(text, candidates, label)
    return -1 if named == label else named


WRITTEN_TOKENS = 16  # of an answer that stands for a likelihood; as many as `evaluate scoring=generate` allows

READINGS = {"parse": read_parsed, "substring": read_substring}


class Answers(NamedTuple):
    """One model's texts on one input, in the order of `ids`. parsed: (N,) index of the candidate, -1 for none.

    unanswered: ids that a server left without an answer, which are not among `ids`.
    """

    ids: list[str]
    labels: np.ndarray
    parsed: np.ndarray
    texts: list[str]
    groups: list[str]
    unanswered: Sequence[str] = ()

    def take(self, places: np.ndarray) -> Answers:
        ids, texts, groups = ([column[i] for i in places] for column in (self.ids, self.texts, self.groups))
        return Answers(ids, self.labels[places], self.parsed[places], texts, groups, self.unanswered)

    def as_scores(self) -> Scores:
        """One-hot scores, marked `written`; an unparsable answer chooses a last candidate that is never right."""
        width = 1 + int(max(self.labels.max(), self.parsed.max(), 1)) if len(self.ids) else 2
        chosen = np.where(self.parsed < 0, width, self.parsed)
        table = np.zeros((len(self.ids), width + 1), np.float32)
        table[np.arange(len(self.ids)), chosen] = 1
        return Scores(self.ids, self.labels, table, self.groups, (), self.unanswered, True)


@torch.inference_mode()
def generate_batches(
    mllm: Any,
    batches: Iterable,
    inputs: Mapping[str, ToFrames],
    candidates: Sequence[str] | None,
    *,
    style: str,
    rule: str = "parse",
    **decoding: Any,
) -> dict[str, Answers]:
    """Answers of one model on every input of each batch, sorted by id like the records of `score_batches`."""
    read = READINGS[rule]
    found: dict[str, list[tuple[str, int, int, str, str]]] = {name: [] for name in inputs}
    for batch in batches:
        images = batch.images.to(mllm.device)
        options = batch.candidates or [candidates] * len(batch.ids)
        for name, to_frames in inputs.items():
            # A server may leave a picture without an answer (None), which is no wrong answer.
            ask = mllm.written if getattr(mllm, "way", "") else mllm.generate
            texts = ask(to_frames(images), batch.questions, style=style, **decoding)
            rows = zip(batch.ids, batch.labels.tolist(), options, texts, batch.groups, strict=True)
            for key, label, own, text, group in rows:
                parsed = -1 if text is None else read(text, own, label)
                found[name].append((key, label, parsed, text, group))
    return {name: _joined(rows) for name, rows in found.items()}


def written_scores(mllm: Any, frames: Tensor, candidates: Sequence, batch: Any, task: str, rule: str) -> Scores:
    """The record of a served model that shows no likelihoods: what it writes, parsed, as one-hot scores.

    Raises ValueError for a task stated in ROC-AUC, which a text has none of.
    """
    if TASK_METRICS[task][0] == "auroc":
        raise ValueError(
            f"'{mllm.name}' gives no likelihoods, and {task} is stated in ROC-AUC, which written answers have none of. "
            "Expected vLLM or SGLang behind the address, or another data set."
        )
    one = batch._replace(images=frames)
    found = generate_batches(
        mllm,
        [one],
        {"": lambda images: images},
        candidates,
        style=STYLES[task],
        rule=rule,
        max_new_tokens=WRITTEN_TOKENS,
    )
    return found[""].as_scores()


def _joined(rows: Sequence[tuple[Any, ...]]) -> Answers:
    unanswered = sorted(row[0] for row in rows if row[3] is None)
    rows = sorted((row for row in rows if row[3] is not None), key=lambda row: row[0])
    ids, labels, parsed, texts, groups = ([row[k] for row in rows] for k in range(5))
    return Answers(ids, np.array(labels, np.int64), np.array(parsed, np.int64), texts, groups, unanswered)


def generate_inputs(
    mllm: Any,
    datamodule: Any,
    inputs: Mapping[str, tuple[int, ToFrames]],
    *,
    split: str,
    n: int | None,
    style: str | None = None,
    **decoding: Any,
) -> dict[str, Answers]:
    """`score_inputs`, by generation. style: `infer` or `vqa`; None: short answers except for recognition."""
    result: dict[str, Answers] = {}
    for size in sorted({size for size, _ in inputs.values()}):
        of_size = {name: to_frames for name, (s, to_frames) in inputs.items() if s == size}
        loader = datamodule.with_image_size(size).loader(split, n=n)
        how = {"style": style or STYLES[datamodule.task], "rule": datamodule.answer_rule} | decoding
        result |= generate_batches(mllm, loader, of_size, datamodule.candidates, **how)
    return {name: result[name] for name in inputs}


def answer_metrics(
    task: str, answers: Answers, likelihood: Scores, numbers: np.ndarray | None = None
) -> dict[str, dict[str, Estimate]]:
    """Compute by group ("" for all rows) every `gen_` metric of the task, `unparsable` and `agreement`.

    likelihood: the record of the same model and input. numbers: see `task_metrics`.
    Raises: ValueError when the two are not of the same samples.
    """
    if answers.unanswered or likelihood.unanswered:
        at, places = _common(answers.ids, likelihood.ids)
        answers, likelihood = answers.take(at), likelihood.take(places)
        numbers = None if numbers is None else numbers[at]
    if answers.ids != likelihood.ids:
        raise ValueError("Answers and scores must be of the same samples in the same order; their ids differ.")
    result = {}
    for group, at in group_places(answers.groups).items():
        some, likely = answers.take(at), likelihood.take(at)
        own, units = None if numbers is None else numbers[at], likely.unit_numbers
        metrics = {f"gen_{name}": value for name, value in _generated(task, some, own, likely.units).items()}
        result[group] = metrics | {
            "unparsable": proportion((some.parsed < 0).astype(np.float64), units),
            "agreement": proportion((some.parsed == likely.predictions).astype(np.float64), units),
        }
    return result


def _common(one: Sequence[str], other: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Places in two lists of sorted ids of those that both hold."""
    both = set(one) & set(other)
    of_one, of_other = ([i for i, key in enumerate(ids) if key in both] for ids in (one, other))
    return np.array(of_one, np.int64), np.array(of_other, np.int64)


def _generated(task: str, answers: Answers, numbers: np.ndarray | None, units: Sequence[str]) -> dict[str, Estimate]:
    scores = answers.as_scores()._replace(units=units)
    found = {name: estimate(name, scores) for name in TASK_METRICS[task] if name not in ("top5", "auroc", "mae")}
    known = np.flatnonzero(answers.parsed >= 0)
    if task == "counting" and numbers is not None and len(known):
        found["mae"] = estimate("mae", scores.take(known), numbers[known])
    return found
