"""CIFAR-100 (Krizhevsky 2009): 60,000 32 x 32 photographs of a hundred things (the fine labels).

Train 45,000, val 5,000 (50 a class held out of train by hash), test 10,000 (the official one).
Parquet: uoft-cs/cifar100 (columns img, fine_label; PNG, in the official order; it spells crab "cra").
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datamodules.cifar10 import read_batch
from datamodules.labelled_pictures import ArrayPictures, PublishedPart
from datamodules.places import find_folder
from datamodules.recognition import PublishedRecognition

FOLDERS = ("cifar-100-python", "cifar100", "cifar-100", "")
SOURCE = "cifar-100-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html"

# MD5 as published in torchvision.datasets.CIFAR100 (`train_list`, `test_list`), torchvision 0.29.
MD5 = {"train": "16019d7e3df5f24257cddd939b257f8d", "test": "f0ef6b0ae62326f3e7ffdfab6717acfc"}


class CIFAR100(PublishedRecognition):
    """The files are `<root>/cifar-100-python/{train,test}`; `meta`, which holds the class names, is not needed.

    md5: file name -> expected MD5; None = the published ones (fixtures pass their own). Ids as CIFAR-10's.
    """

    name = "cifar100"
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
        path = self._folder() / part
        images, labels = read_batch(path, self._md5.get(part), "fine_labels", 100, SOURCE)
        return PublishedPart([f"{part}-{i:05d}" for i in range(len(labels))], labels, ArrayPictures(images))

    def _folder(self) -> Path:
        return find_folder(self.root, FOLDERS, "meta")
