"""The one list of logged keys: patterns find their keys, places are the ones the code knows, docs/ can be made."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.wandb_records import PLACES, matching_key

from experiments.tracking.keys import KEYS, keys_table
from experiments.tracking.session import public
from lightning_modules.vocabulary import TASK_METRICS

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("logged", "pattern"),
    [
        ("train/loss", "train/loss"),
        ("val/loss", "val/loss"),
        ("val/top1/embedded_llava", "val/<metric>/<mllm>"),
        ("val/gain/black/minigpt4", "val/gain/<control>/<mllm>"),
        ("val/gain/black/mean_select", "val/gain/<control>/mean_select"),
        ("test/drift/blip2", "test/drift/<mllm>"),
    ],
)
def test_a_logged_key_is_found_under_its_own_pattern(logged, pattern):
    assert matching_key(logged).pattern == pattern


@pytest.mark.parametrize("logged", ["train/lo", "train/loss2", "val/top3/blip2", "val/gain/grey/blip2", "loss", "tvp"])
def test_an_undocumented_key_matches_nothing(logged):
    assert matching_key(logged) is None


def test_keys_of_a_sweep_are_apart_from_those_of_a_run():
    assert matching_key("sweep/gain/black/tvp", "sweep").pattern == "sweep/gain/<control>/<method>"
    assert matching_key("sweep/difference_low/tvp-evp", "sweep").pattern == "sweep/difference_low/<pair>"
    assert matching_key("sweep/gain/black/tvp") is None and matching_key("train/loss", "sweep") is None


def test_places_are_the_metrics_and_controls_the_code_knows():
    assert set(PLACES["<metric>"].split("|")) == {metric for metrics in TASK_METRICS.values() for metric in metrics}


def test_patterns_are_unique_and_every_place_is_known():
    assert len({key.pattern for key in KEYS}) == len(KEYS)
    assert {place for key in KEYS for place in re.findall(r"<\w+>", key.pattern)} <= set(PLACES)


def test_the_readme_table_has_a_row_for_every_key():
    for of in ("run", "sweep"):
        rows = keys_table(of).splitlines()[2:]
        assert len(rows) == sum(key.of == of for key in KEYS) and all(row.count("|") == 4 for row in rows)


def test_a_configuration_is_shown_without_the_paths_of_this_machine():
    config = {
        "exp": "smoke",
        "out": "/home/me/runs/a",
        "resume": None,
        "data": {"root": "/home/me/data", "name": "cifar10"},
        "sources": [{"weights": "~/weights"}, {"weights": "weights"}],
    }
    shown = public(config)
    assert shown == {
        "exp": "smoke",
        "data": {"root": "data", "name": "cifar10"},
        "sources": [{"weights": "weights"}, {"weights": "weights"}],
    }


def test_importing_tracking_loads_neither_torch_nor_wandb():
    code = "import sys, experiments.tracking; print({'torch', 'wandb', 'lightning'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "set()"
