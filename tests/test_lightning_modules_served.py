"""Rows without an answer, and answers that were written: what records and metrics make of them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from datamodules.batch import Batch
from lightning_modules.answer_scoring import Answers, answer_metrics, written_scores
from lightning_modules.controls import Control, ControlStore
from lightning_modules.metrics import Scores, in_common, merge_scores, task_metrics


def record(scores: list[list[float]], **more) -> Scores:
    n = len(scores)
    return Scores([f"id{i}" for i in range(n)], np.zeros(n, np.int64), np.array(scores, np.float32), [""] * n, **more)


def test_rows_of_nan_are_taken_out_and_named():
    kept = record([[1, 0], [np.nan, np.nan], [0, -np.inf]]).answered()
    assert kept.ids == ["id0", "id2"] and kept.unanswered == ["id1"] and kept.scores.shape == (2, 2)
    whole = record([[1, 0], [0, 1]])
    assert whole.answered() is whole


def test_records_of_a_model_keep_the_rows_that_all_of_them_have():
    full, black = record([[1, 0], [np.nan] * 2, [0, 1]]).answered(), record([[np.nan] * 2, [1, 0], [0, 1]]).answered()
    both = in_common({"full": full, "black": black, "prompt": record([[1, 0]] * 3)})
    assert {tuple(one.ids) for one in both.values()} == {("id2",)}
    assert {tuple(one.unanswered) for one in both.values()} == {("id0", "id1")}


def test_what_was_unanswered_survives_merging_taking_and_the_disk(tmp_path):
    one = record([[1, 0], [np.nan] * 2]).answered()
    merged = merge_scores([one, Scores(["z"], np.zeros(1, np.int64), np.ones((1, 3), np.float32), [""])])
    assert merged.ids == ["id0", "z"] and merged.unanswered == ["id1"] and not merged.written
    assert merged.take(np.array([1])).unanswered == ["id1"]
    store, control = ControlStore(tmp_path), Control("full", 64, 8)
    store.save(merged._replace(written=True), control)
    again = store.load(control)
    assert list(again.unanswered) == ["id1"] and again.written


def test_a_written_answer_has_a_first_place_only():
    six = np.eye(6).tolist()
    assert set(task_metrics("recognition", record(six))) == {"top1", "top5"}
    assert set(task_metrics("recognition", record(six, written=True))) == {"top1"}
    counts = np.tile(np.arange(6), (6, 1))
    assert set(task_metrics("counting", record(six, written=True), counts)) == {"accuracy"}
    assert set(task_metrics("reasoning", record([[1, 0], [0, 1]], written=True))) == {"accuracy"}


class Writer(SimpleNamespace):
    name, way, device = "served:a@http://h", "generate", torch.device("cpu")

    def written(self, images, questions, **how):
        return self.texts


def batch() -> Batch:
    n = 4
    return Batch(
        torch.zeros(n, 3, 8, 8), torch.tensor([0, 1, 0, 1]), ["?"] * n, ["yes"] * n, [""] * n,
        [f"id{i}" for i in range(n)], [""] * n, None,
    )  # fmt: skip


def test_a_text_that_names_no_candidate_is_wrong_and_none_is_missing():
    model = Writer(texts=["no", "Yes.", "purple", None])
    scores = written_scores(model, torch.zeros(4, 3, 8, 8), ["no", "yes"], batch(), "hallucination", "parse")
    assert scores.correct.tolist() == [1, 1, 0] and scores.unanswered == ["id3"] and scores.written
    assert task_metrics("hallucination", scores)["accuracy"].value == pytest.approx(2 / 3)


def test_a_task_stated_in_roc_auc_is_refused_for_texts():
    with pytest.raises(ValueError, match="gives no likelihoods, and reasoning is stated in ROC-AUC"):
        written_scores(Writer(texts=[]), torch.zeros(4, 3, 8, 8), ["no", "yes"], batch(), "reasoning", "parse")


def test_answers_are_compared_with_scores_of_the_same_rows():
    answers = Answers(["a", "b"], np.array([0, 1]), np.array([0, 0]), ["x", "y"], ["", ""], ["c"])
    scores = Scores(["b", "c"], np.array([1, 0]), np.eye(2, dtype=np.float32), ["", ""], (), ["a"])
    assert answer_metrics("hallucination", answers, scores)[""]["agreement"].n == 1
    with pytest.raises(ValueError, match="their ids differ"):
        answer_metrics("hallucination", answers._replace(unanswered=()), scores._replace(unanswered=()))
