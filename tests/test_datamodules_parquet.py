"""Parquet shards as the Hugging Face hub serves them."""

import numpy as np
import pytest
import torch
from support.data_files import (
    CLASS_NAMES,
    picture,
    png,
    pyarrow,
    write_cifar10_parquet,
    write_cifar100_parquet,
    write_eurosat_parquet,
    write_fashion_mnist_parquet,
    write_shards,
)

from datamodules import load_datamodule
from datamodules.cifar10 import batch_order

WRITERS = {"cifar10": write_cifar10_parquet, "cifar100": write_cifar100_parquet, "eurosat": write_eurosat_parquet}
WRITERS["fashion_mnist"] = write_fashion_mnist_parquet


@pytest.mark.parametrize("name", WRITERS)
def test_a_hub_copy_has_the_ids_the_splits_and_the_fingerprints_of_the_publishers_files(name, tmp_path):
    hub, files = (load_datamodule(name, **kwargs) for kwargs in WRITERS[name](tmp_path / "hub", tmp_path / "files"))
    for split in ("train", "val", "test"):
        assert hub.rows(split) == files.rows(split)
        assert hub.fingerprint(split) == files.fingerprint(split)
    assert not (tmp_path / "hub" / "cifar-10-batches-py").exists()


def test_workers_read_what_the_main_process_reads(tmp_path):
    kwargs, _ = write_cifar100_parquet(tmp_path / "hub", tmp_path / "files")
    for one, two in zip(
        *(load_datamodule("cifar100", **kwargs, workers=n, image_size=16).val_dataloader() for n in (0, 2)), strict=True
    ):
        assert one.ids == two.ids and torch.equal(one.images, two.images)


def shards(root, name, split, labels, names, **kwargs):
    images = [png(np.asarray(picture(f"{split}{i}", 16, 20))) for i in range(len(labels))]
    write_shards(root / name, split, images, labels, names, **kwargs)


def pets(root, *, test_names=None, **kwargs):
    """timm/oxford-iiit-pet: an `image_id` column; 37 breeds."""
    breeds = CLASS_NAMES["oxford_pets"]["raw"]
    for split, numbers in (("train", range(5)), ("test", range(5, 7))):
        ids = [f"{breed}_{i}" for breed in breeds for i in numbers]
        labels = [label for label in range(37) for _ in numbers]
        shards(root, "oxford_pets", split, labels, breeds, extra={"image_id": pyarrow.array(ids)}, **kwargs)
    return {"root": str(root), "counts": {"trainval": 185, "test": 74}}


def test_the_pets_are_known_by_their_image_names(tmp_path):
    data = load_datamodule("oxford_pets", **pets(tmp_path, shards=3))
    assert data.rows("test")[0].id == "Abyssinian_5" and data.rows("test")[0].answer == "abyssinian"
    assert (data.n("train"), data.n("val"), data.n("test")) == (148, 37, 74)


def test_images_may_be_plain_bytes_and_labels_names_or_other_numbers(tmp_path):
    """No metadata and strings; then a copy with its classes in another order."""
    images = [png(np.asarray(picture(f"{i}", 8, 8))) for i in range(20)]
    names = CLASS_NAMES["imagenette"]["clean"]
    for folder, labels, order in (
        ("a", [names[i % 10] for i in range(20)], None),
        ("b", [9 - i % 10 for i in range(20)], names[::-1]),
    ):
        for split in ("train", "validation"):
            paths = [f"ILSVRC2012_{split}_{i:08d}.JPEG" for i in range(20)]
            write_shards(tmp_path / folder / "imagenette" / "160px", split, images, labels, order, paths=paths)
    from pyarrow import parquet

    file = next((tmp_path / "a").rglob("train-*"))
    table = parquet.read_table(file)
    plain = table.set_column(0, "image", pyarrow.array(images, pyarrow.binary()))
    parquet.write_table(plain.replace_schema_metadata({}), file)
    a, b = (
        load_datamodule("imagenette", root=str(tmp_path / f), counts={"train": 20, "val": 20}, val="official")
        for f in "ab"
    )
    assert (
        [row.label for row in a.rows("train")] == [row.label for row in b.rows("train")] == [i % 10 for i in range(20)]
    )
    assert a.rows("train")[3].id == "train-00003"  # no names in the copy
    assert b.rows("train")[3].id == "ILSVRC2012_train_00000003"
    assert torch.equal(a.original("train", 3), b.original("train", 3))


def test_cifar10_in_no_known_order_has_other_ids(tmp_path):
    kwargs, _ = write_cifar10_parquet(tmp_path / "hub", tmp_path / "files")
    folder = tmp_path / "hub" / "cifar10" / "plain_text"
    one, two = sorted(folder.glob("train-*"))
    one.rename(folder / "x")
    two.rename(one)
    (folder / "x").rename(two)
    assert load_datamodule("cifar10", **kwargs).rows("train")[0].id.startswith("copy-train-")
    assert batch_order([0] * 50) is None


@pytest.mark.parametrize(
    ("break_it", "error", "message"),
    [
        (
            lambda f: f.rename(f.with_name("train-00001-of-00003.parquet")),
            FileNotFoundError,
            "1 of 3 shards of 'train'",
        ),
        (lambda f: f.write_bytes(f.read_bytes()[:300]), ValueError, "Cannot read '.*train-00000.* download it again"),
        (
            lambda f: f.unlink(),
            FileNotFoundError,
            r"No part 'trainval' of oxford_pets in .*, which has test\. Expected",
        ),
    ],
    ids=["shard missing", "truncated", "split missing"],
)
def test_what_is_incomplete_is_named(break_it, error, message, tmp_path):
    kwargs = pets(tmp_path)
    break_it(next(tmp_path.rglob("train-*")))
    with pytest.raises(error, match=message):
        load_datamodule("oxford_pets", **kwargs).rows("train")


@pytest.mark.parametrize(
    ("kwargs", "labels", "names", "message"),
    [
        ({}, [0, 40], None, r"row 1, has the label 40\. Expected 0 to 9"),
        ({}, [0, -1], None, r"row 1, has the label -1\. Expected 0 to 9"),
        ({}, [0, 1], ["tench", "zebra"], "Unknown class 'zebra' of imagenette"),
        (
            {"columns": ("picture", "label")},
            [0, 1],
            None,
            r"has the columns picture, label\. Expected an image \(image, ",
        ),
        ({"images": [None, None]}, [0, 1], None, r"row 0, holds no image bytes\. Expected the encoded image"),
    ],
    ids=["label", "unlabelled", "class", "column", "no bytes"],
)
def test_what_is_wrong_in_a_shard_is_named(kwargs, labels, names, message, tmp_path):
    images = kwargs.pop("images", [png(np.asarray(picture(f"{i}", 8, 8))) for i in range(2)])
    write_shards(tmp_path / "imagenette", "train", images, labels, names, **kwargs)
    with pytest.raises(ValueError, match=message):
        load_datamodule("imagenette", root=str(tmp_path), counts={"train": 2}).rows("train")


def test_a_truncated_picture_is_named_with_its_row(tmp_path):
    kwargs, _ = write_cifar100_parquet(tmp_path / "hub", tmp_path / "files")
    images = [png(np.asarray(picture(f"{i}", 32, 32))) for i in range(200)]
    images[3] = images[3][:100]
    labels = [i % 100 for i in range(200)]
    write_shards(
        tmp_path / "hub" / "cifar100" / "cifar100", "test", images, labels, None, columns=("img", "fine_label")
    )
    with pytest.raises(ValueError, match=r"Cannot read image '.*test-00000-of-00001\.parquet row 3'"):
        load_datamodule("cifar100", **kwargs).original("test", 3)
