"""The shared DataModule: rows, sub-samples, fingerprints, augmentation, and what it refuses."""

from collections import Counter

import pytest
import torch
from support.toy_data import Toy, ids

from datamodules.base import Batch, Row
from datamodules.splits import hash_key
from datamodules.transforms import draw_augmentation


def test_batches_keep_the_contract():
    batch = next(iter(Toy().train_dataloader()))
    assert isinstance(batch, Batch) and batch.candidates is None
    assert batch.images.shape == (8, 3, 12, 12) and batch.images.dtype == torch.float32
    assert batch.images.min() >= 0 and batch.images.max() <= 1
    assert batch.labels.dtype == torch.int64
    assert [Toy.candidates[label] for label in batch.labels] == batch.answers


def test_rows_with_their_own_candidates_bring_them_along():
    class Own(Toy):
        def build_rows(self, split):
            rows = super().build_rows(split)
            return [row._replace(candidates=["x", "y", "z"] if row.label == 0 else None) for row in rows]

    batch = next(iter(Own().loader("val")))
    assert batch.candidates[:2] == [["x", "y", "z"], ["a", "b", "c"]]


def test_sub_samples_are_fixed_distinct_balanced_and_nested():
    data = Toy()
    small, large = data.subset("val", 9), data.subset("val", 20)
    assert small == Toy().subset("val", 9) == large[:9]
    assert len({row.id for row in large}) == 20
    assert Counter(row.label for row in small) == {0: 3, 1: 3, 2: 3}
    assert small == Toy(seed=7).subset("val", 9) != Toy(split_seed=7).subset("val", 9)
    assert data.subset("val", None) == data.rows("val")


def test_sub_samples_of_rows_with_their_own_candidates_go_by_hash_alone():
    class Own(Toy):
        candidates = None

        def build_rows(self, split):
            return [row._replace(candidates=["a", "b", "c"]) for row in super().build_rows(split)]

    chosen = [row.id for row in Own().subset("val", 10)]
    assert chosen == sorted((row.id for row in Own().rows("val")), key=lambda i: hash_key(42, i))[:10]


def test_n_train_is_the_sub_sample_of_the_whole():
    assert Toy(n_train=10).rows("train") == Toy().subset("train", 10)
    assert Toy(n_train=0.5).n("train") == 19
    assert Toy(n_train=10).n("val") == 37


def test_asking_for_more_rows_than_there_are_says_so():
    with pytest.raises(ValueError, match="Cannot take n=38 rows of toy 'val', which has 37"):
        Toy().loader("val", n=38)


def test_a_sibling_of_another_size_reads_the_same_rows():
    data = Toy()
    sibling = data.with_image_size(9)
    assert ids(sibling.loader("test", 10)) == ids(data.loader("test", 10))
    assert next(iter(sibling.loader("test"))).images.shape[-1] == 9
    assert data.image_size == 12 and sibling.fingerprint("test") == data.fingerprint("test")


@pytest.mark.parametrize("change", ["pixel", "label", "question", "id", "candidates"])
def test_the_fingerprint_sees_every_change(change):
    changed = Toy(change=change)
    if change == "candidates":
        changed.candidates = ["a", "b", "d"]
    assert Toy(change=change).n("val") == 37
    assert Toy().fingerprint("val") == Toy(image_size=9, workers=2).fingerprint("val")
    assert changed.fingerprint("val") != Toy().fingerprint("val")


def test_the_fingerprint_sees_which_rows_and_in_which_order():
    data = Toy()
    assert len({data.fingerprint("val"), data.fingerprint("val", 37), data.fingerprint("val", 36)}) == 3


def test_where_images_are_square_an_epoch_only_flips():
    class Square(Toy):
        square = True

        def load_image(self, split, index):
            return super().load_image(split, 0)[:, :14, :14]

    data, row = Square(), Square().rows("train")[5]
    flips = [draw_augmentation(data.seed, epoch, row.id).flip for epoch in range(20)]
    pictures = [data.image("train", 5, epoch) for epoch in range(20)]
    assert set(flips) == {False, True}
    for flip, picture in zip(flips, pictures, strict=True):
        assert torch.equal(picture, pictures[flips.index(flip)])
    assert torch.equal(pictures[flips.index(False)], pictures[flips.index(True)].flip(-1))


def test_augmentation_is_pure_in_seed_epoch_and_id_and_can_be_off():
    draws = {draw_augmentation(seed, epoch, row) for seed in (0, 1) for epoch in (0, 1) for row in ("train-0", "x")}
    assert len(draws) == 8
    plain = Toy(augment=False)
    assert torch.equal(plain.image("train", 0, epoch=5), plain.image("train", 0))


def test_a_wrong_claim_of_squareness_is_found():
    class Wrong(Toy):
        square = True

    with pytest.raises(ValueError, match=r"Image 'val-0' of toy is \(3, 14, 20\)\. Expected a square"):
        Wrong().image("val", 0)


def test_official_val_is_drawn_from_test_with_replacement():
    data = Toy(official=True, count=300)
    assert data.val == "official" and Toy(official=True, val="train").val == "train"
    rows = data.rows("val")
    assert len(rows) == 15 and {row.id.split("-")[0] for row in rows} == {"test"}
    where = [row.id for row in data.rows("test")].index(rows[0].id)
    assert torch.equal(data.original("val", 0), data.original("test", where))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "toy 'val' has no rows"),
        ([Row("i", 3, "q", "d", "")], "Row 'i' of toy 'val' has label 3. Expected an index into its 3 candidates"),
        ([Row("i", 0, "q", "a", "")] * 2, "toy 'val' has the id 'i' twice"),
        ([Row("i", 0, "q", "a", "", "", [])], "Row 'i' of toy 'val' has no candidates"),
    ],
)
def test_bad_rows_are_named(rows, message):
    data = Toy()
    data.build_rows = lambda split: rows
    with pytest.raises(ValueError, match=message):
        data.rows("val")


def test_an_id_in_train_and_test_is_refused_whichever_is_read_first():
    for first, second in (("train", "test"), ("test", "train")):
        data = Toy()
        data.build_rows = lambda split: [Row("i", 0, "q", "a", "")]
        data.rows(first)
        with pytest.raises(ValueError, match=rf"has the id 'i' twice: toy '{first}' row 0 and toy '{second}' row 0"):
            data.rows(second)


def test_missing_files_are_all_listed():
    data = Toy(root="somewhere")
    data.missing = lambda: ["somewhere/a (from x)", "somewhere/b (from y)"]
    with pytest.raises(FileNotFoundError, match=r"No toy data in 'somewhere'\. Expected:\n  somewhere/a .*\n  some"):
        data.rows("train")


def test_names_are_checked():
    with pytest.raises(ValueError, match=r"Unknown split 'valid'\. Expected one of: train, val, test"):
        Toy().rows("valid")
    with pytest.raises(ValueError, match=r"Unknown val 'test'\. Expected one of: train, official"):
        Toy(val="test")


def test_a_data_set_may_name_the_pictures_of_its_rows_which_are_else_their_own_units():
    data = Toy(count=4)
    assert data.units("val") == {row.id: row.id for row in data.rows("val")}
    data.picture = lambda split, index: f"picture {max(index, 1)}"
    assert data.units("test") == {"test-0": "test-0", "test-1": "test-0", "test-2": "test-2", "test-3": "test-3"}
