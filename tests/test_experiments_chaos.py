"""The chaos check: two runs that differ in rounding alone, how far they come apart, and when that is warned of."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch

from experiments import chaos
from experiments.recipes import load_experiment
from experiments.run.folder import STATUS
from lightning_modules.records import FIELDS, ResultLog

WORDS = [("exp", "smoke")]


def make_run(folder, scores, *, exported, deltas, kernels="AVX2"):
    """A finished run: scores by (model, role) and update, the prompt kept after some updates."""
    full = dict.fromkeys(f for f in FIELDS if f not in ("schema", "time")) | {"kind": "val", "split": "val", "n": 50}
    full |= {"input": "prompt", "group": "", "metric": "top1", "epoch": 0}
    rows = [
        full | {"mllm": name, "role": role, "step": step, "value": value}
        for (name, role), by_step in scores.items()
        for step, value in by_step.items()
    ]
    rows += [row | {"metric": "top5", "value": 1.0} for row in rows] + [rows[0] | {"input": "black", "value": 0.0}]
    folder.mkdir()
    ResultLog(folder / "results.jsonl").append(rows)
    (folder / "prompts").mkdir()
    for step, value in deltas.items():
        np.save(folder / f"prompts/{step}.npy", np.full((3, 2, 2), value, np.float32))
    (folder / STATUS).write_text(json.dumps({"state": "finished", "device": "cpu", "cpu_kernels": kernels}))
    (folder / "prompt").mkdir()
    (folder / "prompt" / "manifest.json").write_text(json.dumps({"steps": exported}))
    return folder


def pair(tmp_path, of_target):
    source, target = ("s", "source"), ("t", "heldout")
    scores = {source: {2: 0.50, 4: 0.40}, target: {2: 0.30, 4: 0.30}}
    first = make_run(tmp_path / "a", scores, exported=2, deltas={1: 0.5, 2: 0.5, 4: 0.25})
    scores = {source: {2: 0.50, 4: 0.505}, target: {2: 0.30, 4: of_target}}
    return first, make_run(tmp_path / "b", scores, exported=4, deltas={1: 0.5, 4: 0.75}, kernels="DEFAULT")


def test_scores_are_compared_after_the_last_update_and_as_exported_and_prompts_where_both_kept_them(tmp_path):
    found = chaos.compare(*pair(tmp_path, of_target=0.42))
    assert found["models"]["s"]["last"] == [40.0, 50.5, 10.5] and found["models"]["s"]["exported"] == [50.0, 50.5, 0.5]
    assert found["models"]["t"]["last"] == [30.0, 42.0, 12.0] and found["models"]["t"]["metric"] == "top1"
    assert found["apart"] == {"1": 0.0, "4": 0.5} and found["cpu_kernels"] == ["AVX2", "DEFAULT"]
    assert found["worst"] == pytest.approx(12.0) and found["chaotic"]
    text = chaos.describe(found | {"rounding": "cpu"})
    assert "AVX2 against DEFAULT" in text and "last prompt: plain | last prompt: cpu | last prompt: difference" in text
    assert "| t (heldout) | 50 | top1 | 30.0 | 42.0 | +12.0 |" in text
    assert "Warning: rounding alone moved a score by 12.0 points" in text and "| 4 | 5.0e-01 |" in text


@pytest.mark.parametrize(
    ("worst", "apart", "said"),
    [
        (1.0, 0.5, "made another prompt (pixels differ by 0.5): another seed may differ by more"),
        (0.0, 1e-6, "does not decide this run."),
        (0.0, 0.0, "nothing was tested. Try rounding=split"),
    ],
)
def test_a_point_is_no_warning_and_equal_prompts_are_no_test(worst, apart, said):
    text = chaos.verdict({"worst": worst, "chaotic": worst > chaos.LIMIT, "apart": {"1": 0.0, "2": apart}})
    assert said in text and "Warning" not in text


@pytest.mark.parametrize("rounding", ["cpu", "tf32", "split"])
def test_the_second_run_is_the_same_update_of_the_same_images(rounding):
    words = chaos.common_words("smoke", [], targets=False)
    first, second = (load_experiment(cell.words) for cell in chaos.two_runs(words, load_experiment(words), rounding))
    assert first.train.batch_size * first.train.accumulate == second.train.batch_size * second.train.accumulate
    assert (second.train.accumulate, second.train.tf32) == (1 + (rounding == "split"), rounding == "tf32")
    assert first.data == second.data and first.method == second.method and first.seed == second.seed
    assert list(first.targets.names) == [] and first.data.n_test == 0
    assert list(first.train.keep_prompts)[:3] == [1, 2, 4]


def test_targets_are_scored_where_they_are_asked_for():
    config = load_experiment(chaos.common_words("smoke", [], targets=True))
    assert list(config.targets.names) == ["embedded_instructblip", "embedded_llava"]


def test_the_way_to_round_otherwise_is_one_that_changes_something_on_this_machine(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for best, chosen in (("AVX2", "cpu"), ("DEFAULT", "split")):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda best=best: best)
        assert chaos.choose_rounding(load_experiment(WORDS)) == chosen
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert chaos.choose_rounding(load_experiment(WORDS)) == "tf32"
    assert chaos.choose_rounding(load_experiment([*WORDS, ("source.dtype", "bfloat16")])) == "split"
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert chaos.choose_rounding(load_experiment([*WORDS, ("train.accelerator", "cpu")])) == "cpu"


def test_what_cannot_come_apart_or_be_halved_is_refused(tmp_path):
    with pytest.raises(ValueError, match="method=none learns nothing"):
        chaos.main(["exp=smoke", "method=none", f"out={tmp_path}"])
    with pytest.raises(ValueError, match=r"got train.batch_size=3. Expected an even number"):
        chaos.main(["exp=smoke", "train.batch_size=3", "rounding=split", f"out={tmp_path}"])


def test_runs_are_made_by_name_each_under_its_own_kernels_and_the_finding_is_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(chaos.CAPABILITY, "avx2")
    seen, made = {}, dict(zip(("plain", "cpu"), pair(tmp_path, of_target=0.3), strict=True))

    def ensure(cells, out):
        out.mkdir(exist_ok=True)
        seen.update({cell.name: os.environ.get(chaos.CAPABILITY) for cell in cells})
        return {cell.name: made[cell.name] for cell in cells}

    monkeypatch.setattr(chaos, "ensure_all", ensure)
    assert chaos.main(["exp=smoke", "rounding=cpu", f"out={tmp_path / 'out'}", "seed=5"]) == 0
    assert seen == {"plain": None, "cpu": "default"} and os.environ[chaos.CAPABILITY] == "avx2"
    kept = json.loads((tmp_path / "out/chaos.json").read_text())
    assert kept["words"]["seed"] == "5" and kept["rounding"] == "cpu" and kept["worst"] == 10.5
    assert "Warning" in capsys.readouterr().out


@pytest.mark.slow
def test_two_processes_compute_with_two_kinds_of_kernels(tmp_path, monkeypatch, capsys):
    if torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        pytest.skip("this CPU has one kind of kernels")
    monkeypatch.setenv("TVP_CACHE", str(tmp_path / "cache"))
    words = ["exp=smoke", "train.epochs=1", "targets.n=8", f"out={tmp_path / 'out'}"]
    chaos.main(words)
    found = json.loads((tmp_path / "out/chaos.json").read_text())
    assert found["cpu_kernels"] == [torch.backends.cpu.get_cpu_capability(), "DEFAULT"]
    assert list(found["apart"]) == ["1", "2", "4"] and 0 < found["apart"]["4"] < 0.01
    capsys.readouterr()
    chaos.main(words)
    assert capsys.readouterr().out.count("1 of 1 runs") == 2  # both were finished
