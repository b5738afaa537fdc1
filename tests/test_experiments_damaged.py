"""A run over images that cannot be read: stopped before training by default, or without those rows, which it names."""

from __future__ import annotations

import json

import pytest
from support.vqa_files import picture

from experiments.run.folder import read_status
from experiments.train import main
from lightning_modules.records import read_rows

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:.*ModelCheckpoint with manual optimization"),
]


@pytest.fixture
def words(tmp_path, monkeypatch):
    """The smoke run on one's own pictures, two of which are damaged: one of train, one of test."""
    monkeypatch.setenv("TVP_CACHE", str(tmp_path / "cache"))
    for k, name in enumerate(("red car", "dog")):
        for split, count in (("train", 12), ("val", 6), ("test", 6)):
            for i in range(count):
                picture(tmp_path / "data" / split / name / f"{k}{i:02d}.png", size=(50, 50))
    for path in ("train/dog/103.png", "test/dog/104.png"):
        (tmp_path / "data" / path).write_bytes(b"\x89PNG")
    data = ["data.name=imagefolder", f"data.root={tmp_path / 'data'}", "data.n_train=null", "data.n_test=null"]
    return [
        "exp=smoke",
        f"out={tmp_path / 'run'}",
        *data,
        "targets.n=null",
        "train.epochs=1",
        "method.tse=0",
        "method.fca=0",
    ]


def test_the_run_stops_before_training_and_names_the_image(words, tmp_path):
    with pytest.raises(ValueError, match=r"Cannot read image '.*train/dog/103\.png'"):
        main(words)
    assert read_status(tmp_path / "run")["state"] == "failed"
    assert not (tmp_path / "run/results.jsonl").exists() and not list((tmp_path / "run").glob("checkpoints/*"))


def test_within_the_threshold_it_runs_without_them_and_says_so_everywhere(words, tmp_path, capsys):
    main([*words, "data.max_corrupt=1", "targets.select=[]", "targets.heldout=[]"])
    rows = read_rows(tmp_path / "run/results.jsonl")
    assert {(row["split"], row["n"], row["left_out"]) for row in rows} == {("val", 12, 0), ("test", 11, 1)}
    said = "Left out of test, as the image cannot be read (max_corrupt): 1 row(s)\n  test/dog/104.png: Cannot read"
    assert said in capsys.readouterr().out and said in (tmp_path / "run/table.md").read_text()
    left = json.loads((tmp_path / "run/left_out.json").read_text())
    assert {split: [row["id"] for row in gone] for split, gone in left.items()} == {
        "train": ["train/dog/103.png"],
        "val": [],
        "test": ["test/dog/104.png"],
    }


def test_keys_of_single_data_sets_reach_them_and_only_where_they_are_set(tmp_path):
    from experiments.recipes import load_experiment
    from experiments.run.build import build_datamodule

    def build(*pairs):
        return build_datamodule(load_experiment([("exp", "smoke"), ("data.root", str(tmp_path)), *pairs]))

    pope = [("data.name", "pope"), ("data.official", "true")]
    assert build(*pope).half is True and build(*pope, ("data.half", "false")).half is False
    assert build(("data.name", "pope"), ("data.half", "true")).half is True
    assert build(("data.name", "vqa_jsonl"), ("data.task", "counting")).task == "counting"
    assert build(("data.max_corrupt", "0.25")).max_corrupt == 0.25 and build(("data.max_corrupt", "3")).max_corrupt == 3
    with pytest.raises(ValueError, match=r"Data set 'clevr' has no option 'half'"):
        build(("data.name", "clevr"), ("data.half", "true"))
