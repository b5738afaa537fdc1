"""`make train EXP=modern_smoke`: learned on a tiny Qwen3-VL, scored on five others and a served one, cut, reported."""

from __future__ import annotations

import csv
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch
from support.modern_smoke import SOURCE, TARGETS, UPDATES, modern_words

from experiments.report.__main__ import main as report
from experiments.run.folder import read_status
from experiments.train import main as train
from lightning_modules.prompts import Prompt
from lightning_modules.records import read_rows
from lightning_modules.tvp import TVPModule
from lightning_modules.vocabulary import CONTROLS

pytest_plugins = ["support.data_server", "support.model_server"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:.*ModelCheckpoint with manual optimization"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("modern")


@pytest.fixture(scope="module")
def served(local: Any) -> Iterator[str]:
    """The name of a model behind a server that answers in texts, as `transformers serve` does."""
    from support.model_server import ModelServer, running  # a plugin, which pytest imports first

    with running(ModelServer("openai", local)) as server:
        yield server.name


@pytest.fixture(scope="module")
def run(place: Path, served: str) -> Path:
    """In a process of its own and an empty folder, as after a fresh clone; with the time it may take."""
    started = time.monotonic()
    words = [sys.executable, "-m", "experiments.train", *modern_words(place / "run", place / "weights", [served])]
    root = str(Path(__file__).resolve().parents[1])
    environment = os.environ | {"TVP_CACHE": str(place / "cache"), "PYTHONPATH": root}
    done = subprocess.run(words, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert time.monotonic() - started < 120
    assert done.stdout.count("Wrote a tiny random") == 5 and "where it was learned" in done.stdout
    return place / "run"


def delta(folder: Path) -> torch.Tensor:
    return Prompt.load(folder / "prompt").delta


def test_one_run_scores_every_family_and_the_served_model_with_all_controls(run: Path, served: str) -> None:
    assert read_status(run)["state"] == "finished"
    rows = [row for row in read_rows(run / "results.jsonl") if row["split"] == "test"]
    for name in (SOURCE, *TARGETS, served):
        inputs = {row["input"] for row in rows if row["mllm"] == name}
        assert {"prompt", "png", *CONTROLS} <= inputs
    assert all(math.isfinite(row["value"]) for row in rows)
    tokens = {(row["mllm"], row.get("tiles"), row.get("visual_tokens")) for row in rows}
    assert tokens == {
        (SOURCE, "one", 16),
        ("hf:tiny/llava_onevision", "official", 16 + 12 * (12 + 1)),  # the whole, then 9 tiles with line ends
        ("hf:tiny/internvl", "official", 9 * 4 + 4),
        ("hf:tiny/smolvlm", "official", 20),
        ("hf:tiny/paligemma", "official", 16),
        ("embedded_minigpt4", None, None),
        (served, None, None),
    }
    assert {row["way"] for row in rows if row["mllm"] == served} == {"generate"}


def test_the_prompt_is_learned(run: Path) -> None:
    with (run / "csv" / "metrics.csv").open() as file:
        task = [float(row["train/task"]) for row in csv.DictReader(file) if row.get("train/task")]
    assert len(task) == UPDATES and mean(task[-6:]) < mean(task[:6]) - 0.1
    assert delta(run).abs().max() > 0.1


def test_a_cut_run_resumes_to_the_same_prompt_and_scores(
    run: Path, place: Path, served: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def cut(self: TVPModule, *_: object) -> None:
        if self.global_step == 2 * UPDATES // 3:
            raise Killed

    monkeypatch.setenv("TVP_CACHE", str(place / "cache"))
    with monkeypatch.context() as patched:
        patched.setattr(TVPModule, "on_train_batch_start", cut, raising=False)
        with pytest.raises(Killed):
            train(modern_words(place / "cut", place / "weights", [served]))
    train([f"resume={place / 'cut'}"])
    assert torch.equal(delta(place / "cut"), delta(run))

    def scores(folder: Path) -> dict[tuple[str, str], float]:
        rows = [row for row in read_rows(folder / "results.jsonl") if row["split"] == "test"]
        return {(row["mllm"], row["input"]): row["value"] for row in rows}

    assert scores(place / "cut") == scores(run)


def test_the_report_shows_every_model(run: Path, served: str) -> None:
    report([str(run)])
    page = (run / "report.html").read_text()
    for name in (SOURCE, *TARGETS, served):
        assert name in page
