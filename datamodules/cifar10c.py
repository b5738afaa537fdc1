"""CIFAR-10-C (Hendrycks & Dietterich 2019): CIFAR-10's 10,000 test images under 19 corruptions at 5 severities.

Only the test split is corrupted: train and val are CIFAR-10's own and need its files. The 15 common corruptions are
those of corruptions.py, here as published; speckle_noise, gaussian_blur, spatter and saturate are the extra four.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from datamodules.cifar10 import CIFAR10
from datamodules.corruptions import CORRUPTIONS, SEVERITIES, parse_corruption
from datamodules.labelled_pictures import ArrayPictures, PublishedPart
from datamodules.places import find_folder

FOLDERS_C = ("CIFAR-10-C", "cifar10c", "cifar10-c", "")
SOURCE = "CIFAR-10-C.tar from https://zenodo.org/records/2535967"
KINDS = (*CORRUPTIONS, "speckle_noise", "gaussian_blur", "spatter", "saturate")


class CIFAR10C(CIFAR10):
    """The files are `<root>/CIFAR-10-C/{labels,<corruption>}.npy`: severities one after another, each in test's order.

    corruption: "fog:3" (name:severity), without which there are no rows. Ids are CIFAR-10's: the same subset is the
    same images.
    """

    name = "cifar10c"
    family = "cifar10"

    def __init__(self, *, corruption: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._spec = None if corruption is None else parse_corruption(corruption, KINDS)
        if self._spec is not None:
            self.name = "_".join(map(str, ("cifar10c", *self._spec)))

    def missing(self) -> list[str]:
        kind, _ = self._corruption()
        files = [self._file(name) for name in ("labels", kind)]
        return [f"{file} (from {SOURCE}, below '{self.root}')" for file in files if not file.is_file()]

    def read(self, part: str) -> PublishedPart:
        if part == "test":
            return self._read_corrupted()
        lines = super().missing()
        if lines:
            raise FileNotFoundError("\n  ".join([f"The '{part}' part of cifar10c is CIFAR-10's. Expected:", *lines]))
        return super().read(part)

    def _corruption(self) -> tuple[str, int]:
        if self._spec is None:
            raise ValueError(f"cifar10c needs data.corruption=<name>:<severity>, as in 'fog:3'. Names: {KINDS}.")
        return self._spec

    def _read_corrupted(self) -> PublishedPart:
        kind, severity = self._corruption()
        images, labels = self._load(kind), self._load("labels")
        self._check(images, labels, self._file(kind))
        n = len(labels) // len(SEVERITIES)
        rows = slice((severity - 1) * n, severity * n)
        pictures = ArrayPictures(images[rows], channels_last=True)
        return PublishedPart([f"test-{i:05d}" for i in range(n)], [int(label) for label in labels[rows]], pictures)

    def _file(self, name: str) -> Path:
        return find_folder(self.root, FOLDERS_C, "labels.npy") / f"{name}.npy"

    def _load(self, name: str) -> np.ndarray:
        try:
            return np.load(self._file(name), mmap_mode="r")  # never pickled objects: numpy's default
        except (ValueError, OSError, EOFError) as error:
            raise ValueError(
                f"Cannot read '{self._file(name)}': {error}. Expected a numpy array of numbers; get {SOURCE} again."
            ) from error

    def _check(self, images: np.ndarray, labels: np.ndarray, path: Path) -> None:
        form = images.dtype == np.uint8 and images.shape == (len(labels), 32, 32, 3) and labels.shape[1:] == ()
        if (
            not form
            or len(labels) % 5
            or labels.max() > 9
            or any((p != labels[: len(p)]).any() for p in _fifths(labels))
        ):
            raise ValueError(
                f"'{path}' has {images.dtype} {images.shape} for labels {labels.shape}. Expected uint8 "
                f"(5 x N, 32, 32, 3) and the labels of N test images five times over; get {SOURCE} again."
            )


def _fifths(labels: np.ndarray) -> list[np.ndarray]:
    return np.split(labels, len(SEVERITIES))
