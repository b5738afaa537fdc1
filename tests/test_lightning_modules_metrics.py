"""Metrics, intervals and paired gains."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_modules.answer_parser import candidate_numbers
from lightning_modules.intervals import count_draws, index_draws
from lightning_modules.metrics import (
    MEAN,
    Scores,
    auroc,
    draws,
    estimate,
    group_metrics,
    mean_estimate,
    merge_scores,
    paired_gain,
    point,
    task_metrics,
)
from lightning_modules.vocabulary import TASK_METRICS


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
    shards = [whole.take(np.arange(i, 5, 2)) for i in range(2)]
    merged = merge_scores(shards[::-1])
    assert merged.ids == whole.ids
    assert np.array_equal(merged.scores, whole.scores) and np.array_equal(merged.labels, whole.labels)


def said(predictions, labels, groups=None, k=2):
    """A record of these answers."""
    scores = np.zeros((len(labels), k), np.float32)
    scores[np.arange(len(labels)), predictions] = 1
    ids = [f"{i:04d}" for i in range(len(labels))]
    return Scores(ids, np.array(labels), scores, groups or [""] * len(labels))


# 8 right yes, 2 wrong yes, 1 missed, 9 right no.
CONFUSED = said([1] * 8 + [1] * 2 + [0] + [0] * 9, [1] * 8 + [0] * 2 + [1] + [0] * 9)


def test_hallucination_metrics_are_the_hand_computed_ones():
    found = task_metrics("hallucination", CONFUSED)
    assert list(found) == ["accuracy", "precision", "recall", "f1", "yes_ratio"]
    expected = {"accuracy": 17 / 20, "precision": 8 / 10, "recall": 8 / 9, "f1": 16 / 19, "yes_ratio": 10 / 20}
    assert {name: e.value for name, e in found.items()} == pytest.approx(expected)
    assert all(e.n == 20 and e.low < e.value < e.high for e in found.values())
    assert {name: e.interval for name, e in found.items()} == dict.fromkeys(found, "bootstrap") | dict.fromkeys(
        ("accuracy", "yes_ratio"), "wilson"
    )


def test_never_saying_yes_gives_zero_precision_and_a_finite_interval():
    found = task_metrics("hallucination", said([0] * 6, [0, 1] * 3))
    assert found["precision"][:3] == found["recall"][:3] == found["f1"][:3] == (0.0, 0.0, 0.0)
    assert found["yes_ratio"].value == 0


@pytest.mark.parametrize("metric", ["precision", "recall", "f1", "accuracy"])
def test_drawing_counts_is_the_bootstrap_over_samples(metric):
    looped = index_draws(lambda at: point(metric, CONFUSED.take(at)), 20)
    counted = draws(metric, CONFUSED)
    assert counted.mean() == pytest.approx(looped.mean(), abs=0.02)
    assert counted.std() == pytest.approx(looped.std(), rel=0.15)
    assert count_draws(np.array([3, 0, 5])).sum(1).tolist() == [8] * 2000


def test_counting_reports_how_far_off_the_answers_are():
    numbers = candidate_numbers([["3", "4", "5", "10"]] * 4)
    record = said([0, 1, 3, 3], [0, 0, 2, 0], k=4)  # off by 0, 1, 5, 7
    found = task_metrics("counting", record, numbers)
    assert found["accuracy"].value == 0.25 and found["mae"].value == 13 / 4
    assert 0 <= found["mae"].low < 13 / 4 < found["mae"].high <= 7 and found["mae"].n == 4
    assert list(task_metrics("counting", record)) == ["accuracy"]


def test_counting_with_candidates_of_each_row_s_own():
    numbers = candidate_numbers([["1", "2"], ["7", "8", "9"]])
    assert task_metrics("counting", said([1, 0], [0, 2], k=3), numbers)["mae"].value == 1.5
    assert candidate_numbers([["1", "many"]]) is None


def test_groups_are_reported_apart_pooled_and_as_their_mean():
    groups = ["popular"] * 10 + ["random"] * 10
    record = CONFUSED._replace(groups=groups)
    found = group_metrics("hallucination", record)
    assert list(found) == ["", "popular", "random", MEAN]
    assert found[""] == task_metrics("hallucination", record)
    assert found["popular"]["precision"].value == pytest.approx(0.8) and found["popular"]["recall"].value == 1.0
    assert found["random"]["precision"].value == 0.0 and found["random"]["accuracy"].n == 10
    assert found[MEAN]["precision"].value == pytest.approx(0.4) and found[MEAN]["precision"].n == 20
    assert found[MEAN]["accuracy"].value == pytest.approx(found[""]["accuracy"].value)  # groups of one size


def test_the_mean_s_interval_is_that_of_independent_groups():
    parts = [(said([1] * 30 + [0] * 10, [1] * 40), None), (said([1] * 20 + [0] * 20, [1] * 40), None)]
    found = mean_estimate("accuracy", parts)
    sd = np.sqrt(0.75 * 0.25 / 40 + 0.5 * 0.5 / 40) / 2
    assert found.value == 0.625 and (found.high - found.low) == pytest.approx(2 * 1.96 * sd, rel=0.1)


def test_a_single_group_of_all_rows_is_not_repeated_and_rows_without_group_are_in_none():
    assert list(group_metrics("hallucination", CONFUSED._replace(groups=["only"] * 20))) == [""]
    assert list(group_metrics("hallucination", CONFUSED)) == [""]
    some = group_metrics("hallucination", CONFUSED._replace(groups=["some"] * 5 + [""] * 15))
    assert list(some) == ["", "some"] and some["some"]["accuracy"].n == 5


def test_top1_and_top5_equal_torchmetrics():
    import torch
    from torchmetrics.functional.classification import multiclass_accuracy

    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(80, 9)).astype(np.float32), rng.integers(0, 9, 80)
    record = Scores([f"{i:03d}" for i in range(80)], labels, scores, [""] * 80)
    for metric, k in (("top1", 1), ("top5", 5)):
        oracle = multiclass_accuracy(torch.from_numpy(scores), torch.from_numpy(labels), 9, average="micro", top_k=k)
        assert estimate(metric, record).value == pytest.approx(float(oracle))


def test_a_metric_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"Unknown metric 'f2'\. Available: top1, top5, accuracy, mae, auroc"):
        point("f2", CONFUSED)
    with pytest.raises(ValueError, match=r"needs the number each candidate stands for"):
        estimate("mae", CONFUSED)
    assert TASK_METRICS["reasoning"][0] == "auroc"


# ---- units -----------------------------------------------------------------------------------------------------------
def doubled(record, times=5):
    """Every sample asked again and again, word for word: no more is known than before."""
    n, again = len(record.ids), np.repeat(np.arange(len(record.ids)), times)
    whole = record.take(again)
    return whole._replace(ids=[f"{i:05d}" for i in range(n * times)], units=[record.ids[i] for i in again])


@pytest.mark.parametrize("metric", ["accuracy", "yes_ratio", "recall", "f1", "auroc"])
def test_asking_the_same_again_narrows_no_interval(metric):
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 60)
    table = np.stack([np.zeros(60), labels + rng.normal(0, 1.5, 60) - 0.5], 1).astype(np.float32)
    once = Scores([f"{i:03d}" for i in range(60)], labels, table, [""] * 60)
    one, many = estimate(metric, once), estimate(metric, doubled(once))
    assert many.value == pytest.approx(one.value) and many.n == 300
    assert "units" in many.interval and "units" not in one.interval
    assert many.high - many.low == pytest.approx(one.high - one.low, rel=0.15)
    naive = estimate(metric, doubled(once)._replace(units=()))
    assert naive.high - naive.low < 0.6 * (one.high - one.low)


@pytest.mark.parametrize("metric", ["accuracy", "auroc"])
def test_a_gain_on_the_same_asked_again_is_as_uncertain(metric):
    rng = np.random.default_rng(4)
    before, after = (make(rng.random(80) < p, k=2) for p in (0.5, 0.7))
    one, many = paired_gain(metric, after, before), paired_gain(metric, doubled(after), doubled(before))
    assert many.value == pytest.approx(one.value) and many.interval == "paired-bootstrap over units"
    assert many.high - many.low == pytest.approx(one.high - one.low, rel=0.15)


def test_groups_that_share_pictures_are_resampled_together():
    """The same answers in both groups: their mean is as uncertain as one of them, not less by the root of two."""
    part = make([1] * 30 + [0] * 20)
    names = [f"picture {i}" for i in range(50)]
    groups = [(part._replace(ids=[f"{g}{i}" for i in part.ids], units=names), None) for g in "ab"]
    mean, one = mean_estimate("accuracy", groups), estimate("accuracy", part)
    assert mean.interval == "bootstrap over units"
    assert mean.high - mean.low == pytest.approx(one.high - one.low, rel=0.1)
    apart = mean_estimate("accuracy", [(group[0]._replace(units=()), None) for group in groups])
    assert apart.high - apart.low < 0.8 * (mean.high - mean.low)


def test_a_group_that_a_resample_leaves_out_counts_for_nothing_there():
    whole = make([1, 0] * 20)._replace(units=[f"p{i // 2}" for i in range(40)])
    few = make([1, 1])._replace(ids=["x", "y"], units=["p0", "p0"])
    found = mean_estimate("accuracy", [(whole, None), (few, None)])
    assert found.value == 0.75 and 0.5 <= found.low <= found.high <= 1.0


def test_pictures_that_all_agree_still_leave_doubt():
    sure = make([1] * 40)._replace(units=[f"p{i // 4}" for i in range(40)])
    assert estimate("top1", sure).low == pytest.approx(estimate("top1", make([1] * 10)).low)
    alone = make([1, 0, 1, 0])._replace(units=["p"] * 4)
    assert (estimate("top1", alone).low, estimate("top1", alone).high) == (0.0, 1.0)


def test_shards_join_with_their_units():
    whole = make([1, 0] * 6)._replace(units=[f"p{i // 3}" for i in range(12)])
    assert merge_scores([whole.take(np.arange(1, 12, 2)), whole.take(np.arange(0, 12, 2))]).units == whole.units


def test_a_row_drawn_twice_is_one_unit():
    """The reference draws validation rows with replacement."""
    twice = make([1, 0, 1], ids=["a", "b", "a"]).with_units({"a": "a", "b": "b"})
    assert twice.unit_numbers.tolist() == [0, 1, 0]
    assert make([1, 0]).with_units({"000": "x", "001": "y"}).units == ()
