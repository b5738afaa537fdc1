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
    with pytest.warns(UserWarning, match=r"Left out below .*\n  1 x .txt: 'dog/notes.txt'"):
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


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("train", "valid", "test"), (20, 20, 20)),  # Roboflow
        (("train", "validation", "test"), (20, 20, 20)),
        (("Train", "Test"), (18, 2, 20)),
        (("training_set", "test_set"), (18, 2, 20)),
        (("TRAINING", "dev", "testing"), (20, 20, 20)),
        (("train2017", "val2017"), (18, 2, 20)),
        (("train-images", "test-images"), (18, 2, 20)),
        (("trainset",), (16, 2, 2)),
    ],
    ids=lambda value: "+".join(map(str, value)),
)
def test_common_words_for_splits_are_splits_not_classes(names, expected, tmp_path):
    data = folder(write_tree(tmp_path, names))
    assert sizes(data) == expected and data.candidates == ["big cat", "dog"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("train", "test", "unlabeled"), r"has 'test', 'train', which look like splits, beside 'unlabeled'"),
        (("train", "holdout"), r"has 'train', which look like splits, beside 'holdout'"),
        (("train", "training_set"), r"two folders of the split 'train': 'train' and 'training_set'"),
        (("valid", "test"), r"has 'test', 'valid' but no train folder"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else "",
)
def test_a_tree_that_can_be_read_in_two_ways_is_refused(names, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        folder(write_tree(tmp_path, names)).rows("train")


def test_a_folder_of_notes_beside_the_splits_is_left_out_and_named(tmp_path):
    write_tree(tmp_path, ["train", "test"])
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "train.csv").write_text("")
    with pytest.warns(UserWarning, match=r"1 x .csv: 'labels/train.csv'"):
        assert sizes(folder(tmp_path)) == (18, 2, 20)


def test_hidden_and_tool_files_change_nothing(tmp_path):
    data = folder(write_tree(tmp_path, ["train", "test"]))
    known = (sizes(data), paths(data))
    picture = (tmp_path / "train" / "dog" / "0.png").read_bytes()
    for place in (".ipynb_checkpoints", "@eaDir", "__MACOSX/dog", "train/@eaDir", "train/dog/.ipynb_checkpoints"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "a.png").write_bytes(picture)
    for file in ("train/dog/._0.png", "train/dog/0.png~", "train/dog/Thumbs.db"):
        (tmp_path / file).write_bytes(picture)
    again = folder(tmp_path)
    assert (sizes(again), paths(again)) == known


def test_every_ending_the_reader_can_read_is_taken(tmp_path):
    write_tree(tmp_path, [""])
    for ending in ("jfif", "jpe", "avif", "JPEG", "webp", "tif", "bmp", "pgm", "jp2", "apng"):
        Image.new("RGB", (8, 8), "red").save(tmp_path / "dog" / f"x.{ending}")
    (tmp_path / "elsewhere").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "elsewhere" / "linked.png")
    (tmp_path / "elsewhere").rename(tmp_path.parent / f"{tmp_path.name}-linked")
    (tmp_path / "dog" / "more").symlink_to(tmp_path.parent / f"{tmp_path.name}-linked")
    data = folder(tmp_path)
    assert sum(sizes(data)) == 20 + 10 + 1 and "dog/more/linked.png" in paths(data)
    for split in ("train", "val", "test"):
        assert all(data.image(split, i).shape == (3, 8, 8) for i in range(data.n(split)))


@pytest.mark.parametrize(
    "classes", [("hot_dog", "hot dog"), ("ja", "ja "), ("Cat", "cat"), ("caf\u00e9", "cafe\u0301")]
)
def test_classes_that_are_the_same_words_are_refused(classes, tmp_path):
    with pytest.raises(ValueError, match=r"the candidates .* and .* are the same words.*rename or join the folders"):
        folder(write_tree(tmp_path, [""], classes=classes)).rows("train")


def test_names_given_by_hand_are_checked_too(tmp_path):
    write_tree(tmp_path, [""])
    with pytest.raises(ValueError, match=r"'Dog' and 'dog' are the same words"):
        folder(tmp_path, class_names={"big_cat": "Dog"}).rows("train")
    with pytest.raises(ValueError, match=r"class_names has 'big cat'\. Expected folders of .*: big_cat, dog"):
        folder(tmp_path, class_names={"big cat": "lion"}).rows("train")


def test_a_data_set_one_folder_deeper_is_pointed_at(tmp_path):
    write_tree(tmp_path / "inner", [""])
    with pytest.raises(ValueError, match=r"has 1 class folders.*If the data set lies inside 'inner', use root=.*inner"):
        folder(tmp_path).rows("train")
