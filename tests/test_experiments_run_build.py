"""A configuration is turned into things once a run; a model's files are looked for where they are loaded from."""

from __future__ import annotations

from collections import Counter

import pytest

from experiments.recipes import load_experiment
from experiments.run import build
from experiments.run.preflight import missing_things
from experiments.train import main
from lightning_modules.evaluation import ModelSpec

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:.*ModelCheckpoint with manual optimization"),
]


def test_a_run_makes_its_data_module_and_names_each_of_its_models_once(tmp_path, monkeypatch):
    made: Counter = Counter()
    load = build.load_datamodule

    def counted(name, **options):
        made[name] += 1
        return load(name, **options)

    class Counted(ModelSpec):
        def __init__(self, name, *args, **options):
            made[name] += 1
            super().__init__(name, *args, **options)

    monkeypatch.setenv("TVP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "load_datamodule", counted)
    monkeypatch.setattr(build, "ModelSpec", Counted)
    main(["exp=smoke", f"out={tmp_path / 'run'}", "train.epochs=1", "targets.heldout=[]"])
    assert made == {"emoji_recognition": 1, "embedded_minigpt4": 1, "embedded_instructblip": 1}


def test_every_source_is_looked_for_in_its_own_weights_folder(tmp_path):
    folders = {name: str(tmp_path / name) for name in ("minigpt4", "blip2")}
    sources = ",".join(f"{{name: {name}, weights: {folder}}}" for name, folder in folders.items())
    words = [("exp", "cifar10_minigpt4"), ("method", "evp"), ("targets.heldout", "[]"), ("sources", f"[{sources}]")]
    blocks = missing_things(build.RunParts(load_experiment(words)))
    for name, folder in folders.items():
        assert [text for text in blocks if text.startswith(f"No {name} weights in '{folder}'. Expected:")]


def test_the_monitor_is_the_first_source_s_own_score():
    words = [("exp", "smoke"), ("sources", "[{name: embedded_llava},{name: embedded_blip2}]")]
    assert build.RunParts(load_experiment(words)).monitor == "val/top1/embedded_llava"
