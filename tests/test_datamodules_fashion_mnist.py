"""Fashion-MNIST from its publisher's files, however they are packed, and the small set that ships."""

import gzip
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torchvision
from support.data_files import fashion_mnist_arrays, write_fashion_mnist

from datamodules import load_datamodule
from datamodules.class_names import CLASS_NAMES
from datamodules.fashion_mnist import MD5, SMALL, SMALL_COUNTS, FashionMNIST, FashionMNISTSmall, read_idx, write_small
from datamodules.prepare.catalogue import PUBLISHED
from datamodules.prepare.manifest import hash_file

SPLITS = ("train", "val", "test")


def test_pictures_are_grey_as_rgb_and_in_the_order_of_the_file(tmp_path):
    data = FashionMNIST(**write_fashion_mnist(tmp_path), image_size=28)
    images, labels = fashion_mnist_arrays()["test"]
    for i, row in enumerate(data.rows("test")):
        assert (row.id, row.label) == (f"test-{i:05d}", labels[i])
        assert all((channel.numpy() == images[i]).all() for channel in data.original("test", i))


def test_unpacked_files_have_the_same_rows_and_pictures(tmp_path):
    packed = FashionMNIST(**write_fashion_mnist(tmp_path / "a"), image_size=28)
    plain = FashionMNIST(**write_fashion_mnist(tmp_path / "b", packed=False), image_size=28)
    assert packed.rows("train") == plain.rows("train")
    assert packed.original("val", 3).equal(plain.original("val", 3))


def test_the_classes_are_torchvisions():
    assert CLASS_NAMES["fashion_mnist"]["raw"] == torchvision.datasets.FashionMNIST.classes


def test_another_packing_is_the_same_data_and_other_data_is_refused(tmp_path):
    """Debian compresses the same bytes anew; MNIST's files bear the same names."""
    kwargs = write_fashion_mnist(tmp_path)
    path = tmp_path / "fashion-mnist" / "t10k-labels-idx1-ubyte.gz"
    data, before = gzip.decompress(path.read_bytes()), hash_file(path, "gunzip-md5")
    path.write_bytes(gzip.compress(data, 1, mtime=7))
    assert hash_file(path, "gunzip-md5") == before == kwargs["md5"]["t10k-labels-idx1-ubyte"]
    assert FashionMNIST(**kwargs, image_size=28).n("test") == 50
    path.write_bytes(gzip.compress(data[:-1] + b"\x01"))
    with pytest.raises(ValueError, match=r"holds data of MD5 \w+\. Expected \w+; .*\(MNIST's files"):
        FashionMNIST(**kwargs, image_size=28).rows("test")
    path.write_bytes(gzip.compress(data)[:-9])
    assert hash_file(path, "gunzip-md5") == "damaged"
    with pytest.raises(ValueError, match="is damaged"):
        FashionMNIST(**kwargs, image_size=28).rows("test")


@pytest.mark.parametrize("form", [(None, 28, 28), (None,), (None, 27, 28)], ids=["fits", "dimensions", "size"])
def test_another_idx_file_is_refused(form, tmp_path):
    kwargs = write_fashion_mnist(tmp_path, packed=False)
    name = "t10k-images-idx3-ubyte"
    path = tmp_path / "fashion-mnist" / name
    if form == (None, 28, 28):
        assert read_idx(path, kwargs["md5"][name], form).shape == (50, 28, 28)
        return
    with pytest.raises(ValueError, match="no IDX file"):
        read_idx(path, kwargs["md5"][name], form)


def test_the_catalogue_and_the_reader_state_the_same_digests():
    stated = {archive.file.removesuffix(".gz"): archive.digest.value for archive in PUBLISHED["fashion_mnist"].archives}
    assert stated == MD5


# ---- the small set ---------------------------------------------------------------------------------------------------
def test_the_small_set_is_balanced_ships_and_needs_no_root():
    data = load_datamodule("fashion_mnist_small", image_size=94, root="nowhere")
    assert data.missing() == [] and data.candidates == CLASS_NAMES["fashion_mnist"]["clean"]
    for split, n in SMALL_COUNTS.items():
        assert Counter(row.label for row in data.rows(split)) == dict.fromkeys(range(10), n // 10)
    assert next(iter(data.loader("val", n=4))).images.shape == (4, 3, 94, 94)
    assert sum(path.stat().st_size for path in SMALL.iterdir()) < 2e6
    assert "Zalando" in (SMALL / "LICENSE").read_text()


def test_no_picture_of_the_small_set_is_in_two_splits():
    data = FashionMNISTSmall(image_size=94)
    pictures = [data.content(*at) for split in SPLITS for at in data._table(split).sources]
    assert len(set(pictures)) == len(pictures) == 3300


def test_the_small_set_is_made_of_the_same_splits_of_the_full_one(tmp_path, monkeypatch):
    full = FashionMNIST(**write_fashion_mnist(tmp_path), image_size=28)
    counts = {"train": 70, "val": 10, "test": 20}
    write_small(full, tmp_path / "small", counts)
    monkeypatch.setattr("datamodules.fashion_mnist.SMALL", tmp_path / "small")
    small = FashionMNISTSmall(counts=counts, image_size=28)
    for split, n in counts.items():
        at = {row.id: (i, row) for i, row in enumerate(full.rows(split))}
        assert small.n(split) == n
        for i, row in enumerate(small.rows(split)):
            assert at[row.id][1] == row and full.original(split, at[row.id][0]).equal(small.original(split, i))


def test_the_small_sets_ids_are_the_published_ones():
    rows = json.loads((SMALL / "rows.json").read_text())
    assert all(i.startswith("test-") for i, _ in rows["test"])
    assert all(i.startswith("train-") for split in ("train", "val") for i, _ in rows[split])


def test_a_missing_sheet_is_named(tmp_path, monkeypatch):
    shutil.copytree(SMALL, tmp_path / "small")
    Path(tmp_path / "small" / "sheet.png").unlink()
    monkeypatch.setattr("datamodules.fashion_mnist.SMALL", tmp_path / "small")
    with pytest.raises(FileNotFoundError, match=r"sheet\.png: part of the package"):
        FashionMNISTSmall(image_size=94).rows("val")
