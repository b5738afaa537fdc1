"""`make train EXP=<dataset>_minigpt4` on every data set, for real: true file formats, an embedded source, few rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_datamodules_contract import TEN, write

from experiments.run import build
from experiments.train import main

METRICS = {
    "clevr": {"accuracy", "mae"},
    "hateful_memes": {"auroc", "accuracy"},
    "pope": {"accuracy", "precision", "recall", "f1", "yes_ratio"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TEN)
def test_a_recipe_trains_and_scores_on_its_data(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kwargs, load = write(name, tmp_path / "data"), build.load_datamodule
    small = {key: value for key, value in kwargs.items() if key != "root"}  # digests and counts of the fixture
    monkeypatch.setattr(build, "load_datamodule", lambda *args, **given: load(*args, **(given | small)))
    monkeypatch.setenv("TVP_CACHE", str(tmp_path / "cache"))
    words = [f"exp={name}_minigpt4", f"data.root={kwargs['root']}", f"out={tmp_path / 'run'}", "data.workers=0"]
    words += ["source.name=embedded_minigpt4", "source.dtype=float32", "prompt.frame=64", "prompt.pad=8"]
    words += ["train.max_steps=2", "train.batch_size=4", "targets.n=6", "data.n_test=6", "method.tse=0"]
    assert main([*words, "log.wandb=off", "log.progress=false"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "results.jsonl").read_text().splitlines()]
    test = [row for row in rows if row["split"] == "test" and row["input"] == "prompt" and row["group"] == ""]
    assert {row["metric"] for row in test} >= METRICS.get(name, {"top1"})
    assert {row["n"] for row in test} == {6} and {row["data"] for row in rows} == {name}
    groups = {row["group"] for row in rows}
    assert (groups >= {"random", "popular", "adversarial"}) == (name == "pope")
    assert {row["input"] for row in rows} >= {"prompt", "png", "full", "black", "constant", "replicate"}
