"""Metrics, intervals and paired gains."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_modules.metrics import Scores, auroc, estimate, merge_scores, paired_gain, t_interval, task_metrics


def make(right, k=4, ids=None):
    """A record whose sample i is answered right where right[i]."""
    n = len(right)
    labels = np.arange(n) % k
    scores = np.zeros((n, k), np.float32)
    for i, ok in enumerate(right):
        scores[i, labels[i] if ok else (labels[i] + 1) % k] = 1
    return Scores(ids or [f"{i:03d}" for i in range(n)], labels, scores, [""] * n)


def test_accuracy_and_wilson_interval_match_the_closed_form():
    value = estimate("top1", make([1] * 30 + [0] * 10))
    z, n, p = 1.959963985, 40, 0.75
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert value.value == p and value.n == n and value.interval == "wilson"
    assert value.low == pytest.approx(centre - half) and value.high == pytest.approx(centre + half)


def test_gain_is_paired_on_the_same_samples():
    before, after = make([1, 0] * 50), make([1, 1] * 50)
    gain = paired_gain("top1", after, before)
    assert gain.value == 0.5 and gain.low < 0.5 < gain.high
    assert paired_gain("top1", after, after)[:3] == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="same samples"):
        paired_gain("top1", after, make([1, 1] * 50, ids=[f"x{i}" for i in range(100)]))


def test_paired_interval_is_narrower_than_two_independent_ones():
    rng = np.random.default_rng(1)
    hard = rng.random(200) < 0.5
    before, after = make(hard), make(hard | (np.arange(200) % 20 == 0))
    gain = paired_gain("top1", after, before)
    assert gain.high - gain.low < 0.5 * (estimate("top1", after).high - estimate("top1", after).low)


def test_auroc_is_the_chance_that_a_yes_outranks_a_no():
    scores = np.array([[0, 3], [0, 1], [0, 2], [0, -1]], np.float32)
    record = Scores(list("abcd"), np.array([1, 0, 1, 0]), scores, [""] * 4)
    assert auroc(record) == 1.0
    flipped = record._replace(labels=np.array([0, 1, 0, 1]))
    assert auroc(flipped) == 0.0
    assert task_metrics("reasoning", record)["accuracy"].value == 0.75


def test_auroc_matches_pairs_counted_by_hand():
    rng = np.random.default_rng(0)
    margin, label = rng.normal(size=60), rng.integers(0, 2, 60)
    record = Scores(
        [str(i) for i in range(60)], label, np.stack([np.zeros(60), margin], 1).astype(np.float32), [""] * 60
    )
    yes, no = margin[label == 1], margin[label == 0]
    assert auroc(record) == pytest.approx((yes[:, None] > no[None]).mean(), abs=1e-6)


def test_top5_only_where_there_are_more_than_five_classes():
    assert "top5" in task_metrics("recognition", make([1] * 12, k=6))
    assert "top5" not in task_metrics("recognition", make([1] * 12, k=4))
    with pytest.raises(ValueError, match="Unknown task 'guessing'"):
        task_metrics("guessing", make([1]))


def test_merged_shards_are_one_record_in_the_order_of_ids():
    whole = make([1, 0, 1, 1, 0])
    shards = [Scores(*(f[i::2] for f in whole)) for i in range(2)]
    merged = merge_scores(shards[::-1])
    assert merged.ids == whole.ids
    assert np.array_equal(merged.scores, whole.scores) and np.array_equal(merged.labels, whole.labels)


def test_t_interval_matches_the_table_value():
    low, high = t_interval(np.array([1.0, 2.0, 3.0]))
    assert (high - low) / 2 == pytest.approx(4.30265 / np.sqrt(3), rel=1e-4)
