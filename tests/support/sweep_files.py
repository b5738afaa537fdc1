"""A finished sweep's folder with invented results, as the sweep leaves it, for tests of what reads one; no test."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from experiments.sweep.samples import TransferRecord, write_samples
from lightning_modules.metrics import Scores
from lightning_modules.prompts import build_prompt
from lightning_modules.records import FIELDS
from lightning_modules.vocabulary import CONTROLS

MODELS = ("embedded_minigpt4", "embedded_instructblip", "embedded_llava")
METHODS = ("none", "vp", "evp", "tvp")
CLASSES = 16
BASE = {"full": 0.75, "black": 0.45, "constant": 0.5, "replicate": 0.7}
LIFT = {"none": 0.0, "vp": -0.03, "evp": 0.08, "tvp": 0.14}
"""What a method adds to the share of right answers over the black border."""


def write_sweep(
    out: Path,
    *,
    models: Sequence[str] = MODELS,
    data: Sequence[str] = ("emoji_recognition",),
    methods: Sequence[str] = METHODS,
    seeds: Sequence[int] = (0, 1),
    n: int = 48,
    hurt: tuple[str, str] | None = (MODELS[0], MODELS[2]),
    failed: Sequence[str] = (),
) -> Path:
    """Every cell of the matrix but those of `failed` labels.

    hurt: (source, target) that every learned prompt makes much worse.
    """
    (out / "samples").mkdir(parents=True)
    (out / "sweep.json").write_text(json.dumps({"format": 1, "sweep": "invented"}))
    rows, planned = [], []
    for source in models:
        for name in data:
            for method in methods:
                for seed in seeds:
                    label = f"{source}-{name}-{method}-s{seed}"
                    planned.append({"id": f"{len(planned):016x}", "label": label})
                    if label in failed:
                        rows.append([source, "", name, method, str(seed), "", "", "0", "", "failed"])
                        continue
                    records = [_record(source, t, name, method, seed, n, hurt) for t in models]
                    write_samples(out / "samples" / f"{label}.parquet", records)
                    _write_run(out / "cells" / f"{label}-{len(planned) - 1:08x}"[:200], records, planned[-1])
    (out / "plans").mkdir()
    plan = {"sweep": "invented", "label": "Invented results.", "cells": planned}
    (out / "plans" / "0.json").write_text(json.dumps(plan))
    (out / "plan").write_text("0\n")
    header = "source,target,data,method,seed,control,metric,n,value,status"
    (out / "matrix.csv").write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n")
    return out


def _record(
    source: str, target: str, data: str, method: str, seed: int, n: int, hurt: tuple[str, str] | None
) -> TransferRecord:
    """Right answers by chance: a share for every input; the same images are hard for all inputs."""

    def rng(*words: object) -> np.random.Generator:
        return np.random.default_rng(list(json.dumps(words).encode()))

    hard, labels = rng(data, "hard").random(n), np.arange(n) % CLASSES
    own = rng(target, data).normal(0, 0.05)
    lift = LIFT[method] + (0.0 if method == "none" else rng(source, target, seed, method).normal(0, 0.03))
    lift += 0.15 if source == target and method != "none" else 0.0
    lift -= 0.4 if (source, target) == hurt and method != "none" else 0.0
    shares = {**BASE, "prompt": BASE["black"] + lift, "png": BASE["black"] + lift}
    scores = {}
    for given, share in shares.items():
        noise = rng(target, data, "black" if method == "none" and given in ("prompt", "png") else given, seed)
        right = 0.7 * hard + 0.3 * noise.random(n) < np.quantile(
            0.7 * hard + 0.3 * noise.random(n), min(max(share + own, 0.02), 0.98)
        )
        table = noise.normal(-3, 1, (n, CLASSES)).astype(np.float32)
        answer = np.where(right, labels, (labels + noise.integers(1, CLASSES, n)) % CLASSES)
        table[np.arange(n), answer] = table.max(1) + 0.1 + noise.random(n)
        scores[given] = Scores([f"{data}/test/{i:05d}" for i in range(n)], labels, table, [""] * n)
    if method == "none":
        scores["prompt"] = scores["png"] = scores["black"]
    metric = "top1" if "recognition" in data else "accuracy"
    role = "source" if source == target else "heldout"
    return TransferRecord(source, target, data, method, seed, metric, role, scores)


def _write_run(folder: Path, records: Sequence[TransferRecord], planned: dict) -> None:
    from omegaconf import OmegaConf

    from experiments.recipes import load_experiment

    first = records[0]
    folder.mkdir(parents=True)
    words = [("exp", "smoke"), ("source.name", first.source), ("data.name", first.data), ("seed", str(first.seed))]
    words += [("method.name", first.method), ("targets.select", "[]"), ("out", str(folder))]
    words += [("targets.heldout", f"[{','.join(r.target for r in records if r.role != 'source')}]")]
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(load_experiment(words)))
    (folder / "run.json").write_text(json.dumps({"state": "finished", "updated": 1.0}))
    rows = [row for record in records for row in _rows(record)]
    (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _write_prompt(folder / "prompt", first)


def _rows(record: TransferRecord) -> list[dict]:
    """Three validation epochs that approach the test scores, the test scores, and the drift."""
    empty = dict.fromkeys(FIELDS)
    own = {"seed": record.seed, "method": record.method, "source": record.source, "mllm": record.target}
    own |= {"role": record.role, "data": record.data, "group": "", "n": 24}
    final = {given: float(scores.correct.mean()) for given, scores in record.scores.items()}
    rows = []
    for epoch in range(3):
        for given in (*CONTROLS, "prompt"):
            value = final[given]
            if given == "prompt":
                value = final["black"] + (final["prompt"] - final["black"]) * (epoch + 1) / 3
            rows.append({"split": "val", "epoch": epoch, "input": given, "metric": record.metric, "value": value})
    for given, value in final.items():
        rows.append({"split": "test", "epoch": 2, "input": given, "metric": record.metric, "value": value})
    moved = {"drift": 1.0 + final["prompt"], "drift_relative": 0.1 + abs(final["prompt"] - final["black"])}
    rows += [{"split": "test", "epoch": 2, "input": "prompt", "metric": m, "value": v} for m, v in moved.items()]
    return [empty | own | row for row in rows]


def _write_prompt(folder: Path, record: TransferRecord) -> None:
    kind = "overlay" if record.method == "vp" else "pad"
    prompt = build_prompt(kind, frame=64, pad=8, bounds="image")
    with torch.no_grad():
        if record.method != "none":
            generator = torch.Generator().manual_seed(record.seed + 10 * METHODS.index(record.method))
            prompt.delta.copy_(torch.rand(prompt.delta.shape, generator=generator))
        prompt.project_()
    prompt.save(folder, {"source": [record.source], "data": record.data})
