"""How a prompt is learned, from a recipe's words to a finished run: keys, plans, resuming, the early stop."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from experiments.recipes import FOLDER, load_experiment
from experiments.run.folder import read_status
from experiments.run.memory_plan import memory_plan
from experiments.train import main
from lightning_modules.artefact import read_manifest
from lightning_modules.prompts import Prompt
from lightning_modules.records import read_rows
from lightning_modules.tvp import TVPModule

WAYS = ("anchor", "codec", "diversity", "noise", "sharp", "spsa")
ALL_AT_ONCE = (
    *("method.through=[resize,jpeg]", "method.diversity.shift=3", "method.diversity.scale=0.1"),
    *("method.diversity.jitter=0.1", "method.weight_noise=0.02", "method.sharpness=0.5"),
    *("method.anchors=[embedded_blip2]", "method.anchor=0.5"),
)
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:.*ModelCheckpoint with manual optimization"),
]


def load(*words, exp="embedded"):
    return load_experiment([("exp", exp), *(tuple(word.split("=", 1)) for word in words)])


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    before = os.environ.get("TVP_CACHE")
    os.environ["TVP_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("TVP_CACHE") if before is None else os.environ.update(TVP_CACHE=before)


def smoke(out, *words):
    few = ("data.n_test=0", "targets.select=[]", "targets.heldout=[embedded_instructblip]", "targets.residency=keep")
    few += ("targets.n=12", "method.tse=0")
    main(["exp=smoke", f"out={out}", *few, *words])
    return Path(out)


def delta_of(folder):
    return Prompt.load(folder / "prompt").delta


# ---- words -----------------------------------------------------------------------------------------------------------
def test_everything_is_off_unless_a_recipe_says_otherwise():
    method, stop = load().method, load().train.stop_drift
    assert (list(method.through), dict(method.diversity)) == ([], {"shift": 0, "scale": 0.0, "jitter": 0.0})
    assert (method.weight_noise, method.sharpness, method.gradient, stop.mllm) == (0.0, 0.0, "backprop", None)


def test_switching_fca_and_tse_off_keeps_how_a_prompt_is_learned():
    config = load("method=evp", exp="fashion_diversity")
    assert config.method.diversity.shift == 8 and config.method.fca == 0
    assert list(load("method=evp", exp="fashion_codec").method.through) == ["resize", "jpeg"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method.through=[jpg]"], "Unknown 'jpg' in method.through. Available: 8bit, png, jpeg, resize"),
        (["method.through=[8bit,8bit]"], "names one change twice: 8bit, 8bit"),
        (["method.diversity.shift=-1"], "Expected method.diversity.shift from 0 to half of prompt.frame=64, got -1"),
        (["method.diversity.shift=32"], "got 32"),
        (["method.diversity.scale=1"], "Expected 0 <= method.diversity.scale < 1, got 1"),
        (["method.diversity.jitter=-0.1"], "Expected 0 <= method.diversity.jitter < 1"),
        (["method.diversity.rotate=1"], "'rotate' not in 'Diversity'"),
        (["method.weight_noise=2"], "Expected 0 <= method.weight_noise < 1, got 2"),
        (["method.weight_noise=nan"], "Expected 0 <= method.weight_noise < 1, got nan"),
        (["method.sharpness=-1"], "Expected method.sharpness >= 0 (0: off), got -1"),
        (["method.gradient=zoo"], "expected one of"),
        (["method.spsa_c=0"], "Expected 0 < method.spsa_c <= 1"),
        (["method.spsa_directions=0"], "method.spsa_directions >= 1"),
        (["method.gradient=spsa", "method.sharpness=1"], "method.gradient=spsa knows loss values only"),
        (["method.weight_noise=0.1", "train.feature_cache=float32"], "Set train.feature_cache=off"),
        (["method.weight_noise=0.1", "train.compile=true"], "Set train.compile=false"),
        (["train.stop_drift.mllm=blip2"], "must be a third model whose features can be read: one of the targets"),
        (["train.stop_drift.mllm=embedded_minigpt4"], "not a source and not behind a server"),
        (["train.stop_drift.mllm=embedded_llava", "train.stop_drift.limit=0"], "Expected train.stop_drift.limit > 0"),
        (["train.stop_drift.mllm=embedded_llava", "official=true"], "Leave out train.stop_drift.mllm"),
    ],
)
def test_a_wrong_word_gets_one_message_that_names_it(words, message):
    with pytest.raises(ValueError) as error:
        load(*words, exp="embedded")
    assert message in str(error.value) and "\n" not in str(error.value)


# ---- plans -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("way", WAYS)
def test_every_way_has_a_recipe_at_7b_that_is_planned_without_weights(way, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([f"exp=cifar10_minigpt4_{way}", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "peak " in shown and "MISSING" in shown and ("no gradient kept (spsa)" in shown) == (way == "spsa")
    assert list(tmp_path.iterdir()) == [] and (FOLDER / f"fashion_{way}.yaml").is_file()


def test_the_plan_counts_the_noisy_copy_and_that_spsa_keeps_nothing_for_backward():
    def training(exp, *words):
        from experiments.run.build import RunParts

        words = ("train.accelerator=cpu", "targets.heldout=[]", *words)
        lines = memory_plan(RunParts(load(*words, exp=exp))).lines
        (peak,) = [line for line in lines if line.startswith("peak")]
        return float(peak.split("training ")[1].split(" GiB")[0])

    plain, noisy = training("cifar10_minigpt4"), training("cifar10_minigpt4_noise")
    assert 1.9 < noisy - plain < 2.4  # 1.1 billion weights of tower and Q-Former in bfloat16, and the allocator's share
    assert training("cifar10_minigpt4_spsa") < training("cifar10_minigpt4_evp") - 1


# ---- runs ------------------------------------------------------------------------------------------------------------
def killed_at(monkeypatch, step, out, *words):
    def cut(self, *_):
        if self.global_step == step:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(TVPModule, "on_train_batch_start", cut, raising=False)
        with pytest.raises(Killed):
            smoke(out, *words)


@pytest.mark.slow
@pytest.mark.parametrize("words", [ALL_AT_ONCE, ("method.gradient=spsa", "method.through=[png]")])
def test_a_run_with_everything_on_resumes_mid_epoch_to_the_uninterrupted_prompt(cache, tmp_path, monkeypatch, words):
    alone = (*words, "train.checkpoint_every=1", "targets.heldout=[]")
    whole = smoke(tmp_path / "whole", *alone)
    killed_at(monkeypatch, 6, tmp_path / "cut", *alone)
    main([f"resume={tmp_path / 'cut'}"])
    assert torch.equal(delta_of(tmp_path / "cut"), delta_of(whole))
    plain = smoke(tmp_path / "plain", "targets.heldout=[]")
    assert not torch.equal(delta_of(whole), delta_of(plain))


@pytest.mark.slow
@pytest.mark.parametrize("curves", ["true", "false"])
def test_a_held_out_model_s_features_stop_training_without_a_label_of_it_and_the_run_says_so(
    cache, tmp_path, monkeypatch, capsys, curves
):
    """Four validations; the limit lies between the drifts of the second and the third."""
    words = ("train.epochs=1", "train.val_every_steps=1", f"targets.curves={curves}")
    words += ("train.stop_drift.mllm=embedded_instructblip",)
    from lightning_modules.trainer_callbacks import StopByDrift

    drifts = []
    watch = StopByDrift.on_validation_end

    def watched(self, *args):
        watch(self, *args)
        drifts.append(self.found["drift"])

    with monkeypatch.context() as patched:
        patched.setattr(StopByDrift, "on_validation_end", watched)
        free = smoke(tmp_path / "free", *words, "train.stop_drift.limit=100")
    assert len(drifts) == 4 and max(drifts[:2]) < drifts[2]
    record = read_status(free)["stop_drift"]
    assert record == {
        "mllm": "embedded_instructblip", "limit": 100, "read": "features of validation pictures, no labels",
        "drift": drifts[3], "step": 4, "stopped": False,
    }  # fmt: skip
    limit = f"train.stop_drift.limit={(max(drifts[:2]) + drifts[2]) / 2}"
    capsys.readouterr()
    early = smoke(tmp_path / "early", *words, limit)
    record = read_status(early)["stop_drift"]
    assert (record["step"], record["stopped"], record["drift"]) == (3, True, drifts[2])
    assert (
        "Early stop by features of embedded_instructblip on validation pictures (no labels)" in capsys.readouterr().out
    )
    rows = read_rows(early / "results.jsonl")
    assert {row["step"] for row in rows} == {1, 2, 3} and read_manifest(early / "prompt")["steps"] in (1, 2)
    assert ("embedded_instructblip" in {row["mllm"] for row in rows}) == (curves == "true")
    # Killed after the stop, it resumes to the end, not to further updates.
    if curves == "true":  # the slow one
        with monkeypatch.context() as patched:
            patched.setattr("experiments.run.start.export", lambda *_, **__: (_ for _ in ()).throw(Killed))
            with pytest.raises(Killed):
                smoke(tmp_path / "cut", *words, limit)
        main([f"resume={tmp_path / 'cut'}"])
        assert torch.equal(delta_of(tmp_path / "cut"), delta_of(early))
        assert read_status(tmp_path / "cut")["stop_drift"] == record


@pytest.mark.slow
def test_a_limit_that_the_first_validation_exceeds_is_one_message(cache, tmp_path):
    words = ("train.val_every_steps=1", "train.stop_drift.mllm=embedded_instructblip", "train.stop_drift.limit=1e-6")
    with pytest.raises(ValueError, match=r"No prompt is within train.stop_drift.limit=1e-06: the first"):
        smoke(tmp_path / "run", *words)


@pytest.mark.slow
def test_the_table_says_whose_features_could_have_stopped_the_run(cache, tmp_path):
    words = ("train.epochs=1", "train.stop_drift.mllm=embedded_instructblip", "train.stop_drift.limit=100")
    out = smoke(tmp_path / "run", *words, "data.n_test=24")
    assert "features of embedded_instructblip on validation pictures (no labels)" in (out / "table.md").read_text()
    assert json.loads((out / "run.json").read_text())["stop_drift"]["stopped"] is False


@pytest.mark.slow
@pytest.mark.parametrize("words", [ALL_AT_ONCE, ("method.gradient=spsa", "method.through=[jpeg]")])
def test_two_ranks_equal_one_rank_with_the_doubled_batch(cache, tmp_path, words):
    few = ("targets.select=[]", "targets.heldout=[]", "data.n_test=0", "targets.n=12", "method.tse=0")
    common = ("exp=smoke", "train.max_steps=3", "train.accelerator=cpu", *few, *words)
    main([*common, f"out={tmp_path / 'one'}", "train.batch_size=8"])
    two = (f"out={tmp_path / 'two'}", "train.batch_size=4", "train.devices=2", "train.strategy=ddp")
    command = [sys.executable, "-m", "experiments.train", *common, *two]
    done = subprocess.run(command, cwd=FOLDER.parent.parent, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    assert torch.allclose(delta_of(tmp_path / "two"), delta_of(tmp_path / "one"), atol=1e-4)
