"""Headroom: planted offsets and tokens give the known answer, noise gives none, no row is fitted on that is scored."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.sweep_files import MODELS as SWEPT
from support.sweep_files import write_sweep
from support.toy_data import Toy

from datamodules.registry import load_datamodule
from experiments import headroom
from experiments.report.__main__ import main as report
from experiments.run.headroom import Measured, correlation, headroom_rows, make_probe, mean_gain, why_no_probe
from experiments.run.headroom_text import ALL, headroom_tables, headroom_verdict, read_headroom, with_offsets_of
from experiments.run.linear_probe import Pooled, probe_scores
from experiments.run.offsets import fit_offsets, offset_record, one_list, with_offsets
from experiments.run.summary import OFFSETS_NOTE, show_records
from lightning_modules.controls import Control
from lightning_modules.evaluation import ModelSpec
from lightning_modules.metrics import Scores, paired_gain
from lightning_modules.records import FIELDS, read_rows
from lightning_modules.vocabulary import CONTROLS

ROOT = Path(__file__).parents[1]
K = 6
MODELS = ["embedded_llava", "embedded_blip2"]


def record(split: str, table: np.ndarray, labels: np.ndarray) -> Scores:
    return Scores([f"{split}-{i:05d}" for i in range(len(table))], labels, table.astype(np.float32), [""] * len(table))


def draw(split: str, n: int, bias: np.ndarray, seed: int = 0) -> Scores:
    """Scores whose answers follow softmax(2 * score + bias)."""
    rng = np.random.default_rng(seed)
    table = rng.normal(0, 1, (n, len(bias)))
    labels = (2 * table + bias + rng.gumbel(size=table.shape)).argmax(1)
    return record(split, table, labels)


def knows(split: str, n: int, bias: np.ndarray) -> Scores:
    """The right candidate scores 1 above the others, then the bias is added."""
    labels = np.arange(n) % len(bias)
    return record(split, np.eye(len(bias))[labels] + bias, labels)


def noise(split: str, n: int, seed: int) -> Scores:
    table = np.random.default_rng(seed).normal(0, 1, (n, K))
    return record(split, table, np.arange(n) % K)


def as_measured(val: Scores, test: Scores, probes: dict | None = None) -> Measured:
    return Measured(dict.fromkeys(CONTROLS, val), dict.fromkeys(CONTROLS, test), probes or {})


def as_rows(measured: dict[str, Measured], candidates: list[str]) -> list[dict]:
    made = []
    for row in headroom_rows("top1", measured, candidates):
        given = {"mllm": row.mllm, "input": with_offsets_of(row.input, row.of), "metric": row.metric}
        made.append(given | {"group": row.group, "data": "toy"} | row.value._asdict())
    return made


def value(rows: list[dict], mllm: str, given: str, metric: str) -> float:
    (row,) = [r for r in rows if (r["mllm"], r["input"], r["metric"], r["group"]) == (mllm, given, metric, "")]
    return row["value"]


# ---- offsets ---------------------------------------------------------------------------------------------------------
def test_planted_offsets_are_recovered():
    bias = np.array([2.0, -1.0, 0.5, 0.0, -1.5, 0.0])
    found = fit_offsets(draw("val", 4000, bias))
    assert np.abs(found.values - bias / 2).max() < 0.12 and found.n == 4000
    assert abs(found.values.mean()) < 1e-12


def test_a_fit_is_deterministic_and_blind_to_a_shift_of_whole_rows():
    val = draw("val", 300, np.arange(K) / 2)
    moved = val._replace(scores=val.scores + np.linspace(-50, 50, 300, dtype=np.float32)[:, None])
    assert np.array_equal(fit_offsets(val).values, fit_offsets(val).values)
    assert np.allclose(fit_offsets(val).values, fit_offsets(moved).values, atol=1e-3)


def test_a_model_that_needs_no_offsets_gets_none():
    assert not fit_offsets(knows("val", 60, np.zeros(K))).values.any()


def test_offsets_of_rows_with_fewer_candidates_are_refused():
    val = noise("val", 10, 0)
    val.scores[3, 5] = -np.inf
    with pytest.raises(ValueError, match="one list of candidates that all"):
        fit_offsets(val)


def test_offsets_help_another_model_exactly_as_much_as_constructed_and_one_of_another_web_not():
    """`a` and `b` say the first name to everything, `c` the second: its repair is another."""
    first, second = np.array([2.0, 0, 0, 0, 0, 0]), np.array([0, 2.0, 0, 0, 0, 0])
    of = {"a": first, "b": first, "c": second}
    rows = as_rows({m: as_measured(knows("val", 120, b), knows("test", 60, b)) for m, b in of.items()}, list("uvwxyz"))
    lost = 1 - 1 / K
    for one, other in (("a", "b"), ("b", "a"), ("a", "a"), ("c", "c")):
        assert value(rows, other, f"full+offsets:{one}", "gain") == pytest.approx(lost)
    for one, other in (("a", "c"), ("c", "b")):
        assert value(rows, other, f"full+offsets:{one}", "gain") == pytest.approx(0)
    assert value(rows, ALL, "full+offsets:all", "gain") == pytest.approx(lost)
    assert value(rows, ALL, "full", "gain_of_others") == pytest.approx(2 / 6 * lost)
    assert value(rows, "b", "full+offsets:a", "offsets_correlation") == pytest.approx(1)
    assert value(rows, "c", "full+offsets:a", "offsets_correlation") < 0
    winnable, _, cost, transfer = headroom_verdict(rows)
    assert winnable.startswith("To win without looking at the image: yes. 6 offsets fitted on 120 labelled")
    assert "nothing shown, and offsets win there too" in cost
    assert (
        transfer.startswith("To transfer by offsets: yes, on average") and "6 pairs, 2 above 0 and 0 below" in transfer
    )


def test_pure_noise_gives_a_verdict_of_nothing():
    measured = {}
    for i, name in enumerate("abc"):
        test = noise("test", 240, 10 + i)
        probes = {c: noise("test", 240, 20 + i) for c in ("full", "black")}
        measured[name] = as_measured(noise("val", 240, i), test, probes)
    winnable, information, cost, transfer = headroom_verdict(as_rows(measured, list("uvwxyz")))
    assert ": nothing shown." in winnable and ": nothing shown, a linear probe" in information
    assert "costs nothing shown, and offsets win nothing there either" in cost
    assert transfer.startswith("To transfer by offsets: nothing shown.")


def test_a_border_that_destroys_the_features_costs_more_than_offsets_bring():
    full, black = knows("test", 120, np.zeros(K)), noise("test", 120, 3)
    val = {c: knows("val", 120, np.zeros(K)) for c in CONTROLS} | {"black": noise("val", 120, 4)}
    tests = {c: full for c in CONTROLS} | {"black": black}
    rows = as_rows({"a": Measured(val, tests, {"full": full, "black": black})}, list("uvwxyz"))
    verdict = headroom_verdict(rows)
    assert "costs more than offsets bring back" in verdict[2] and "the loss is in the features" in verdict[2]
    assert "needs at least two models" in verdict[3]
    assert [len(table.rows) for table in headroom_tables(rows)] == [1, 1]


def test_the_mean_of_gains_keeps_a_rows_gains_together_and_of_one_is_that_gain():
    before, after = noise("t", 90, 0), knows("t", 90, np.zeros(K))
    assert mean_gain("top1", [after], [before]) == paired_gain("top1", after, before)
    assert mean_gain("top1", [after, after], [before, before]) == mean_gain("top1", [after], [before])
    pictures = [f"p{i // 3}" for i in range(90)]
    over = mean_gain("top1", [after], [before._replace(units=pictures)])
    assert over.interval == "paired-bootstrap over units"


def test_a_correlation_needs_four_candidates_that_differ():
    assert correlation(np.arange(3.0), np.arange(3.0)) is None
    assert correlation(np.zeros(9), np.arange(9.0)) is None
    r = correlation(np.arange(9.0), -np.arange(9.0))
    assert r.value == pytest.approx(-1) and r.n == 9


# ---- rows apart ------------------------------------------------------------------------------------------------------
def test_validation_rows_never_meet_test_rows():
    val, test = noise("val", 30, 0), noise("test", 30, 1)
    mixed = test._replace(ids=[*test.ids[:-1], val.ids[0]])
    with pytest.raises(ValueError, match="Validation rows are among the test rows"):
        as_rows({"a": as_measured(val, mixed)}, list("uvwxyz"))
    assert offset_record(val, mixed) is None and offset_record(None, test) is None
    assert offset_record(val, test).ids == test.ids


# ---- the probe -------------------------------------------------------------------------------------------------------
def pooled(split: str, n: int, signal: float, seed: int) -> Pooled:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % K
    features = torch.randn(n, 40, generator=generator, dtype=torch.float64)
    features[:, :K] += signal * torch.nn.functional.one_hot(labels, K)
    return Pooled([f"{split}-{i:04d}" for i in range(n)], features, labels, [""] * n)


@pytest.mark.parametrize(("signal", "low", "high"), [(8.0, 0.99, 1.0), (0.0, 0.05, 0.28)])
def test_a_probe_finds_the_class_where_the_tokens_hold_it_and_chance_where_they_are_noise(signal, low, high):
    parts = [pooled(split, n, signal, i) for i, (split, n) in enumerate((("train", 240), ("val", 120), ("test", 240)))]
    found, again = probe_scores(*parts, K), probe_scores(*parts, K)
    assert low <= found.correct.mean() <= high
    assert np.array_equal(found.scores, again.scores) and found.ids == sorted(parts[2].ids)


def test_a_probe_refuses_test_rows_it_was_fitted_on():
    train, val = pooled("train", 60, 1, 0), pooled("val", 30, 1, 1)
    with pytest.raises(ValueError, match="30 test rows are among those the probe is fitted on"):
        probe_scores(train, val, val, K)


def test_a_model_that_shows_no_visual_tokens_has_no_probe():
    scorer = SimpleNamespace(sizes={"val": None, "test": None}, datamodule=Toy())
    assert make_probe(scorer, SimpleNamespace(name="served"), Control("full", 12, 2), None, 3) is None


def test_rows_that_ask_different_questions_have_no_probe_and_rows_of_their_own_candidates_no_offsets():
    presence, toy = load_datamodule("emoji_presence"), Toy()
    sizes = {"val": 20, "test": 20}
    assert "different questions" in why_no_probe(presence, sizes) and why_no_probe(toy, sizes) == ""
    assert one_list(presence, sizes) == ["no", "yes"] and one_list(toy, sizes) == ["a", "b", "c"]
    own = Toy()
    own.rows("val")[0] = own.rows("val")[0]._replace(candidates=["x", "y", "z"])
    assert one_list(own, {"val": None}) is None


# ---- the command -----------------------------------------------------------------------------------------------------
def test_help_answers_without_torch():
    code = "import sys; from experiments.headroom import main; main(['--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "python -m experiments.headroom data=NAME" in done.stdout, done.stderr


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """(folder, words) of one small measurement on two embedded models."""
    folder = tmp_path_factory.mktemp("headroom")
    words = ["data=emoji_recognition", f"mllm={','.join(MODELS)}", "n=16", "n_val=16", "n_probe=32", "device=cpu"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TVP_CACHE", str(folder / "cache"))
        assert headroom.main([*words, f"out={folder}"]) == 0
    return folder, words


def test_every_number_is_a_row_of_the_projects_schema(measured):
    rows = read_rows(measured[0] / "headroom.jsonl")
    assert all(set(row) == set(FIELDS) and row["kind"] == "headroom" for row in rows)
    assert {row["mllm"] for row in rows} == {*MODELS, ALL} and {row["run"] for row in rows} == {
        "emoji_recognition 64/8"
    }
    scores = [r for r in rows if r["metric"] == "top1"]
    assert len(scores) == 2 * 4 * 2 and {r["n"] for r in scores} == {16}
    assert sum(r["metric"] == "probe" for r in rows) == 4 and sum(r["metric"] == "offset" for r in rows) == 32


def test_a_second_measurement_scores_nothing_and_takes_the_place_of_the_first(measured, monkeypatch, capsys):
    folder, words = measured
    before = read_rows(folder / "headroom.jsonl")
    monkeypatch.setenv("TVP_CACHE", str(folder / "cache"))
    monkeypatch.setattr(ModelSpec, "load", lambda *_: pytest.fail("a model was loaded"))
    assert headroom.main([*words, f"out={folder}"]) == 0
    after = read_rows(folder / "headroom.jsonl")
    assert [{**r, "time": 0} for r in after] == [{**r, "time": 0} for r in before]
    said = capsys.readouterr().out
    assert "* To win without looking at the image:" in said and "| embedded_llava |" in said


def test_a_report_shows_the_section_where_the_folder_holds_the_file(measured, tmp_path, capsys):
    out = write_sweep(tmp_path / "sweep", models=SWEPT[:2], methods=("none", "tvp"), seeds=(0,), n=16)
    assert report([str(out), "examples=1"]) == 0
    assert "Headroom before training" not in (out / "report.html").read_text()
    (out / "headroom.jsonl").write_bytes((measured[0] / "headroom.jsonl").read_bytes())
    assert report([str(out), "examples=1"]) == 0
    for name in ("report.html", "report.md"):
        text = (out / name).read_text()
        assert "Headroom before training" in text and "To transfer by offsets:" in text
    first = (out / "headroom.jsonl").read_text().splitlines()[0]
    (out / "headroom.jsonl").write_text(first + "\n")  # not whole: the rest of the report does not suffer
    assert report([str(out), "examples=1"]) == 0 and "Headroom before" not in (out / "report.html").read_text()
    assert list(read_headroom(out)) == ["emoji_recognition"] and read_headroom(tmp_path) == {}


def test_wrong_use_is_said_in_one_sentence():
    with pytest.raises(ValueError, match="mllm= names no model"):
        headroom.main(["data=emoji_recognition", "mllm="])
    with pytest.raises(ValueError, match=r"frame=64 and pad=40. Expected a border that leaves room"):
        headroom.main(["data=emoji_recognition", "mllm=embedded_llava", "pad=40", "frame=64"])


# ---- make train's table ----------------------------------------------------------------------------------------------
def test_the_table_of_a_run_has_full_plus_offsets_beside_the_controls_and_says_whose_labels_they_saw(capsys):
    biased = np.array([2.0, 0, 0, 0, 0, 0])
    test = knows("test", 60, biased)
    records = {m: dict.fromkeys((*CONTROLS, "prompt", "png"), test) for m in "ab"}
    offsets = {"a": with_offsets(test, fit_offsets(knows("val", 60, biased)))}
    text = show_records("t", "top1", records, {"a": "source", "b": "heldout"}, offsets)
    (header, _, a, b) = [line.split(" | ") for line in text.splitlines() if line.startswith("|")][:4]
    place = header.index("full + offsets")
    assert header[place - 1] == "replicate padding" and header[place + 1] == "prompted"
    assert (a[place], b[place], a[place - 1]) == ("100.0", "-", "16.7")
    assert OFFSETS_NOTE in text and "validation labels of the very model it is shown for" in text
