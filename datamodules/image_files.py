"""Data sets whose images are files of their own."""

from __future__ import annotations

import unicodedata
from abc import ABC
from pathlib import Path
from typing import Any

from torch import Tensor

from datamodules.base import ImageTextDataModule
from datamodules.images import decode_image


class ImageFiles(ImageTextDataModule, ABC):
    """`build_rows(split)` fills `self._files[split]`: for each row the path of its image below `root`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._files: dict[str, list[str]] = {}

    def image_path(self, split: str, index: int) -> Path:
        """The row's file; one whose accents are composed otherwise on the disk (macOS archives) is the same file."""
        path = Path(self.root, self._files[split][index])
        if not path.is_file():
            for form in ("NFC", "NFD"):
                other = Path(self.root, unicodedata.normalize(form, self._files[split][index]))
                if other.is_file():
                    return other
        return path

    def load_image(self, split: str, index: int) -> Tensor:
        return decode_image(self.image_path(split, index))
