"""A configuration is turned into things once a run; a model's files are looked for where they are loaded from."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from experiments.recipes import load_experiment
from experiments.run import build
from experiments.run.preflight import missing_things
from experiments.run.prompt_start import start_prompt, start_record
from experiments.train import main
from lightning_modules.artefact import prompt_sha256
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


def test_a_run_whose_weights_are_missing_names_the_commands_that_get_them(tmp_path):
    words = ["exp=cifar10_blip2", f"out={tmp_path / 'run'}", f"source.weights={tmp_path}", "targets.heldout=[]"]
    with pytest.raises(FileNotFoundError) as caught:
        main([*words, "method.tse=1", "method.clip=ViT-B-32"])
    for name in ("blip2", "ViT-B-32"):
        assert f"python -m model_zoo fetch {name} weights={tmp_path}" in str(caught.value)


def test_the_monitor_is_the_first_source_s_own_score():
    words = [("exp", "smoke"), ("sources", "[{name: embedded_llava},{name: embedded_blip2}]")]
    assert build.RunParts(load_experiment(words)).monitor == "val/top1/embedded_llava"


def test_a_replicate_start_is_a_function_of_the_seed_and_the_train_rows_and_is_recorded():
    def made(seed, images=8):
        words = [("exp", "smoke"), ("prompt.init", "replicate"), ("prompt.init_images", str(images))]
        config = load_experiment([*words, ("seed", str(seed)), ("data.augment", "true")])
        datamodule = build.build_datamodule(config)
        return start_prompt(config, datamodule), start_record(config, datamodule), datamodule

    (first, record, datamodule), (same, again, _), (other, _, _) = made(1), made(1), made(2)
    assert torch.equal(first.delta, same.delta) and record == again
    assert record == {"init": "replicate", "images": 8, "prompt": prompt_sha256(first.delta)}
    assert not torch.equal(first.delta, other.delta) and first.delta.any()
    everything, record, _ = made(1, images=1000)
    assert record["images"] == datamodule.n("train") == 32
    mean = torch.stack([datamodule.image("train", i) for i in range(32)]).mean(0)
    torch.testing.assert_close(everything.delta[:, 0, 0].detach(), mean[:, 0, 0])
