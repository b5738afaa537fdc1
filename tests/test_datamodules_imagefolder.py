"""A user's own folder of pictures."""

from collections import Counter

import pytest
import torch
from PIL import Image

from datamodules import load_datamodule


def write_tree(root, splits, classes=("big_cat", "dog"), count=10):
    for split in splits:
        for k, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (10 + i, 12), (100 * k, i, len(split))).save(folder / f"{i}.png")
    return root


def folder(root, **kwargs):
    return load_datamodule("imagefolder", root=str(root), image_size=8, **kwargs)


def sizes(data):
    return tuple(data.n(split) for split in ("train", "val", "test"))


def paths(data):
    return [row.id for split in ("train", "val", "test") for row in data.rows(split)]


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        ([""], (16, 2, 2)),
        (["train"], (16, 2, 2)),
        (["train", "test"], (18, 2, 20)),
        (["train", "val"], (18, 2, 20)),
        (["train", "val", "test"], (20, 20, 20)),
    ],
    ids=lambda value: "+".join(map(str, value)) or "single",
)
def test_each_layout_is_split_by_rule_without_overlap(splits, expected, tmp_path):
    data = folder(write_tree(tmp_path, splits))
    assert sizes(data) == expected
    assert len(set(paths(data))) == len(paths(data))
    for split in ("train", "val", "test"):
        assert set(Counter(row.label for row in data.rows(split)).values()) == {data.n(split) // 2}


def test_rows_and_pictures_belong_together(tmp_path):
    data = folder(write_tree(tmp_path, ["train", "val"]))
    row = data.rows("test")[13]
    assert row.id == "val/dog/3.png" and row.answer == "dog" and row.caption == "this is a photo of a dog"
    assert data.candidates == ["big cat", "dog"]
    assert torch.equal(data.original("test", 13)[:, 0, 0], torch.tensor([100, 3, 3], dtype=torch.uint8))
    batch = next(iter(data.train_dataloader()))
    assert batch.images.shape == (16, 3, 8, 8)


def test_a_class_called_train_is_a_class_when_it_stands_beside_others(tmp_path):
    data = folder(write_tree(tmp_path, [""], classes=("car", "train")))
    assert data.candidates == ["car", "train"]


def test_names_and_texts_can_be_chosen(tmp_path):
    data = folder(
        write_tree(tmp_path, [""]), class_names={"big_cat": "lion"}, question="What is it?", caption="a drawing of a {}"
    )
    assert data.candidates == ["lion", "dog"]
    assert data.rows("test")[0][2:5] == ("What is it?", "lion", "a drawing of a lion")


def test_a_corrupt_image_stops_the_run_and_is_named(tmp_path):
    data = folder(write_tree(tmp_path, [""]))
    (tmp_path / data.rows("val")[0].id).write_bytes(b"")
    for workers in (0, 1):
        with pytest.raises(ValueError, match=r"Cannot read image '.*/big_cat/\d\.png'"):
            list(folder(tmp_path, workers=workers).val_dataloader())


def test_a_dangling_link_is_not_dropped(tmp_path):
    write_tree(tmp_path, ["train", "test"])
    (tmp_path / "test" / "dog" / "0.png").unlink()
    (tmp_path / "test" / "dog" / "0.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(FileNotFoundError, match=r"No image '.*test/dog/0\.png'"):
        list(folder(tmp_path).test_dataloader())


def test_what_is_no_image_is_not_a_row(tmp_path):
    write_tree(tmp_path, [""])
    (tmp_path / "dog" / "notes.txt").write_text("")
    (tmp_path / "dog" / "._0.png").write_text("")
    (tmp_path / ".cache").mkdir()
    assert sizes(folder(tmp_path)) == (16, 2, 2)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda root: write_tree(root, [""], classes=("only",)), r"has 1 class folders\. Expected at least 2"),
        (lambda root: (write_tree(root, [""]) / "empty").mkdir(), r"'.*empty' has no images\. Expected files ending"),
        (lambda root: write_tree(root, [""], count=4), r"Cannot split class 'big_cat'|'dog' 80/10/10: it has 4 rows"),
    ],
    ids=["one class", "empty class", "too few"],
)
def test_a_tree_that_cannot_be_used_says_why(build, message, tmp_path):
    build(tmp_path)
    with pytest.raises(ValueError, match=message):
        folder(tmp_path).rows("val")


def test_a_test_class_that_train_lacks_is_named(tmp_path):
    write_tree(tmp_path, ["train", "test"])
    (tmp_path / "test" / "dog").rename(tmp_path / "test" / "wolf")
    with pytest.raises(ValueError, match=r"'test/wolf/0\.png' is of class 'wolf', which train does not have"):
        folder(tmp_path).rows("test")


def test_an_absent_root_says_what_is_expected(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"No imagefolder data in .*\n  .*a folder with one folder of images per"
    ):
        folder(tmp_path / "none").rows("train")
