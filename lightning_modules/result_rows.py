"""Turns a `PromptScorer`'s records into metrics to log and rows for `results.jsonl` (docs/run_folder.md#result-rows).

Apart from `records`, which reads and writes rows and loads no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lightning_modules.answer_parser import candidate_numbers
from lightning_modules.answer_scoring import Answers, answer_metrics
from lightning_modules.artefact import prompt_sha256
from lightning_modules.code_version import code_version
from lightning_modules.evaluation import ModelSpec
from lightning_modules.features import drift_metrics
from lightning_modules.metrics import Estimate, Scores, estimate, group_metrics, paired_gain, task_metrics
from lightning_modules.prompts import Prompt
from lightning_modules.scorer import PromptScorer
from lightning_modules.vocabulary import CONTROLS, MAPPED
from model_zoo.registry import picture_facts, server_facts


def summarise(scorer: PromptScorer, name: str, split: str, records: Mapping[str, Scores]) -> dict[str, float]:
    """`<split>/<metric>/<mllm>`, `<split>/gain/<control>/<mllm>` and `<split>/drift/<mllm>` of the model `name`."""
    numbers = candidates_as_numbers(scorer.datamodule, split, records["prompt"].ids)
    metrics = task_metrics(scorer.datamodule.task, records["prompt"], numbers)
    values = {f"{split}/{metric}/{name}": estimate.value for metric, estimate in metrics.items()}
    for control in (c for c in CONTROLS if c in records):
        gain = paired_gain(scorer.metric, records["prompt"], records[control])
        values[f"{split}/gain/{control}/{name}"] = gain.value
    if (split, name) in scorer.drifts:
        values[f"{split}/drift/{name}"] = drift_metrics(scorer.drifts[split, name])["drift"].value
    return values


def score_rows(
    scorer: PromptScorer,
    spec: ModelSpec,
    split: str,
    records: Mapping[str, Scores],
    prompts: Mapping[str, Prompt],
    context: dict[str, Any],
) -> list[dict[str, Any]]:
    """Result rows of one model's scores; `context` holds run, epoch, step, seed, method, source..."""
    data = scorer.datamodule
    groups = {
        name: group_metrics(data.task, record, candidates_as_numbers(data, split, record.ids))
        for name, record in records.items()
    }
    if "prompt" in groups and (split, spec.name) in scorer.drifts:
        groups["prompt"][""] |= drift_metrics(scorer.drifts[split, spec.name])
    for name, record in scorer.mapped.get((split, spec.name), {}).items():
        groups[name][""] |= {MAPPED: estimate("top1", record)}
    return _as_rows(scorer, spec, split, groups, records, prompts, context)


def answer_rows(
    scorer: PromptScorer,
    spec: ModelSpec,
    split: str,
    answers: Mapping[str, Answers],
    records: Mapping[str, Scores],
    prompts: Mapping[str, Prompt],
    context: dict[str, Any],
) -> list[dict[str, Any]]:
    """Result rows of what one model wrote, beside its scores in `records`."""
    data = scorer.datamodule
    groups = {
        name: answer_metrics(data.task, own, records[name], candidates_as_numbers(data, split, own.ids))
        for name, own in answers.items()
    }
    return _as_rows(scorer, spec, split, groups, answers, prompts, context)


def _as_rows(
    scorer: PromptScorer,
    spec: ModelSpec,
    split: str,
    metrics_of: Mapping[str, Mapping[str, Mapping[str, Estimate]]],
    records: Mapping[str, Scores] | Mapping[str, Answers],
    prompts: Mapping[str, Prompt],
    context: dict[str, Any],
) -> list[dict[str, Any]]:
    """metrics_of: input -> group -> metric -> estimate."""
    data = scorer.datamodule
    digest = {name: prompt_sha256(prompt.delta) for name, prompt in prompts.items()}
    common = context | {
        "mllm": spec.name,
        "role": spec.role,
        "data": data.name,
        "split": split,
        "model_fp": spec.fingerprint(),
        "data_fp": data.fingerprint(split, scorer.sizes[split]),
        "left_out": len(data.left_out(split)),
        "dtype": spec.precision,
        "scorer": code_version(),
    }
    if scorer.through:
        common |= {"through": ",".join(scorer.through)}
    if "tiles" in spec.options:
        frame = next(prompt.frame for prompt in prompts.values())
        common |= picture_facts(spec.name, spec.weights, spec.options["tiles"], frame)
    server = server_facts(spec.name, spec.weights)
    made = []
    for name, groups in metrics_of.items():
        kind = "control" if name in CONTROLS else split
        own: dict[str, Any] = {"kind": kind, "input": name, "prompt": digest.get(name)}
        own |= server | {"unanswered": len(records[name].unanswered)} if server else {}
        for group, metrics in groups.items():
            made += [common | own | {"group": group, "metric": m} | v._asdict() for m, v in metrics.items()]
    return made


def candidates_as_numbers(datamodule: Any, split: str, ids: list[str]) -> np.ndarray | None:
    """(N, K) what each candidate of these rows counts, for counting tasks whose candidates are all numbers."""
    if datamodule.task != "counting":
        return None
    own = {row.id: row.candidates for row in datamodule.rows(split)}
    return candidate_numbers([own[row_id] or datamodule.candidates for row_id in ids])
