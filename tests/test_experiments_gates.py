"""Gates: constructed numbers give the known verdicts, and what is committed was measured on the weights that ship."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from datamodules.registry import load_datamodule
from experiments.embedded_zoo.__main__ import main
from experiments.embedded_zoo.gates import facts, numbers, write_gates
from experiments.embedded_zoo.gates_text import (
    PASS,
    SHORT,
    UNKNOWN,
    gates_table,
    models_table,
    read_gates,
    read_worlds,
    verdicts,
    worlds_named,
)
from experiments.run.headroom import PROBED, Measured
from lightning_modules.controls import Control
from lightning_modules.evaluation import score_inputs
from lightning_modules.metrics import Scores
from model_zoo.registry import get_entry, list_mllms, load_mllm

K = 6
WORLD = {
    "data": ["toy"],
    "models": ["a", "b"],
    "controls": ["c"],
    "gates": {
        **{"border": -5, "probe": 80, "room": 25, "recognition": 85},
        **{"own_offsets": 10, "own_offsets_models": 2, "others_offsets": 5, "controls_offsets": 3},
    },
}


def knows(split: str, n: int, bias: list[float], right: float = 1.0) -> Scores:
    """The right candidate of a share of the rows scores 1 above the others, then the bias is added."""
    labels = np.arange(n) % K
    seen = np.where(np.arange(n) < right * n, labels, (labels + 1) % K)
    return Scores([f"{split}-{i:04d}" for i in range(n)], labels, (np.eye(K)[seen] + bias).astype(np.float32), [""] * n)


def planted(bias: list[float], black: list[float]) -> Measured:
    """A model that names one candidate for everything, in its border another; its probe knows nine rows of ten."""
    of = {"full": bias, "black": black}
    val, test = ({c: knows(split, n, b) for c, b in of.items()} for split, n in (("val", 120), ("test", 60)))
    return Measured(val, test, dict.fromkeys(PROBED, knows("test", 60, [0.0] * K, 0.9)))


@pytest.fixture(scope="module")
def found():
    """Two models that say the first name to everything and a control that says the second."""
    first, second = [2.0, *[0.0] * (K - 1)], [0.0, 2.0, *[0.0] * (K - 2)]
    measured = {"a": planted(first, first), "b": planted(first, [0.0] * K), "c": planted(second, second)}
    of = numbers("top1", measured, list("uvwxyz"))
    counts = {"metric": "top1", "frame": 64, "pad": 8, "rows": {"test": 60, "val": 120, "probe": 240}, "no_probe": ""}
    models = {m: {"fingerprint": m, "recognition": share} for m, share in (("a", 90.0), ("b", 84.99), ("c", 85.0))}
    return {"code": "", "models": models, "data": {"toy": counts | of}}


def by_gate(found, world=WORLD):
    return {row.gate: row for row in verdicts("toy_world", world, found)}


def test_planted_scores_give_the_numbers_they_were_made_of(found):
    of = found["data"]["toy"]
    assert {m: (one["full"], one["black"], one["probe"]) for m, one in of["models"].items()} == {
        "a": (16.67, 16.67, 90.0),
        "b": (16.67, 100.0, 90.0),
        "c": (16.67, 16.67, 90.0),
    }
    assert of["models"]["b"]["border"][0] == of["models"]["a"]["own_offsets"][0] == 83.33
    assert of["offsets"]["a"]["b"][0] == 83.33 and of["offsets"]["a"]["c"][0] == 0
    assert json.loads(json.dumps(found)) == found


def test_a_world_that_holds_everything_passes_and_one_model_that_does_not_is_named(found):
    rows = by_gate(found)
    assert {gate: row.verdict for gate, row in rows.items()} == {
        **dict.fromkeys(["border", "probe", "room", "own_offsets", "others_offsets", "controls_offsets"], PASS),
        "recognition": SHORT,
    }
    assert rows["recognition"].found == "2 of 3 models; b 85.0" and rows["others_offsets"].found.startswith("2 of 2")
    assert rows["controls_offsets"].found == "+0.0, mean of 2 pairs; +0.0 to +0.0"


@pytest.mark.parametrize(
    ("gate", "change", "verdict", "says"),
    [
        ("border", {"border": [-5.0, -9.0, -1.0]}, PASS, "3 of 3 models"),
        ("border", {"border": [-5.01, -9.0, -1.0]}, SHORT, "2 of 3 models; a −5.0"),
        ("probe", {"probe": 79.99}, SHORT, "2 of 3 models; a 80.0"),
        ("room", {"probe": 80.0, "full": 55.0}, PASS, "3 of 3 models"),
        ("room", {"full": 66.0}, SHORT, "2 of 3 models; a 24.0"),
        ("own_offsets", {"own_offsets": [9.9, 8.0, 12.0]}, SHORT, "1 of 2 models; +9.9 to +83.3"),
        ("probe", {"probe": None}, UNKNOWN, "unknown of 1 models"),
        ("room", {"probe": None}, UNKNOWN, "unknown of 1 models"),
    ],
)
def test_each_gate_is_met_at_its_threshold_and_missed_just_below(found, gate, change, verdict, says):
    moved = json.loads(json.dumps(found))
    moved["data"]["toy"]["models"]["a"] |= change
    row = by_gate(moved)[gate]
    assert (row.verdict, row.found) == (verdict, says)
    others = {g: r.verdict for g, r in by_gate(moved).items() if g not in (gate, "room", "probe")}
    assert others == {g: r.verdict for g, r in by_gate(found).items() if g in others}


def test_one_pair_below_misses_the_pairs_gate_and_offsets_that_move_a_control_either_way_the_controls_gate(found):
    moved = json.loads(json.dumps(found))
    of = moved["data"]["toy"]["offsets"]
    of["b"]["a"], of["a"]["c"], of["b"]["c"] = [4.9, 3, 6], [-4.0, -6, -2], [-2.1, -3, -1]
    rows = by_gate(moved)
    assert rows["others_offsets"].verdict == SHORT and "b → a +4.9" in rows["others_offsets"].found
    assert rows["controls_offsets"].verdict == SHORT and rows["controls_offsets"].found.startswith("−3.0, mean of 2")
    of["a"]["c"] = [-3.9, -6, -2]
    assert by_gate(moved)["controls_offsets"].verdict == PASS


def test_what_cannot_be_measured_is_said_and_is_no_pass(found):
    alone = {**WORLD, "controls": []}
    assert by_gate(found, alone)["controls_offsets"].verdict == UNKNOWN
    asked = json.loads(json.dumps(found))
    asked["data"]["toy"]["no_probe"] = "toy asks 3 different questions"
    for one in asked["data"]["toy"]["models"].values():
        one["probe"] = None
    row = by_gate(asked)["probe"]
    assert (row.verdict, row.found) == (UNKNOWN, "toy asks 3 different questions")
    with pytest.raises(ValueError, match=r"gates.json knows nothing of d. Measure them: .* world=toy_world"):
        by_gate(found, {**WORLD, "controls": ["c", "d"]})


def test_tables_show_what_is_short_and_hide_no_gate(found):
    worlds = {"toy_world": WORLD, "unmeasured": WORLD}
    table = gates_table({"toy_world": found}, worlds)
    assert table.count("\n") == 1 + len(verdicts("toy_world", WORLD, found)) and table.count("| short |") == 1
    models = models_table("toy_world", {"toy_world": found}, worlds)
    assert "85.0 short" in models and "`c` (control)" in models and "60 test rows" in models
    assert worlds_named("all", worlds) == [*worlds] and worlds_named("toy_world", worlds) == ["toy_world"]
    with pytest.raises(ValueError, match=r"Unknown world 'toy'. Did you mean 'toy_world'"):
        worlds_named("toy", worlds)


# ---- what ships ------------------------------------------------------------------------------------------------------
def test_the_committed_gates_were_measured_on_the_weights_that_ship():
    worlds, found = read_worlds(), read_gates()
    assert list(found) == list(worlds), "run: python -m experiments.embedded_zoo gates"
    for name, world in worlds.items():
        models = [*world["models"], *world["controls"]]
        shipped = {model: facts(model) for model in models}
        assert found[name]["models"] == shipped, f"run: python -m experiments.embedded_zoo gates world={name}"
        for data in world["data"]:
            assert list(found[name]["data"][data]["models"]) == models
        assert verdicts(name, world, found[name])


def test_every_shipped_model_belongs_to_one_world():
    names = [m for world in read_worlds().values() for m in (*world["models"], *world["controls"])]
    assert sorted(names) == sorted({*names})
    assert {*names} == {name for name in list_mllms() if get_entry(name).embedded}


@pytest.mark.slow
def test_a_shipped_model_scores_on_the_same_rows_what_was_committed():
    world, model = read_gates()["emoji"]["data"]["emoji_recognition"], "embedded_llava"
    data = load_datamodule("emoji_recognition", image_size=world["frame"], eval_batch_size=64)
    data.setup()
    n = world["rows"]["test"]
    assert data.n("test") == n and data.fingerprint("test") == world["data_fp"]
    controls = {c: Control(c, world["frame"], world["pad"]) for c in PROBED}
    inputs = {name: (control.image_size, control) for name, control in controls.items()}
    records = score_inputs(load_mllm(model), data, inputs, split="test", n=None, shard=(0, 1))
    for name, record in records.items():
        # Other CPUs round otherwise: one row of a tie may go the other way.
        assert 100 * record.correct.mean() == pytest.approx(world["models"][model][name], abs=100 * 1.5 / n)


# ---- the command -----------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_the_command_writes_what_it_measured_and_leaves_other_worlds_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TVP_CACHE", str(tmp_path / "cache"))
    threads = torch.get_num_threads()
    world = {"emoji": read_worlds()["emoji"] | {"models": ["embedded_llava", "embedded_blip2"]}, "fashion": WORLD}
    monkeypatch.setattr("experiments.embedded_zoo.gates.read_worlds", lambda: world)
    monkeypatch.setattr("experiments.embedded_zoo.gates.N_VAL", 16)
    monkeypatch.setattr("experiments.embedded_zoo.gates.N_PROBE", 32)
    out = tmp_path / "gates.json"
    write_gates(out, {"fashion": {"kept": [1, 2]}})
    assert main(["gates", "world=emoji", "n=16", f"out={out}", f"threads={threads}"]) == 0
    found = read_gates(out)
    assert found["fashion"] == {"kept": [1, 2]} and list(found) == ["emoji", "fashion"]
    of = found["emoji"]["data"]["emoji_recognition"]
    assert of["rows"] == {"test": 16, "val": 16, "probe": 32} and list(of["models"]) == world["emoji"]["models"]
    assert found["emoji"]["models"]["embedded_llava"] == facts("embedded_llava")
    said = capsys.readouterr().out
    assert "| emoji, emoji_recognition |" in said and "| short |" in said and f"Gates: {out}" in said


def test_help_says_what_gates_does(capsys):
    assert main(["gates", "--help"]) == 0
    assert "world=NAME" in capsys.readouterr().out
