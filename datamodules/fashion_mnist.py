"""Fashion-MNIST (Xiao et al. 2017, MIT): 70,000 grey 28 x 28 photographs of ten kinds of clothes, bags and shoes.

`FashionMNIST` reads the published set: train 54,000, val 6,000 (a tenth of each class of train by hash), test 10,000
(the official one). Parquet: zalando-datasets/fashion_mnist (columns image, label; PNG, in the official order).
`FashionMNISTSmall` ships with the package: 2,000 of that train, 300 of that val, 1,000 of that test, each class equally
often, under the same ids.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.labelled_pictures import Pictures, PublishedPart
from datamodules.places import find_folder
from datamodules.recognition import PublishedRecognition
from datamodules.splits import balanced_order

# Debian's package dataset-fashion-mnist has them in /usr/share/datasets/fashion-mnist, torchvision in FashionMNIST/raw.
FOLDERS = ("fashion-mnist", "FashionMNIST/raw", "fashion_mnist", "fashionmnist", "")
SOURCE = "the four *-ubyte.gz of https://github.com/zalandoresearch/fashion-mnist (or Debian's dataset-fashion-mnist)"
SIDE = 28

# MD5 of what the publisher's .gz files hold: Debian packs the same bytes anew, and others keep them unpacked.
MD5 = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}
FILES = {"train": "train", "test": "t10k"}

SMALL = Path(__file__).parent / "fashion_mnist_small"
SMALL_COUNTS = {"train": 2000, "val": 300, "test": 1000}
COLUMNS = 60  # of pictures in a row of the small set's sheet


class GreyPictures(Pictures):
    """(N, H, W) uint8 in memory, shown as RGB."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def decode(self, i: int) -> Tensor:
        return torch.from_numpy(np.array(self.array[i])).expand(3, -1, -1).contiguous()

    def content(self, i: int) -> bytes:
        return self.array[i].tobytes()


class FashionMNIST(PublishedRecognition):
    """The files are `<root>/fashion-mnist/{train,t10k}-{images-idx3,labels-idx1}-ubyte`, packed (.gz) or not.

    md5: file name without .gz -> expected MD5 of what it holds; None = the published ones (fixtures pass their own).
    Ids are "train-00017" and "test-00017", the number being the place in the file.
    """

    name = "fashion_mnist"
    square = True
    counts = {"train": 60_000, "test": 10_000}
    source = SOURCE

    def __init__(self, *, md5: dict[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._md5 = MD5 if md5 is None else md5

    def files(self) -> list[Path]:
        return [self._file(name) for name in MD5]

    def read_part(self, part: str) -> PublishedPart:
        images, labels = (
            read_idx(self._file(name), self._md5.get(name), form)
            for name, form in (
                (f"{FILES[part]}-images-idx3-ubyte", (None, SIDE, SIDE)),
                (f"{FILES[part]}-labels-idx1-ubyte", (None,)),
            )
        )
        if len(images) != len(labels) or labels.max(initial=0) > 9:
            raise ValueError(
                f"The part '{part}' of Fashion-MNIST in '{self.root}' has {len(images):,} pictures and {len(labels):,} "
                f"labels up to {labels.max(initial=0)}. Expected as many, and labels from 0 to 9; get {SOURCE} again."
            )
        ids = [f"{part}-{i:05d}" for i in range(len(labels))]
        return PublishedPart(ids, [int(label) for label in labels], GreyPictures(images))

    def _file(self, name: str) -> Path:
        folder = find_folder(self.root, FOLDERS, "train-images-idx3-ubyte*")
        return folder / name if (folder / name).is_file() else folder / f"{name}.gz"


def read_idx(path: Path, md5: str | None, form: tuple[int | None, ...]) -> np.ndarray:
    """The uint8 array of an IDX file, packed by gzip or not; None in `form` is any size.

    Raises: ValueError for a damaged file, a wrong digest of what it holds, or an array of another form.
    """
    data = path.read_bytes()
    try:
        data = gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"'{path}' is damaged ({error}). Expected a gzip file; get {SOURCE} again.") from error
    digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if digest != md5:
        raise ValueError(
            f"'{path}' holds data of MD5 {digest}. Expected {md5}; it is damaged or of another set (MNIST's files bear "
            f"the same names): get {SOURCE} again."
        )
    shape = tuple(np.frombuffer(data, ">u4", len(form), 4).tolist()) if len(data) >= 4 + 4 * len(form) else ()
    fits = len(shape) == len(form) and all(want in (None, size) for want, size in zip(form, shape, strict=True))
    start = 4 + 4 * len(form)
    if data[:4] != bytes((0, 0, 8, len(form))) or not fits or len(data) != start + int(np.prod(shape)):
        raise ValueError(f"'{path}' is no IDX file of bytes in {len(form)} dimensions; get {SOURCE} again.")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


class FashionMNISTSmall(PublishedRecognition):
    """3,300 of Fashion-MNIST's pictures, in the package: nothing is downloaded and `root` is not read."""

    name = "fashion_mnist_small"
    family = "fashion_mnist"
    square = True
    parts = {split: split for split in SMALL_COUNTS}
    counts = SMALL_COUNTS
    source = "the package"

    def files(self) -> list[Path]:
        return [SMALL / "sheet.png", SMALL / "rows.json"]

    def missing(self) -> list[str]:
        return [f"{file}: part of the package; reinstall it" for file in self.files() if not file.exists()]

    def read_part(self, part: str) -> PublishedPart:
        rows = json.loads((SMALL / "rows.json").read_text(encoding="utf-8"))
        start = sum(len(rows[split]) for split in list(rows)[: list(rows).index(part)])
        with Image.open(SMALL / "sheet.png") as sheet:
            cells = np.asarray(sheet)
        cells = cells.reshape(-1, SIDE, COLUMNS, SIDE).transpose(0, 2, 1, 3).reshape(-1, SIDE, SIDE)
        ids, labels = [row[0] for row in rows[part]], [row[1] for row in rows[part]]
        return PublishedPart(ids, labels, GreyPictures(cells[start : start + len(ids)]))


def write_small(full: FashionMNIST, folder: Path = SMALL, counts: dict[str, int] = SMALL_COUNTS) -> None:
    """Make the small set of the published one: of each split the first rows of each class by hash, in order of ids.

    `sheet.png` holds the pictures, 60 in a row, split after split; `rows.json` their ids and labels.
    """
    folder.mkdir(parents=True, exist_ok=True)
    listing, cells = {}, []
    for split, n in counts.items():
        rows = full.rows(split)
        order = balanced_order([row.id for row in rows], [row.label for row in rows], full.split_seed)
        chosen = sorted(order[:n], key=lambda i: rows[i].id)
        listing[split] = [[rows[i].id, rows[i].label] for i in chosen]
        cells += [full.original(split, i)[0].numpy() for i in chosen]
    cells += [np.zeros_like(cells[0])] * (-len(cells) % COLUMNS)
    sheet = np.stack(cells).reshape(-1, COLUMNS, SIDE, SIDE).transpose(0, 2, 1, 3).reshape(-1, COLUMNS * SIDE)
    Image.fromarray(sheet).save(folder / "sheet.png", optimize=True)
    (folder / "rows.json").write_text(json.dumps(listing, separators=(",", ":")) + "\n", encoding="utf-8")
