"""Measures what a world must hold before a prompt is trained in it: `python -m experiments.embedded_zoo gates`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from datamodules.registry import load_datamodule
from experiments.embedded_zoo.gates_text import gates_markdown, read_gates, read_worlds, worlds_named
from experiments.run.build import control_store
from experiments.run.headroom import PROBED, Measured, at_most, headroom_rows, measure, own_frame, why_no_probe
from experiments.run.headroom_text import BORDER, GAIN, OVER_FULL, PROBE_SCORE
from experiments.run.offsets import one_list
from lightning_modules.atomic import replace_file
from lightning_modules.code_version import code_version
from lightning_modules.evaluation import ModelSpec
from lightning_modules.metrics import Estimate
from lightning_modules.scorer import PromptScorer
from model_zoo.embedded.config import embedded_files

N_VAL, N_PROBE = 300, 2000


def measure_gates(options: Any) -> None:
    """Measure, print and write.

    options: as `experiments.embedded_zoo.__main__.GateOptions`.

    Raises:
        ValueError: an unknown world.
        FileNotFoundError: weights or data are missing.
    """
    torch.set_num_threads(options.threads)
    worlds = read_worlds()
    found = dict(read_gates(options.out)) if options.out.exists() else {}
    for name in worlds_named(options.world, worlds):
        world = worlds[name]
        models = [*world["models"], *world["controls"]]
        data = {of: measure_data(of, models, options.n) for of in world["data"]}
        found[name] = {"code": code_version(), "models": {m: facts(m) for m in models}, "data": data}
        write_gates(options.out, {key: found[key] for key in worlds if key in found})
        print(gates_markdown({name: found[name]}, worlds))
    print(f"Gates: {options.out}")


def measure_data(name: str, models: Sequence[str], n: int) -> dict[str, Any]:
    """All numbers of one data set: what gates.json holds of it.

    Raises:
        ValueError: its rows have different lists of candidates.
    """
    frame = own_frame(models[0])
    pad = frame * 30 // 224
    data = load_datamodule(name, image_size=frame, eval_batch_size=64)
    data.setup()
    sizes = {"val": at_most(data, "val", N_VAL), "test": at_most(data, "test", n)}
    candidates = one_list(data, sizes)
    if candidates is None:
        raise ValueError(f"The rows of {name} have different lists of candidates, so no offset belongs to one of them.")
    no_probe = why_no_probe(data, sizes)
    kinds: dict[str, Any] = {"frame": frame, "pad": pad, "controls": PROBED, "residency": "keep"}
    scorer = PromptScorer(data, control_store(), sizes=sizes, **kinds)
    measured = {}
    for model in models:
        measured[model] = measure(scorer, ModelSpec(model, "heldout"), 0 if no_probe else N_PROBE, candidates)
        print(f"{name}: {model} is measured.", flush=True)
    metric = "accuracy" if scorer.metric == "auroc" else scorer.metric
    counts = {split: sizes[split] or data.n(split) for split in ("test", "val")}
    counts["probe"] = 0 if no_probe else at_most(data, "train", N_PROBE) or data.n("train")
    head = {"metric": metric, "frame": frame, "pad": pad, "rows": counts, "no_probe": no_probe}
    head["data_fp"] = data.fingerprint("test", sizes["test"])
    return head | numbers(metric, measured, candidates)


def numbers(metric: str, measured: Mapping[str, Measured], candidates: Sequence[str]) -> dict[str, Any]:
    """What the gates are read from, in points to two decimals.

    models: of each its scores at full size and in the black border, the change (value, low, high), the probe in the
    border (None without one) and what its own offsets bring at full size. offsets: of -> on -> what they bring there.
    """
    made = headroom_rows(metric, measured, candidates)
    rows = {(row.mllm, row.input, row.metric, row.of): row.value for row in made if not row.group}

    def points(model: str, control: str, name: str) -> float | None:
        value = rows.get((model, control, name, ""))
        return None if value is None else _points(value.value)

    models = {
        m: {
            "full": points(m, "full", metric),
            "black": points(m, BORDER, metric),
            "border": _interval(rows[m, BORDER, OVER_FULL, ""]),
            "probe": points(m, BORDER, PROBE_SCORE),
            "own_offsets": _interval(rows[m, "full", GAIN, m]),
        }
        for m in measured
    }
    offsets = {of: {on: _interval(rows[on, "full", GAIN, of]) for on in measured if on != of} for of in measured}
    return {"models": models, "offsets": offsets}


def _points(value: float) -> float:
    return round(100 * value, 2) + 0.0


def _interval(value: Estimate) -> list[float]:
    return [_points(part) for part in (value.value, value.low, value.high)]


def facts(model: str) -> dict[str, Any]:
    """Fingerprint of the weights, and the share of held-out scenes named right that the model's file says (or None)."""
    with safe_open(embedded_files(model)[1], "pt") as file:
        said = (file.metadata() or {}).get("recognition")
    return {"fingerprint": ModelSpec(model, "heldout").fingerprint(), "recognition": said and _points(float(said))}


def write_gates(path: Path, found: Mapping[str, Any]) -> None:
    """gates.json, whole or not at all; short lists on one line."""
    text = re.sub(r"\[\s+([^][{}]*?)\s+\]", lambda m: f"[{' '.join(m[1].split())}]", json.dumps(found, indent=1))
    replace_file(path, (text + "\n").encode())
