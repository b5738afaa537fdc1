"""A published part of a data set ("train", "test", ...): ids, labels, and where its pictures lie."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from datamodules.images import decode_bytes, decode_image


class Pictures(ABC):
    """The pictures of a part by place. All methods are pure, and safe in forked and spawned workers."""

    @abstractmethod
    def decode(self, i: int) -> Tensor:
        """(3, H, W) uint8 RGB."""

    @abstractmethod
    def content(self, i: int) -> bytes:
        """The stored bytes, undecoded: two pictures with equal content are equal."""

    def path(self, i: int) -> Path | None:
        """The picture's own file, or None where it has none."""
        return None


class PublishedPart(NamedTuple):
    """ids are unique in the whole data set and the same on every machine."""

    ids: list[str]
    labels: list[int]
    pictures: Pictures

    def by_id(self) -> PublishedPart:
        """The same in order of the ids: one order for every copy that keeps the names."""
        order = sorted(range(len(self.ids)), key=lambda i: self.ids[i])
        return PublishedPart(
            [self.ids[i] for i in order], [self.labels[i] for i in order], Reordered(self.pictures, order)
        )


class ArrayPictures(Pictures):
    """(N, 3, H, W) uint8 in memory; (N, H, W, 3) with `channels_last`. May be a memory map."""

    def __init__(self, array: np.ndarray, channels_last: bool = False) -> None:
        self.array, self.channels_last = array, channels_last

    def decode(self, i: int) -> Tensor:
        image = torch.from_numpy(np.array(self.array[i]))
        return image.permute(2, 0, 1).contiguous() if self.channels_last else image

    def content(self, i: int) -> bytes:
        return self.decode(i).numpy().tobytes()


class FilePictures(Pictures):
    """One file each, by path below `folder`."""

    def __init__(self, folder: str | Path, paths: Sequence[str]) -> None:
        self.folder, self.paths = str(folder), list(paths)

    def decode(self, i: int) -> Tensor:
        return decode_image(self.path(i))

    def content(self, i: int) -> bytes:
        return self.path(i).read_bytes()

    def path(self, i: int) -> Path:
        return Path(self.folder, self.paths[i])


class EncodedPictures(Pictures):
    """Encoded files (PNG, JPEG) in memory; `where` names the i-th in an error."""

    def __init__(self, files: Sequence[bytes], where: Sequence[str]) -> None:
        self.files, self.where = files, list(where)

    def decode(self, i: int) -> Tensor:
        return decode_bytes(self.content(i), self.where[i])

    def content(self, i: int) -> bytes:
        return self.files[i]


class Reordered(Pictures):
    """Other pictures in another order."""

    def __init__(self, pictures: Pictures, order: Sequence[int]) -> None:
        self.pictures, self.order = pictures, list(order)

    def decode(self, i: int) -> Tensor:
        return self.pictures.decode(self.order[i])

    def content(self, i: int) -> bytes:
        return self.pictures.content(self.order[i])

    def path(self, i: int) -> Path | None:
        return self.pictures.path(self.order[i])


def stems(paths: Sequence[str]) -> list[str]:
    """File names without their endings: the ids of sets of image files, the same in every copy that keeps names."""
    return [Path(path).stem for path in paths]
