"""CIFAR-10: the real format, torchvision as the oracle, and no code from a file."""

import hashlib
import os
import pickle
import random
from collections import Counter

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from support.cifar_files import FOLDER, python2_pickle, write_batch, write_cifar10

from datamodules import load_datamodule
from datamodules.cifar10 import CIFAR10, MD5, read_batch
from datamodules.pickles import load_plain_pickle


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    return {"root": str(root), "md5": write_cifar10(root), "counts": {"train": 200, "test": 200}}


def torchvision_reader(files, train):
    """torchvision's own reader over the same files."""

    class Reader(torchvision.datasets.CIFAR10):
        train_list = [[name, md5] for name, md5 in files["md5"].items() if name != "test_batch"]
        test_list = [["test_batch", files["md5"]["test_batch"]]]

        def _load_meta(self):
            self.classes = CIFAR10().candidates

    return Reader(files["root"], train=train)


def test_the_fixture_is_the_format_of_python_2():
    assert python2_pickle({})[:2] == pickle.PROTO + b"\x02"
    assert b"cnumpy.core.multiarray\n_reconstruct" in python2_pickle(np.zeros(3, np.uint8))


@pytest.mark.parametrize("train", [True, False])
def test_images_and_labels_are_torchvisions(files, train):
    theirs = torchvision_reader(files, train)
    ours = CIFAR10(**files, official=True)  # official: train is all of the training files, in their order
    split = "train" if train else "test"
    assert [row.label for row in ours.rows(split)] == theirs.targets
    for i in (0, 1, 39, len(theirs) - 1):
        assert np.array_equal(ours.original(split, i).permute(1, 2, 0).numpy(), theirs.data[i])


def test_the_evaluation_picture_is_torchvisions(files):
    data = CIFAR10(**files)
    original = Image.fromarray(data.original("test", 3).permute(1, 2, 0).numpy())
    reference = torchvision.transforms.Compose(
        [
            torchvision.transforms.Resize(164, interpolation=torchvision.transforms.InterpolationMode.BICUBIC),
            torchvision.transforms.CenterCrop(164),
            torchvision.transforms.ToTensor(),
        ]
    )
    assert torch.equal(data.image("test", 3), reference(original))


def test_val_is_a_tenth_of_each_class_of_train_by_hash(files):
    data = CIFAR10(**files)
    train, val = data.rows("train"), data.rows("val")
    assert (len(train), len(val), data.n("test")) == (180, 20, 200)
    assert Counter(row.label for row in val) == dict.fromkeys(range(10), 2)
    everything = [row for row in train + val if row.label == 7]
    by_hash = sorted(everything, key=lambda row: hashlib.sha256(f"42:{row.id}".encode()).hexdigest())
    assert {row.id for row in by_hash[:2]} == {row.id for row in val if row.label == 7}


def test_no_image_is_in_two_splits(files):
    data = CIFAR10(**files)
    pictures = [
        data.original(split, i).numpy().tobytes() for split in ("train", "val", "test") for i in range(data.n(split))
    ]
    assert len(set(pictures)) == len(pictures)


def test_official_val_is_the_references_class(files):
    theirs = torchvision_reader(files, train=False)
    random.seed(42)
    chosen = []
    for label in range(10):
        members = [i for i in range(len(theirs)) if theirs.targets[i] == label]
        chosen.extend(random.choices(members, k=int(0.05 * len(members))))
    random.shuffle(chosen)
    rows = CIFAR10(**files, val="official").rows("val")
    assert [row.id for row in rows] == [f"test-{i:05d}" for i in chosen]
    assert len(rows) == 10


def test_texts_are_those_of_the_method(files):
    data = CIFAR10(**files)
    row = next(row for row in data.rows("test") if row.label == 3)
    assert row[2:] == ("This is a photo of a", "cat", "this is a photo of a cat", "", None)
    assert row.id.startswith("test-") and len(row.id) == 10
    assert data.candidates == [
        *("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    ]
    assert (data.task, data.name, data.square) == ("recognition", "cifar10", True)


def test_the_published_digests_are_torchvisions():
    theirs = torchvision.datasets.CIFAR10.train_list + torchvision.datasets.CIFAR10.test_list
    assert dict(theirs) == MD5


def test_missing_files_say_where_they_go_and_come_from(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        load_datamodule("cifar10", root=str(tmp_path)).rows("train")
    text = str(error.value)
    assert text.startswith(f"No cifar10 data in '{tmp_path}'. Expected:")
    assert all(f"{tmp_path}/{FOLDER}/{name} " in text for name in MD5)
    assert "https://www.cs.toronto.edu/~kriz/cifar.html" in text


def test_a_flipped_bit_is_found_before_anything_is_unpickled(files, tmp_path):
    with pytest.raises(ValueError, match=r"data_batch_1' has MD5 \w+\. Expected c99cafc1\w+; it is damaged"):
        CIFAR10(root=files["root"]).rows("train")


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_malicious_pickle_is_not_run_and_the_message_says_so(tmp_path):
    file = tmp_path / "test_batch"
    digest = write_batch(file, np.zeros((1, 3072), np.uint8), [0], extra=Bomb(tmp_path / "hacked"))
    with pytest.raises(ValueError, match=r"asks for '(posix|nt).mkdir', which was not run\. Expected only numbers"):
        read_batch(file, digest)
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize(
    ("value", "asked"),
    [
        (np.array([print], dtype=object), "numpy.dtype of 'O8'"),
        (print, "__builtin__.print"),
        (np.random.default_rng(0), "numpy.random"),
        ("x", None),
    ],
    ids=["object array", "builtin", "generator", "text"],
)
def test_only_plain_data_comes_out_of_a_pickle(value, asked, tmp_path):
    file = tmp_path / "some"
    file.write_bytes(python2_pickle(value))
    if asked is None:
        assert load_plain_pickle(file) == value
        return
    with pytest.raises(ValueError, match="which was not run") as error:
        load_plain_pickle(file)
    assert asked in str(error.value)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_arrays_pickled_by_python_3_are_plain_data_too(protocol, tmp_path):
    file = tmp_path / "some"
    array = np.arange(6, dtype=np.uint8).reshape(2, 3)
    file.write_bytes(pickle.dumps({"data": array, "raw": b"\xff\x00", "labels": [1, 2]}, protocol=protocol))
    if protocol == 5:  # written through numpy's `_frombuffer`: no CIFAR file is, so it is not allowed
        with pytest.raises(ValueError, match="which was not run"):
            load_plain_pickle(file)
        return
    read = load_plain_pickle(file)
    assert np.array_equal(read["data"], array) and read["raw"] == b"\xff\x00" and read["labels"] == [1, 2]


@pytest.mark.parametrize("cut", [0, 10, -1])
def test_a_truncated_pickle_names_the_file(cut, tmp_path):
    file = tmp_path / "test_batch"
    write_batch(file, np.zeros((1, 3072), np.uint8), [0])
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"test_batch' is not a readable pickle: .* get it again"):
        load_plain_pickle(file)


@pytest.mark.parametrize(
    ("data", "labels"),
    [
        (np.zeros((1, 3072), np.float32), [0]),
        (np.zeros((1, 3071), np.uint8), [0]),
        (np.zeros((1, 3072), np.uint8), [10]),
        (np.zeros((1, 3072), np.uint8), [1, 2]),
        (np.zeros((1, 3072), np.uint8), None),
        ([0] * 3072, [0]),
    ],
)
def test_another_form_is_refused(data, labels, tmp_path):
    digest = write_batch(tmp_path / "test_batch", data, labels)
    with pytest.raises(ValueError, match=r"is not a CIFAR-10 batch\. Expected a dict with 'data', uint8"):
        read_batch(tmp_path / "test_batch", digest)
