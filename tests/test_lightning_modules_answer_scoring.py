"""Written answers: parsed, counted beside the likelihood reading, on the embedded zoo for real."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from datamodules import load_datamodule
from lightning_modules.answer_scoring import READINGS, Answers, answer_metrics, generate_batches
from lightning_modules.metrics import Scores
from lightning_modules.prompts import build_prompt
from lightning_modules.records import read_rows


def written(parsed, labels, groups=None):
    n = len(labels)
    ids = [f"{i:03d}" for i in range(n)]
    return Answers(ids, np.array(labels), np.array(parsed), ["text"] * n, groups or [""] * n)


def likely(choices, answers, k=2):
    scores = np.zeros((len(choices), k), np.float32)
    scores[np.arange(len(choices)), choices] = 1
    return Scores(answers.ids, answers.labels, scores, answers.groups)


def test_an_unparsable_answer_is_wrong_not_yes_and_never_agrees():
    answers = written([1, 1, 0, -1, -1], [1, 0, 0, 1, 0])
    found = answer_metrics("hallucination", answers, likely([1, 0, 0, 1, 0], answers))[""]
    values = {name: estimate.value for name, estimate in found.items()}
    assert values == pytest.approx(
        {"gen_accuracy": 0.4, "gen_precision": 0.5, "gen_recall": 0.5, "gen_f1": 0.5, "gen_yes_ratio": 0.4}
        | {"unparsable": 0.4, "agreement": 0.4}
    )
    assert {estimate.n for estimate in found.values()} == {5}


def test_the_mean_error_is_over_parsed_answers_and_says_how_many():
    answers = written([0, 2, -1], [0, 0, 1])
    numbers = np.array([[3.0, 4.0, 6.0]] * 3)
    found = answer_metrics("counting", answers, likely([0, 0, 1], answers, k=3), numbers)[""]
    assert found["gen_mae"].value == 1.5 and found["gen_mae"].n == 2 and found["unparsable"].n == 3
    none = answer_metrics("counting", written([-1], [0]), likely([0], written([-1], [0])), numbers[:1])[""]
    assert "gen_mae" not in none and none["gen_accuracy"].value == 0 and none["unparsable"].value == 1


def test_a_written_reading_has_no_rank_metrics_and_knows_groups():
    answers = written([1, 0, -1], [1, 1, 1], groups=["a", "b", "b"])
    found = answer_metrics("reasoning", answers, likely([1, 1, 1], answers))
    assert list(found) == ["", "a", "b"] and list(found["b"]) == ["gen_accuracy", "unparsable", "agreement"]
    assert found["b"]["unparsable"].value == 0.5 and found["a"]["agreement"].value == 1
    with pytest.raises(ValueError, match="ids differ"):
        answer_metrics("reasoning", answers, likely([1], written([1], [1])))


def test_rows_with_candidates_of_their_own_are_parsed_by_those_and_sorted_by_id():
    class Parrot:
        device, calls = "cpu", []

        def generate(self, images, questions, *, style, **decoding):
            self.calls.append((style, decoding, float(images.sum())))
            return list(questions)

    batch = SimpleNamespace(
        images=torch.ones(2, 3, 2, 2),
        questions=["A dog.", "three"],
        ids=["b", "a"],
        labels=torch.tensor([1, 0]),
        groups=["", ""],
        candidates=[["cat", "dog"], ["3", "4"]],
    )
    inputs = {"twice": lambda images: 2 * images, "once": lambda images: images}
    found = generate_batches(Parrot(), [batch], inputs, None, style="vqa", max_new_tokens=3)
    assert found["twice"].ids == ["a", "b"] and found["twice"].parsed.tolist() == [0, 1]
    assert found["once"].labels.tolist() == [0, 1] and found["once"].texts == ["three", "A dog."]
    assert Parrot.calls == [("vqa", {"max_new_tokens": 3}, 48.0), ("vqa", {"max_new_tokens": 3}, 24.0)]


@pytest.fixture
def artefact(tmp_path, monkeypatch):
    monkeypatch.setenv("TVP_CACHE", str(tmp_path / "cache"))
    prompt = build_prompt("pad", frame=64, pad=8, bounds="image")
    prompt.init_("normal", std=0.3)
    return prompt.save(tmp_path / "prompt", {"data": "emoji_counting"})


@pytest.mark.parametrize("data", ["emoji_counting", pytest.param("emoji_presence", marks=pytest.mark.slow)])
def test_evaluate_writes_answers_of_the_prompt_and_its_controls(data, artefact, tmp_path, capsys):
    from experiments.evaluate import main

    out = tmp_path / "out"
    words = [f"prompt={artefact}", "mllm=embedded_blip2", f"data={data}", "n=6", "controls=black", f"out={out}"]
    main([*words, "scoring=generate", "max_new_tokens=4", "device=cpu"])
    rows = {(row["input"], row["metric"]): row for row in read_rows(out / "results.jsonl")}
    for given in ("black", "prompt", "png"):
        assert rows[given, "gen_accuracy"]["n"] == rows[given, "agreement"]["n"] == rows[given, "unparsable"]["n"] == 6
        assert rows[given, "accuracy"]["n"] == 6
        lines = [
            json.loads(line) for line in (out / f"answers/test_embedded_blip2_{given}.jsonl").read_text().splitlines()
        ]
        right = sum(line["parsed"] == line["answer"] for line in lines)
        assert len(lines) == 6 and right == round(6 * rows[given, "gen_accuracy"]["value"])
    assert "| embedded_blip2: prompted |" in capsys.readouterr().out
    assert ("prompt", "gen_mae" if data == "emoji_counting" else "gen_f1") in rows


def test_evaluate_refuses_another_scoring(artefact):
    from experiments.evaluate import main

    with pytest.raises(ValueError, match=r"Unknown scoring 'guess'\. Available: likelihood, generate\."):
        main([f"prompt={artefact}", "mllm=embedded_blip2", "scoring=guess"])


@pytest.mark.parametrize(
    ("text", "right", "parsed", "substring"),
    [("There are 13.", 0, -1, 0), ("three", 0, 0, -1), ("7 cubes", 0, 1, 1), ("3 cubes", 0, 0, 0), ("many", 0, -1, -1)],
)
def test_the_reference_s_substring_rule_reads_clevr_under_official_only(text, right, parsed, substring):
    counts = ["3", "7", "10"]
    assert (READINGS["parse"](text, counts, right), READINGS["substring"](text, counts, right)) == (parsed, substring)
    rules = [load_datamodule("clevr", official=official).answer_rule for official in (False, True)]
    assert rules == ["parse", "substring"] and load_datamodule("pope", official=True).answer_rule == "parse"


def test_written_answers_have_intervals_over_pictures_too():
    answers = Answers(
        [f"{i:02d}" for i in range(40)],
        np.arange(40) // 8 % 2,
        np.where(np.arange(40) < 4, -1, np.arange(40) // 16 % 2),
        [""] * 40,
        [""] * 40,
    )
    likely = answers.as_scores()
    plain = answer_metrics("reasoning", answers, likely)[""]
    units = likely._replace(units=[f"p{i // 8}" for i in range(40)])
    found = answer_metrics("reasoning", answers, units)[""]
    assert {name: value.value for name, value in found.items()} == {name: value.value for name, value in plain.items()}
    assert {value.interval for value in found.values()} == {"wilson over units"}
    wide, narrow = found["gen_accuracy"], plain["gen_accuracy"]
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)
