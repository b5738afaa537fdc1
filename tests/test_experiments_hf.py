"""Models of the hub in the commands: a prompt learned on one tiny folder, scored on others, asked and planned."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
from support.hf_folders import write_folder

from experiments.ask import main as ask
from experiments.evaluate import main as evaluate
from experiments.run.folder import read_status
from experiments.statistics.sharing import BOTH, MODEL, NOTHING, TOWER, shared
from experiments.train import main as train
from lightning_modules.records import read_rows

SOURCE, TARGETS = "hf:tiny/qwen3_vl", ("hf:tiny/smolvlm", "hf:tiny/paligemma")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:.*ModelCheckpoint with manual optimization"),
]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("weights")
    for name in (SOURCE, *TARGETS):
        write_folder(name.rpartition("/")[2], root / name.removeprefix("hf:"))
    return root


@pytest.fixture(scope="module")
def run(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "hub"
    before = os.environ.get("TVP_CACHE")
    os.environ["TVP_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    targets = ",".join(TARGETS)
    train(
        [
            *("exp=smoke", f"out={folder}", f"source.name={SOURCE}", f"source.weights={weights}"),
            *("targets.select=[]", f"targets.heldout=[{targets}]", f"targets.names=[{targets}]"),
            *(
                "train.max_steps=2",
                "train.epochs=1",
                "data.n_train=8",
                "data.n_test=6",
                "targets.n=6",
                "monitor=source",
            ),
        ]
    )
    os.environ.pop("TVP_CACHE") if before is None else os.environ.update(TVP_CACHE=before)
    return folder


def test_a_prompt_is_learned_on_one_model_of_the_hub_and_scored_on_others(run: Path) -> None:
    assert read_status(run)["state"] == "finished"
    rows = read_rows(run / "results.jsonl")
    assert {row["mllm"] for row in rows} == {SOURCE, *TARGETS}
    assert all(math.isfinite(row["value"]) for row in rows)


def test_every_record_says_which_tiles_and_how_many_visual_tokens(run: Path) -> None:
    said = {(row["mllm"], row["tiles"], row["visual_tokens"]) for row in read_rows(run / "results.jsonl")}
    assert said == {(SOURCE, "one", 16), (TARGETS[0], "official", 20), (TARGETS[1], "official", 16)}


def test_a_prompt_is_evaluated_and_shown_to_a_model_of_the_hub(
    run: Path, weights: Path, tmp_path: Path, capsys
) -> None:
    words = (f"prompt={run / 'prompt'}", f"weights={weights}")
    evaluate([*words, f"mllm={TARGETS[0]}", "tiles=one", "n=4", f"out={tmp_path}", "scoring=generate"])
    rows = read_rows(tmp_path / "results.jsonl")
    assert {(row["tiles"], row["visual_tokens"]) for row in rows} == {("one", 4)}
    assert list((tmp_path / "answers").glob("test_hf--tiny--smolvlm_*.jsonl"))
    picture = run / "prompt" / "prompt.png"
    ask([*words, f"mllm={TARGETS[1]}", f"image={picture}", "question=what is it?", "candidates=a cat,a dog"])
    assert "a dog" in capsys.readouterr().out


def test_missing_models_are_named_before_anything_is_made(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "run"
    words = ["exp=smoke", f"out={out}", "source.name=hf:my/model", f"source.weights={tmp_path}"]
    with pytest.raises((SystemExit, FileNotFoundError)) as caught:
        train(words)
    assert "the whole folder of my/model" in f"{caught.value}{capsys.readouterr().err}"
    assert not out.exists()


def test_what_two_models_of_the_hub_share_is_what_their_parts_started_from() -> None:
    assert shared("qwen3_vl_2b", "hf:Qwen/Qwen3-VL-2B-Instruct") == MODEL
    assert shared("llava_onevision_7b", "smolvlm2_2_2b") == TOWER
    assert shared("llava_onevision_7b", "llava_onevision_0_5b") == BOTH
    assert shared("hf:a/b", "hf:c/d") == NOTHING
