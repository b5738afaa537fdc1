"""What models took is given back when they go: the memory of a process of its own, before and after."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parent.parent
RESIDENT = """
import ctypes, gc, json, os, sys
import torch
from experiments.train import main
from lightning_modules.evaluation import ModelSpec
torch.set_num_threads(1)

def resident():
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
"""
MODELS = """
names = ["lite0_llava", "lite0_minigpt4", "lite1_llava", "lite2_minigpt4", "embedded_llava", "web_visualglm"]

def all_of_them():
    models = [ModelSpec(name, "heldout").load("cpu") for name in names]
    return resident()

all_of_them()  # what the first brings along are libraries
start = resident()
held = [all_of_them() for _ in range(5)]
print(json.dumps([start, min(held), resident()]))
"""
RUNS = """
words = ["exp=smoke", "targets.n=8", "data.n_train=8", "data.n_test=8", "targets.residency=keep", "targets.select=[]"]
words += ["targets.heldout=[lite2_minigpt4]"]
start = 0
for n in range(3):
    main([*words, f"out={sys.argv[1]}/{n}"])
    start = start or resident()
print(json.dumps([start, 0, resident()]))
"""


def measured(code: str, folder: Path) -> list[int]:
    """[at the start, with all models, at the end], in bytes."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "TVP_CACHE": str(folder / "cache"), "PYTHONPATH": str(ROOT)}
    args = [sys.executable, "-c", RESIDENT + code, str(folder)]
    done = subprocess.run(args, env=env, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_after_loading_and_dropping_six_models_five_times_memory_is_back(tmp_path: Path) -> None:
    start, held, end = measured(MODELS, tmp_path)
    assert held > 1.05 * start, "a model that stays must be seen"
    assert abs(end / start - 1) < 0.02


def test_after_two_more_runs_memory_is_back(tmp_path: Path) -> None:
    start, _, end = measured(RUNS, tmp_path)
    assert end / start - 1 < 0.02
