"""CIFAR-10 (Krizhevsky 2009): 60,000 32 x 32 photographs of ten things, from the pickled "python version".

Train 45,000, val 5,000 (500 a class held out of train by hash), test 10,000 (the official one). With `val="official"`
train is all 50,000 and val the reference's 500 draws from test.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.base import ImageTextDataModule, Row
from datamodules.pickles import load_plain_pickle
from datamodules.splits import holdout

FOLDER = "cifar-10-batches-py"
SOURCE = "cifar-10-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html"
CLASS_NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
QUESTION = "This is a photo of a"
CAPTION = "this is a photo of a {}"

# MD5 as published in torchvision.datasets.CIFAR10 (`train_list`, `test_list`), torchvision 0.29.
MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}


class CIFAR10(ImageTextDataModule):
    """The files are `<root>/cifar-10-batches-py/{data_batch_1..5,test_batch}`.

    md5: file name -> expected MD5; None = the published ones (fixtures pass their own). Ids are "train-00017" and
    "test-00017", the number being the place in the official order.
    """

    name = "cifar10"
    task = "recognition"
    square = True

    def __init__(self, *, md5: dict[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._md5 = MD5 if md5 is None else md5
        self._arrays: dict[str, tuple[np.ndarray, list[int]]] = {}
        self._places: dict[str, list[int]] = {}

    @property
    def candidates(self) -> list[str]:
        return CLASS_NAMES

    def missing(self) -> list[str]:
        folder = Path(self.root, FOLDER)
        files = [folder / name for name in MD5 if not (folder / name).is_file()]
        return [f"{file} (unpack {SOURCE} into '{self.root}')" for file in files]

    def build_rows(self, split: str) -> list[Row]:
        file = "test" if split == "test" else "train"
        labels = self._read(file)[1]
        ids = [f"{file}-{i:05d}" for i in range(len(labels))]
        self._places[split] = self._split(split, ids, labels)
        return [_row(ids[i], labels[i]) for i in self._places[split]]

    def load_image(self, split: str, index: int) -> Tensor:
        images, _ = self._read("test" if split == "test" else "train")
        return torch.from_numpy(images[self._places[split][index]].copy())

    def _split(self, split: str, ids: list[str], labels: list[int]) -> list[int]:
        if split == "test" or self.val == "official":
            return list(range(len(ids)))
        kept, held = holdout(ids, labels, 0.1, self.split_seed)
        return held if split == "val" else kept

    def _read(self, file: str) -> tuple[np.ndarray, list[int]]:
        """((N, 3, 32, 32) uint8, N labels) of "train" or "test", read once."""
        if file not in self._arrays:
            names = sorted(name for name in MD5 if name.startswith("data" if file == "train" else "test"))
            parts = [read_batch(Path(self.root, FOLDER, name), self._md5.get(name)) for name in names]
            labels = [label for _, part in parts for label in part]
            self._arrays[file] = np.concatenate([images for images, _ in parts]), labels
        return self._arrays[file]


def _row(row_id: str, label: int) -> Row:
    name = CLASS_NAMES[label]
    return Row(row_id, label, QUESTION, name, CAPTION.format(name))


def read_batch(path: Path, md5: str | None) -> tuple[np.ndarray, list[int]]:
    """One pickled batch: ((N, 3, 32, 32) uint8, N labels).

    Raises: ValueError for a wrong digest, a pickle of anything but plain data, or arrays of another form.
    """
    digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    if digest != md5:
        raise ValueError(f"'{path}' has MD5 {digest}. Expected {md5}; it is damaged: get {SOURCE} again.")
    batch = load_plain_pickle(path)
    data = batch.get("data") if isinstance(batch, dict) else None
    labels = batch.get("labels") if isinstance(batch, dict) else None
    if not _is_batch(data, labels):
        raise ValueError(
            f"'{path}' is not a CIFAR-10 batch. Expected a dict with 'data', uint8 (N, 3072), and 'labels', N numbers "
            f"from 0 to 9; get {SOURCE}."
        )
    return data.reshape(-1, 3, 32, 32), [int(label) for label in labels]


def _is_batch(data: Any, labels: Any) -> bool:
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        return False
    if not isinstance(labels, list) or len(labels) != len(data):
        return False
    return all(isinstance(label, int) and 0 <= label < len(CLASS_NAMES) for label in labels)
