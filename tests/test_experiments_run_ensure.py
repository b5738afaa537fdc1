"""Runs by name, and the comparison that `make train` prints."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.kept import kept_statistics
from experiments.recipes import load_experiment
from experiments.run import ensure as many
from experiments.run.ensure import NamedRun
from experiments.run.summary import COMPARISONS, comparison_text, headline_text
from experiments.tuning.trials import best_validation
from lightning_modules.metrics import Scores
from lightning_modules.records import FIELDS, ResultLog

MODELS = {"m": "source", "t": "heldout"}
N = 40


def record(right):
    labels = np.arange(N) % 3
    scores = np.zeros((N, 3), np.float32)
    scores[np.arange(N), np.where(right, labels, (labels + 1) % 3)] = 1
    return Scores([f"{i:03d}" for i in range(N)], labels, scores, [""] * N)


def test_a_summary_shows_sub_tests_apart_where_there_are_several(capsys):
    from experiments.run.summary import group_rows, show_records

    right = np.arange(N) < 30
    prompted = record(right)._replace(groups=["a"] * 20 + ["b"] * 20)
    records = {"m": {"prompt": prompted, "black": record(~right)._replace(groups=prompted.groups)}}
    assert group_rows("top1", records) == [
        ["m: a", "20", "-", "0.0", "-", "-", "100.0", "-"],
        ["m: b", "20", "-", "50.0", "-", "-", "50.0", "-"],
    ]
    assert "| m: a | 20 |" in show_records("t", "top1", records, MODELS) and "m: b" in capsys.readouterr().out
    shared = prompted._replace(units=[f"p{i // 4}" for i in range(N)])
    told = {"m": {"prompt": shared, "black": records["m"]["black"]._replace(units=shared.units)}}
    assert "| m: a | 20 on 5 pictures |" in show_records("t", "top1", told, MODELS)
    assert "| 40 on 10 pictures |" in show_records("t", "top1", told, MODELS)
    plain = {"m": {"prompt": record(right)}}
    assert group_rows("top1", plain) == [] and "m:" not in show_records("t", "top1", plain, MODELS)


def test_curves_and_trials_read_the_pooled_rows_only(tmp_path):
    from experiments.report.gain_curves import curve_rows

    row = {"split": "val", "input": "prompt", "metric": "top1", "mllm": "m", "epoch": 0}
    rows = [row | {"group": "", "value": 0.5}, row | {"group": "a", "value": 0.9}]
    assert curve_rows(rows) == [["val, update", "m"], ["0", "50.0"]]
    full = dict.fromkeys(f for f in FIELDS if f not in ("schema", "time"))
    ResultLog(tmp_path / "results.jsonl").append([full | r for r in rows])
    assert best_validation(tmp_path) == (0.5, 0)


def test_finished_cells_are_skipped_and_other_settings_refused(tmp_path, monkeypatch):
    from experiments.run.folder import create_run_folder

    words = [("exp", "smoke"), ("seed", "3")]
    config = load_experiment([*words, ("out", str(tmp_path / "cell"))])
    folder = create_run_folder(config)
    folder.write_status("finished")
    folder.release()
    monkeypatch.setattr("experiments.run.start.start_run", lambda config: pytest.fail("a finished cell ran again"))
    monkeypatch.setattr("experiments.run.start.resume_run", lambda path: pytest.fail("a finished cell was resumed"))
    assert many.ensure_all([NamedRun("cell", words)], tmp_path) == {"cell": tmp_path / "cell"}
    with pytest.raises(ValueError, match=r"run of other settings \(different: seed\)"):
        many.ensure_all([NamedRun("cell", [("exp", "smoke"), ("seed", "4")])], tmp_path)


def test_a_cell_that_was_cut_short_is_continued(tmp_path, monkeypatch):
    from experiments.run.folder import create_run_folder

    words = [("exp", "smoke")]
    create_run_folder(load_experiment([*words, ("out", str(tmp_path / "cell"))])).release()
    resumed = []
    monkeypatch.setattr("experiments.run.start.resume_run", resumed.append)
    many.ensure_run(NamedRun("cell", words), tmp_path)
    assert resumed == [tmp_path / "cell"]


def test_make_train_prints_the_committed_comparison_of_its_own_data_set():
    found = kept_statistics(COMPARISONS["embedded"])
    assert {e["seeds"] for e in found["methods"]} == {3} and not found["missing"]
    text = comparison_text(load_experiment([("exp", "embedded")]))
    assert text == comparison_text(load_experiment([("exp", "embedded_evp")]))
    (tvp,) = [
        e
        for e in found["methods"]
        if (e["method"], e["over"], e["control"], e["data"]) == ("tvp", "source", "black", "")
    ]
    assert f"{100 * tvp['value']:+.1f} [" in text and text.count("\n| ") == 1 + 4
    fashion = comparison_text(load_experiment([("exp", "fashion")]))
    assert [line.split(" | ")[0] for line in fashion.splitlines() if line.startswith("| ")][1:] == [
        "| none",
        "| evp",
        "| fca",
    ]
    assert "lite0_llava, fashion_mnist_small, 5 seeds" in fashion and "make table EXP=fashion" in fashion
    for words in ([("exp", "smoke")], [("exp", "embedded"), ("data.name", "emoji_counting")]):
        assert comparison_text(load_experiment(words)).startswith("No committed comparison")


def test_the_table_is_led_by_one_line_of_plain_picture_against_frame():
    right = np.arange(N) % 2 == 0
    of_input = {"prompt": record(np.ones(N, bool)), "full": record(right)}
    line = headline_text(
        "top1", {"a": of_input, "b": of_input, "c": of_input}, {"a": "source", "b": "select", "c": "heldout"}
    )
    assert "\n" not in line and line.startswith("top1 in %, plain full-size picture -> with the prompt")
    assert (
        "on a 50.0 -> 100.0 (+50.0 [" in line and "where it was learned | on models that never saw it: b 50.0" in line
    )
    assert "; c 50.0 -> 100.0" in line
    assert "never saw" not in headline_text("top1", {"a": of_input}, {"a": "source"})
