"""Splits and sub-samples: by rule, distinct, nested, and never out of test unless `official`."""

import hashlib
import random
from collections import Counter

import pytest

from datamodules.splits import balanced_order, few_shot, hash_order, holdout, official_sample, sample_size, three_way

IDS = [f"row-{i}" for i in range(100)]
CLASSES = [i % 4 for i in range(100)]


def test_val_is_the_first_k_of_each_class_by_hash():
    _, held = holdout(IDS, CLASSES, 5, seed=42)
    for label in range(4):
        members = [i for i in range(100) if CLASSES[i] == label]
        by_hash = sorted(members, key=lambda i: hashlib.sha256(f"42:{IDS[i]}".encode()).hexdigest())
        assert sorted(by_hash[:5]) == [i for i in held if CLASSES[i] == label]


def test_holdout_splits_every_row_once():
    kept, held = holdout(IDS, CLASSES, 0.1, seed=1)
    assert sorted(kept + held) == list(range(100))
    assert Counter(CLASSES[i] for i in held) == {0: 3, 1: 3, 2: 3, 3: 3}  # 2.5 rounds up


def test_the_split_depends_on_ids_not_on_their_order():
    turned = list(reversed(range(100)))
    _, held = holdout(IDS, CLASSES, 5, seed=42)
    _, held_turned = holdout([IDS[i] for i in turned], [CLASSES[i] for i in turned], 5, seed=42)
    assert {IDS[i] for i in held} == {IDS[turned[i]] for i in held_turned}


def test_holdout_refuses_to_empty_a_class():
    with pytest.raises(ValueError, match=r"Cannot hold out 25 rows of class \d: it has 25\. Expected at least one"):
        holdout(IDS, CLASSES, 25, seed=42)


def test_three_way_is_80_10_10_per_class_and_disjoint():
    ids, classes = [str(i) for i in range(200)], [i % 2 for i in range(200)]
    parts = three_way(ids, classes, seed=0)
    assert sorted(parts["train"] + parts["val"] + parts["test"]) == list(range(200))
    assert {k: Counter(classes[i] for i in v) for k, v in parts.items()} == {
        "train": {0: 80, 1: 80},
        "val": {0: 10, 1: 10},
        "test": {0: 10, 1: 10},
    }


def test_three_way_says_when_a_class_is_too_small():
    with pytest.raises(ValueError, match=r"class 'b' 80/10/10: it has 1 rows\. Expected at least 5"):
        three_way([*IDS[:20], "x"], ["a"] * 20 + ["b"], seed=0)


def test_few_shot_takes_k_of_each_class():
    chosen = few_shot(IDS, CLASSES, 3, seed=7)
    assert len(set(chosen)) == 12 and Counter(CLASSES[i] for i in chosen) == {0: 3, 1: 3, 2: 3, 3: 3}
    with pytest.raises(ValueError, match="Cannot take 26 rows of every class"):
        few_shot(IDS, CLASSES, 26, seed=7)


def test_balanced_order_has_balanced_prefixes_even_when_classes_are_not():
    classes = [0] * 90 + [1] * 10
    order = balanced_order(IDS, classes, seed=3)
    assert sorted(order) == list(range(100))
    assert Counter(classes[i] for i in order[:20]) == {0: 10, 1: 10}
    assert set(order[:7]) < set(order[:30])


def test_seeds_give_different_orders():
    assert hash_order(IDS, 1) != hash_order(IDS, 2)


@pytest.mark.parametrize(("n", "size"), [(None, 50), (7, 7), (0.1, 5), (0.001, 1), (50, 50)])
def test_sample_size_reads_counts_and_fractions(n, size):
    assert sample_size(n, 50) == size


@pytest.mark.parametrize("n", [0, -1, 51, 1.5, True])
def test_sample_size_refuses_what_cannot_be(n):
    with pytest.raises(ValueError, match=r"has 50\. Expected an int from 1 to 50, a fraction"):
        sample_size(n, 50, "toy 'val'")


def test_official_sample_is_the_references_draw_and_leaves_pythons_generator_alone():
    labels = [i % 10 for i in range(1000)]
    random.seed(42)  # the reference: `choices` class by class, then `shuffle`, on the global generator
    expected = []
    for label in range(10):
        expected += random.choices([i for i in range(1000) if labels[i] == label], k=5)
    random.shuffle(expected)
    state = random.getstate()
    assert official_sample(labels) == expected
    assert random.getstate() == state
    assert len(expected) == 50 and len(set(expected)) < 50  # with replacement


def test_official_sample_says_when_there_is_nothing_to_draw():
    with pytest.raises(ValueError, match=r"5 % of each class of 10 test rows is no row\. Expected at least 20 a class"):
        official_sample([0] * 10)
