"""CIFAR-10 (Krizhevsky 2009): 60,000 32 x 32 photographs of ten things, from the pickled "python version".

Train 45,000, val 5,000 (500 a class held out of train by hash), test 10,000 (the official one). With `val="official"`
train is all 50,000 and val the reference's 500 draws from test. Parquet: uoft-cs/cifar10 (columns img, label; PNG).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.labelled_pictures import ArrayPictures, PublishedPart
from datamodules.pickles import load_plain_pickle
from datamodules.places import find_folder
from datamodules.recognition import PublishedRecognition

FOLDERS = ("cifar-10-batches-py", "cifar10", "cifar-10", "cifar-10-python", "")
SOURCE = "cifar-10-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html"

# MD5 as published in torchvision.datasets.CIFAR10 (`train_list`, `test_list`), torchvision 0.29.
MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}

# The labels of the first ten images of data_batch_1 to 5, by which the batches of a copy are told apart. The hub's
# copy has them in the order of the archive's members (4, 3, 2, 5, 1), not of their numbers.
FIRST_LABELS = ("6994112783", "1668834606", "8506928362", "0602721241", "1851574382")


class CIFAR10(PublishedRecognition):
    """The files are `<root>/cifar-10-batches-py/{data_batch_1..5,test_batch}`.

    md5: file name -> expected MD5; None = the published ones (fixtures pass their own). Ids are "train-00017" and
    "test-00017", the number being the place in the official order; a parquet copy in another order than the hub's has
    "copy-train-00017", which names other images.
    """

    name = "cifar10"
    square = True
    counts = {"train": 50_000, "test": 10_000}
    source = SOURCE

    def __init__(self, *, md5: dict[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._md5 = MD5 if md5 is None else md5

    def files(self) -> list[Path]:
        folder = self._folder()
        return [folder / name for name in MD5]

    def read_part(self, part: str) -> PublishedPart:
        names = sorted(name for name in MD5 if name.startswith("data" if part == "train" else "test"))
        batches = [read_batch(self._folder() / name, self._md5.get(name)) for name in names]
        labels = [label for _, part_labels in batches for label in part_labels]
        images = np.concatenate([images for images, _ in batches])
        return PublishedPart([f"{part}-{i:05d}" for i in range(len(labels))], labels, ArrayPictures(images))

    def _folder(self) -> Path:
        return find_folder(self.root, FOLDERS, "data_batch_1")

    def hub_order(self, part: str, labels: list[int]) -> list[int] | None:
        return batch_order(labels) if part == "train" else list(range(len(labels)))


def batch_order(labels: list[int]) -> list[int] | None:
    """For each place in the official order of train the place in a copy made of the same five batches in any order.

    None when the copy's fifths do not begin as the five batches do.
    """
    size = len(labels) // 5
    starts = ["".join(map(str, labels[k * size : k * size + 10])) for k in range(5)]
    if sorted(starts) != sorted(FIRST_LABELS):
        return None
    return [starts.index(first) * size + i for first in FIRST_LABELS for i in range(size)]


def read_batch(
    path: Path, md5: str | None, key: str = "labels", classes: int = 10, source: str = SOURCE
) -> tuple[np.ndarray, list[int]]:
    """One pickled batch: ((N, 3, 32, 32) uint8, N labels).

    Raises: ValueError for a wrong digest, a pickle of anything but plain data, or arrays of another form.
    """
    digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    if digest != md5:
        raise ValueError(f"'{path}' has MD5 {digest}. Expected {md5}; it is damaged: get {source} again.")
    batch = load_plain_pickle(path)
    data: Any = batch.get("data") if isinstance(batch, dict) else None
    labels: Any = batch.get(key) if isinstance(batch, dict) else None
    if not _is_batch(data, labels, classes):
        raise ValueError(
            f"'{path}' is not a CIFAR-{classes} batch. Expected a dict with 'data', uint8 (N, 3072), and '{key}', N "
            f"numbers from 0 to {classes - 1}; get {source}."
        )
    return data.reshape(-1, 3, 32, 32), [int(label) for label in labels]


def _is_batch(data: Any, labels: Any, classes: int) -> bool:
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        return False
    if not isinstance(labels, list) or len(labels) != len(data):
        return False
    return all(isinstance(label, int) and 0 <= label < classes for label in labels)
