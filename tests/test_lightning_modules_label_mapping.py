"""Scores read through a one-to-one map from classes to candidates."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from datamodules.rows import Row
from lightning_modules.label_mapping import fit_mapping, read_through, require_recognition, require_shared_candidates
from lightning_modules.metrics import Scores


def record(labels, called, k: int) -> Scores:
    """Rows whose best candidate is `called`; all other scores are drawn."""
    table = np.random.default_rng(0).random((len(labels), k)).astype(np.float32)
    table[np.arange(len(labels)), called] = 2.0
    ids = [str(i) for i in range(len(labels))]
    return Scores(ids, np.array(labels, dtype=np.int64), table, [""] * len(labels))


def test_a_model_that_calls_every_class_by_anothers_name_is_read_right():
    names = np.array([2, 0, 3, 1])
    labels = np.repeat(np.arange(4), 5)
    scores = record(labels, names[labels], 4)
    mapping = fit_mapping(scores)
    assert mapping.tolist() == names.tolist()
    assert not scores.correct.any() and read_through(scores, mapping).correct.all()


def test_the_map_is_one_to_one_and_the_best_of_all_for_any_record():
    for seed in range(5):
        draw = np.random.default_rng(seed)
        scores = record(draw.integers(0, 4, 40), draw.integers(0, 4, 40), 4)
        mapping = fit_mapping(scores)
        assert sorted(mapping.tolist()) == [0, 1, 2, 3]
        best = max(read_through(scores, np.array(order)).correct.sum() for order in itertools.permutations(range(4)))
        assert read_through(scores, mapping).correct.sum() == best >= scores.correct.sum()


def test_among_equals_every_class_keeps_its_own_candidate():
    assert fit_mapping(record([0, 0, 1], [3, 3, 3], 5)).tolist() == [3, 1, 2, 0, 4]
    assert fit_mapping(record([0, 1], [1, 1], 3)).tolist() == [0, 1, 2]


def test_other_tasks_are_refused_in_one_message():
    require_recognition("recognition")
    with pytest.raises(ValueError, match=r"label_mapping=true pairs the classes.*this task is counting. Leave it out"):
        require_recognition("counting")
    rows = [Row("1", 0, "q", "a", "c"), Row("2", 0, "q", "a", "c", candidates=["a", "b"])]
    require_shared_candidates(rows[:1], "mine")
    with pytest.raises(ValueError, match=r"rows of mine have candidates of their own. Leave it out"):
        require_shared_candidates(rows, "mine")
