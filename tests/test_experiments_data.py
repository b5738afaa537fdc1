"""The recipe's data keys reach the data set; the bench of the data runs."""

import json

import pytest

from experiments.bench.data import main
from experiments.recipes import load_experiment
from experiments.run.build import build_datamodule


def build(*words, name="cifar10"):
    words = (f"data.name={name}", *words)
    return build_datamodule(
        load_experiment([("exp", "cifar10_minigpt4"), *(tuple(word.split("=", 1)) for word in words)])
    )


def test_shots_names_corruption_and_cache_reach_the_data_set():
    data = build("data.shots=4", "data.names=words", "data.corruption=fog:3", "data.cache=true", name="svhn")
    assert (data.shots, data.corruption, data.cache, data.n_train) == (4, ("fog", 3), True, None)
    assert data.candidates[:2] == ["zero", "one"] and data.name == "svhn_fog_3"
    plain = build(name="svhn")
    assert (plain.shots, plain.corruption, plain.cache, plain.candidates[0]) == (None, None, False, "0")


@pytest.mark.parametrize(("said", "meant"), [("100", 100), ("0.1", 0.1), ("null", None)])
def test_a_part_of_train_is_a_number_or_a_fraction(said, meant):
    found = build(f"data.n_train={said}").n_train
    assert found == meant and type(found) is type(meant)


@pytest.mark.parametrize(
    ("words", "name", "message"),
    [
        (["data.names=words"], "cifar10", "Unknown names='words' of cifar10"),
        (["data.corruption=fog"], "cifar10", "Unknown corruption 'fog'"),
        (["data.names=raw"], "emoji_recognition", "Data set 'emoji_recognition' has no option 'names'"),
        (["data.shots=1", "data.n_train=10"], "cifar10", "Got n_train=10 and shots=1"),
    ],
)
def test_a_wrong_choice_is_answered_before_anything_is_loaded(words, name, message):
    with pytest.raises(ValueError) as error:
        build(*words, name=name)
    assert message in str(error.value)


def test_the_bench_of_the_data_prints_a_ratio_for_each_form(tmp_path, capsys):
    out = tmp_path / "bench.json"
    assert main(["images=8", "size=16", "repeats=1", f"out={out}"]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [row["name"].split(",")[0] for row in rows] == ["svhn", "eurosat", "imagefolder", "imagefolder"]
    assert all(row["plain"] > 0 and row["cached"] > 0 and row["ratio"] > 0 for row in rows)
    assert capsys.readouterr().out.count("images/s decoded") == 4
