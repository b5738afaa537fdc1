"""What is said in the vocabulary is what the other rooms accept."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args, get_type_hints

import pytest

from datamodules.base import TASKS
from experiments.schema import Method, Prompt
from experiments.tracking.keys import METRICS
from lightning_modules.controls import all_controls
from lightning_modules.evaluation import ModelSpec
from lightning_modules.vocabulary import CONTROLS, INITS, INPUT_NAMES, METHODS, ROLES, TASK_METRICS


def test_every_control_named_can_be_made_and_is_an_input():
    assert {control.name for control in all_controls(64, 8)} == set(CONTROLS)
    assert (*CONTROLS, "prompt", "png") == tuple(INPUT_NAMES)


def test_tasks_methods_and_metrics_are_those_of_the_other_rooms():
    assert tuple(TASK_METRICS) == TASKS
    assert set(METHODS) == set(get_args(get_type_hints(Method)["name"]))
    assert set(INITS) == set(get_args(get_args(get_type_hints(Prompt)["init"])[0]))
    assert set(METRICS.split("|")) == {metric for metrics in TASK_METRICS.values() for metric in metrics}


def test_a_model_has_a_role_that_means_something():
    assert [ModelSpec("blip2", role).role for role in ROLES] == list(ROLES)
    with pytest.raises(ValueError, match=r"Unknown role 'target' of 'blip2'. Available: source, select, heldout."):
        ModelSpec("blip2", "target")


def test_the_vocabulary_is_imported_in_an_instant():
    code = "import sys, lightning_modules.vocabulary; print(*{'torch', 'numpy', 'lightning'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
