"""SVHN, cropped digits (Netzer et al. 2011): 99,289 32 x 32 crops of house numbers; the digit in the middle counts.

Train: nine tenths of each digit of the 73,257, val the tenth by hash, test 26,032 (the official one). The easier
`extra` images are not used. Parquet: ufldl-stanford/svhn, configuration cropped_digits (columns image, label; PNG).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat

from datamodules.labelled_pictures import ArrayPictures, PublishedPart
from datamodules.places import find_folder
from datamodules.recognition import PublishedRecognition

FOLDERS = ("svhn", "housenumbers", "street-view-house-numbers", "")
SOURCE = "train_32x32.mat and test_32x32.mat from http://ufldl.stanford.edu/housenumbers/"

# MD5 as published in torchvision.datasets.SVHN (`split_list`), torchvision 0.29.
MD5 = {"train": "e26dedcc434d2e4c54c9b2d4a06d8373", "test": "eb5a983be6a315427106f1b164d9cef3"}


class SVHN(PublishedRecognition):
    """The files are `<root>/svhn/{train,test}_32x32.mat`.

    md5: part -> expected MD5; None = the published ones (fixtures pass their own). Ids are "train-00017" and
    "test-00017", the number being the place in the file. Label k is the digit k (the files say 10 for 0).
    """

    name = "svhn"
    square = True
    counts = {"train": 73_257, "test": 26_032}
    source = SOURCE

    def __init__(self, *, md5: dict[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._md5 = MD5 if md5 is None else md5

    def files(self) -> list[Path]:
        return [self._file(part) for part in MD5]

    def read_part(self, part: str) -> PublishedPart:
        images, labels = read_mat(self._file(part), self._md5.get(part))
        return PublishedPart([f"{part}-{i:05d}" for i in range(len(labels))], labels, ArrayPictures(images))

    def _file(self, part: str) -> Path:
        return find_folder(self.root, FOLDERS, "train_32x32.mat") / f"{part}_32x32.mat"


def read_mat(path: Path, md5: str | None) -> tuple[np.ndarray, list[int]]:
    """((N, 3, 32, 32) uint8, N digits) of a MATLAB file with X (32, 32, 3, N) and y (N, 1), in which 10 means 0.

    Raises: ValueError for a wrong digest (before anything is parsed), or arrays of another form.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if digest != md5:
        raise ValueError(f"'{path}' has MD5 {digest}. Expected {md5}; it is damaged: get {SOURCE} again.")
    arrays = loadmat(path, variable_names=["X", "y"])
    images, digits = arrays.get("X"), arrays.get("y")
    if not _is_svhn(images, digits):
        raise ValueError(
            f"'{path}' is not an SVHN file. Expected X, uint8 (32, 32, 3, N), and y, N numbers from 1 to 10; "
            f"get {SOURCE}."
        )
    return np.ascontiguousarray(images.transpose(3, 2, 0, 1)), [int(digit) % 10 for digit in digits.ravel()]


def _is_svhn(images: Any, digits: Any) -> bool:
    if not isinstance(images, np.ndarray) or not isinstance(digits, np.ndarray) or images.dtype != np.uint8:
        return False
    if images.ndim != 4 or images.shape[:3] != (32, 32, 3) or digits.size != images.shape[3]:
        return False
    return bool(np.isin(digits, np.arange(1, 11)).all())
