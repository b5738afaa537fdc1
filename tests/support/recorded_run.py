"""W&B records for tests, made offline by the real commands: a smoke run, and a sweep folder with planted numbers."""

from __future__ import annotations

import csv
import json
import os
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import pytest

from lightning_modules.vocabulary import CONTROLS

SOURCES = TARGETS = ("embedded_blip2", "embedded_llava")
METHODS = ("none", "vp", "evp", "tvp")
SEEDS = (0, 1)
RUN_WORDS = ("exp=smoke", "log.wandb=offline", "log.tensorboard=true", "log.group=night", "log.tags=[embedded,try]")


@contextmanager
def offline(folder: Path):
    """WANDB_MODE=offline, with everything wandb and the controls keep on disk below `folder`."""
    patch = pytest.MonkeyPatch()
    for name, value in {"WANDB_MODE": "offline", "TVP_CACHE": "cache", "WANDB_CACHE_DIR": "w"}.items():
        patch.setenv(name, value if name == "WANDB_MODE" else str(folder / value))
    patch.setenv("WANDB_CONFIG_DIR", str(folder / "config"))
    try:
        yield
    finally:
        patch.undo()


def record_run(out: Path, *words: str) -> Path:
    from experiments.train import main

    main([*RUN_WORDS, f"out={out}", *words])
    return out


def gain(cell: int) -> dict:
    return {"value": cell / 100, "low": cell / 100 - 0.02, "high": cell / 100 + 0.02}


def tiny_sweep(out: Path) -> Path:
    """A finished sweep: two sources and targets, one data set, four methods, two seeds, one cell missing."""
    (out / "cells/a-b-c-s0").mkdir(parents=True)
    (out / "cells/a-b-c-s0/config.yaml").write_text("log: {group: night}\n")
    (out / "sweep.json").write_text(json.dumps({"format": 1, "sweep": "embedded"}))
    (out / "report.html").write_text("<!doctype html><title>report</title><p>all of it</p>")
    (out / "statistics.json").write_text(json.dumps(statistics()))
    with (out / "matrix.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["source", "target", "data", "method", "seed", "control", "metric", "n", "value", "status"])
        for source, target, method, seed in product(SOURCES, TARGETS, METHODS, SEEDS):
            if (source, method, seed) != (SOURCES[1], "tvp", 1):
                writer.writerow([source, target, "emoji", method, seed, "", "top1", 24, "0.500000", "finished"])
        writer.writerow([SOURCES[1], "", "emoji", "tvp", 1, "", "", 0, "", "missing"])
    return out


def statistics() -> dict:
    keys = ("source", "target", "method")
    pairs = [
        dict(zip(keys, names, strict=True))
        | {"data": "emoji", "role": "heldout", "shared": "nothing", "n": 24, "metric": "top1"}
        | gain(50)
        | {"gains": {control: gain(i + 10 * at) for at, control in enumerate(CONTROLS)}}
        for i, names in enumerate(product(SOURCES, TARGETS, METHODS))
    ]
    counts = {"pairs": 2, "seeds": 2, "n": 24}
    methods = [
        {"method": method, "data": data, "over": over, "control": control} | gain(i + 10 * at) | counts
        for i, method in enumerate(METHODS)
        for at, control in enumerate(CONTROLS)
        for data, over in (("", "targets"), ("emoji", "source"))
    ]
    differences = [
        {"methods": list(pair), "data": "", "over": "targets"} | gain(3) | counts
        for pair in (("tvp", "evp"), ("tvp", "vp"))
    ]
    alarm = {"source": SOURCES[0], "target": TARGETS[1], "data": "emoji", "method": "vp", "control": "full"}
    return {
        "schema": 1,
        "pairs": pairs,
        "methods": methods,
        "differences": differences,
        "alarms": [alarm | gain(-9) | {"p_holm": 0.01}],
    }


def rank_environment() -> dict[str, str]:
    """For a run of its own process: this repository importable, one thread."""
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
