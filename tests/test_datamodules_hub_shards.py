"""Every naming of the Hugging Face hub is found; what is incomplete or there twice is one message."""

import numpy as np
import pytest
import torch
from support.data_files import CLASS_NAMES, picture, png, pyarrow, write_shards

from datamodules import load_datamodule
from datamodules.hub_shards import find_shards


def touch(top, *names):
    for name in names:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(b"")
    return top


def found(top, *args, **kwargs):
    splits = find_shards(top, *args, **kwargs)
    return {split: [path.relative_to(top).as_posix() for path in paths] for split, paths in splits.items()}


@pytest.mark.parametrize(
    "names",
    [
        ["train-00000-of-00001.parquet", "test-00000-of-00001.parquet"],
        ["train-00000-of-00001-1a2b3c4d5e6f7081.parquet", "test-00000-of-00001-0f1e2d3c4b5a6978.parquet"],
        ["data/train-00000-of-00001-1a2b3c4d5e6f7081.parquet", "data/test-00000-of-00001-0f1e2d3c4b5a6978.parquet"],
        ["train/0000.parquet", "test/0000.parquet"],
        ["default/train/0000.parquet", "default/test/0000.parquet"],
        ["plain_text/train/0000.parquet", "plain_text/test/0000.parquet"],
        ["refs/convert/parquet/default/train/0000.parquet", "refs/convert/parquet/default/test/0000.parquet"],
        ["train.parquet", "test.parquet"],
        ["data/train.parquet", "data/test.parquet"],
        ["cifar10-train.parquet", "cifar10-test.parquet"],
        ["plain_text/cifar10-train-00000-of-00001.parquet", "plain_text/cifar10-test-00000-of-00001.parquet"],
        ["Train.parquet", "TEST.parquet"],
        ["train/train-00000-of-00001.parquet", "test/test-00000-of-00001.parquet"],
        ["train-0.parquet", "test_1.parquet"],
        ["my-own/train.parquet", "my-own/test.parquet"],
    ],
)
def test_every_usual_naming_is_found(names, tmp_path):
    assert found(touch(tmp_path, *names, "README.md", ".cache/train.parquet")) == {
        "train": [names[0]],
        "test": [names[1]],
    }


@pytest.mark.parametrize("word", ["validation", "valid", "val", "dev"])
@pytest.mark.parametrize("form", ["{}-00000-of-00001.parquet", "{}/0000.parquet", "{}.parquet"])
def test_every_word_for_validation_is_found(word, form, tmp_path):
    assert list(found(touch(tmp_path, form.format(word)))) == ["validation"]


def test_shards_come_in_the_order_of_their_numbers_not_of_their_names(tmp_path):
    touch(tmp_path, *(f"train_{i}.parquet" for i in range(12)))
    assert found(tmp_path)["train"] == [f"train_{i}.parquet" for i in range(12)]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["train-00000-of-00003.parquet", "train-00002-of-00003.parquet"],
            "has 2 of 3 shards of 'train'. Missing: train-00001-of-00003.parquet. Expected exactly one complete series",
        ),
        (["data/train-00001-of-00002-abc.parquet"], "Missing: train-00000-of-00002-*.parquet"),
        (["default/train/0000.parquet", "default/train/0002.parquet"], "Missing: 0001.parquet"),
        (["default/train/0001.parquet"], "Missing: 0000.parquet"),
        (["train-00000-of-00001.parquet", "test-00000-of-00002.parquet"], "Missing: test-00001-of-00002.parquet"),
        (["default/partial-train/0000.parquet"], "is only the beginning of 'train'"),
    ],
)
def test_an_incomplete_series_is_one_message_that_names_the_missing_file(names, message, tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        find_shards(touch(tmp_path, *names))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "names",
    [
        ["data/train-00000-of-00001.parquet", "default/train/0000.parquet"],
        ["train.parquet", "train/0000.parquet"],
        ["train.parquet", "training.parquet"],
        ["validation.parquet", "val.parquet"],
        ["train-00000-of-00001-aaa.parquet", "train-00000-of-00001-bbb.parquet"],
        ["train-00000-of-00001.parquet", "train-00000-of-00002.parquet", "train-00001-of-00002.parquet"],
        ["one/train.parquet", "two/train.parquet"],
        ["train.parquet", "full_size/train.parquet"],
    ],
)
def test_two_copies_of_a_split_are_refused_and_both_named(names, tmp_path):
    with pytest.raises(ValueError, match=r"two copies of '(train|validation)'") as caught:
        find_shards(touch(tmp_path, *names), ("full_size",))
    assert names[0] in str(caught.value) and names[1] in str(caught.value)


def test_of_known_configurations_the_first_or_the_wanted_one_is_read(tmp_path):
    touch(tmp_path, *(f"{size}/train-00000-of-00001.parquet" for size in ("full_size", "320px", "160px")))
    assert found(tmp_path, ("full_size", "320px", "160px"))["train"] == ["full_size/train-00000-of-00001.parquet"]
    assert found(tmp_path, ("160px",), only=True)["train"] == ["160px/train-00000-of-00001.parquet"]
    assert found(tmp_path, ("80px",), only=True) == {}


def imagenette(root, move, *, extra=None):
    """Two splits of 20 pictures each, moved to where `move(split)` says below root/imagenette."""
    names = CLASS_NAMES["imagenette"]["clean"]
    for split in ("train", "validation"):
        images = [png(np.asarray(picture(f"{split}{i}", 8, 8))) for i in range(20)]
        paths = [f"{split}_{i:03d}.JPEG" for i in range(20)]
        write_shards(root / "made", split, images, [i % 10 for i in range(20)], names, paths=paths, extra=extra)
        place = root / "imagenette" / move(split)
        place.parent.mkdir(parents=True, exist_ok=True)
        (root / "made" / f"{split}-00000-of-00001.parquet").rename(place)
    return load_datamodule("imagenette", root=str(root), counts={"train": 20, "val": 20})


def test_a_converted_copy_reads_as_the_usual_one_does(tmp_path):
    usual = imagenette(tmp_path / "a", lambda split: f"{split}-00000-of-00001.parquet")
    converted = imagenette(tmp_path / "b", lambda split: f"full_size/{split}/0000.parquet")
    by_key = imagenette(tmp_path / "c", lambda split: f"split={split}/{split}.parquet")
    for split in ("train", "test"):
        assert usual.rows(split) == converted.rows(split) == by_key.rows(split)
        assert usual.fingerprint(split) == converted.fingerprint(split)
    assert usual.rows("test")[3].id == "validation_003"


def test_nested_columns_beside_the_picture_do_not_matter(tmp_path):
    boxes = [{"box": {"x": [i, i + 1]}, "label": "other"} for i in range(20)]
    nested = imagenette(tmp_path, lambda split: f"{split}.parquet", extra={"objects": pyarrow.array(boxes)})
    assert nested.rows("test")[11].label == 1 and torch.isfinite(nested.image("train", 0)).all()


def test_the_wanted_size_is_never_another_one(tmp_path):
    imagenette(tmp_path, lambda split: f"full_size/{split}/0000.parquet")
    assert load_datamodule("imagenette", root=str(tmp_path), size="full").missing() == []
    assert "imagenette2-160" in load_datamodule("imagenette", root=str(tmp_path), size="160").missing()[0]


def test_a_pointer_of_git_lfs_says_what_to_do(tmp_path):
    imagenette(tmp_path, lambda split: f"{split}.parquet")
    (tmp_path / "imagenette" / "train.parquet").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(ValueError, match="is a Git LFS pointer: run `git lfs pull`"):
        load_datamodule("imagenette", root=str(tmp_path), counts={"train": 20, "val": 20}).rows("train")


def test_a_file_that_names_no_split_is_named_where_data_are_missing(tmp_path):
    touch(tmp_path, "imagenette/pictures.parquet")
    assert "'pictures.parquet' there names no split" in load_datamodule("imagenette", root=str(tmp_path)).missing()[-1]


def test_a_split_that_is_never_read_need_not_be_whole(tmp_path):
    touch(tmp_path, "train.parquet", "test.parquet", "extra-00000-of-00002.parquet")
    assert sorted(found(tmp_path)) == ["test", "train"]
