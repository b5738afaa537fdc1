"""ImageNette (Howard 2019): ten easy classes of ImageNet, 13,394 photographs, version 2.

Train: nine tenths of each class of `train/` (9,469), val the tenth by hash, test `val/` (3,925).
Parquet: frgfm/imagenette, configurations full_size, 320px, 160px (columns image, label; splits train, validation).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datamodules.class_names import CLASS_NAMES
from datamodules.imagefolder import list_images
from datamodules.labelled_pictures import FilePictures, PublishedPart, stems
from datamodules.places import find_folder
from datamodules.recognition import PublishedRecognition
from datamodules.rows import expect

SIZES = {"full": "imagenette2", "320": "imagenette2-320", "160": "imagenette2-160"}
FIRST_CLASS = "train/n01440764"
CONFIGS = {"full": "full_size", "320": "320px", "160": "160px"}
SOURCE = "imagenette2.tgz from https://github.com/fastai/imagenette"


class Imagenette(PublishedRecognition):
    """The files are `<root>/imagenette2/{train,val}/<wnid>/*.JPEG`.

    size: "full", or "320" or "160" for the copies whose shorter side has that many pixels (folders imagenette2-320,
    -160); None takes the largest there is. Ids are file names without ending: the splits are the same in all sizes.
    """

    name = "imagenette"
    parts = {"train": "train", "test": "val"}
    counts = {"train": 9_469, "val": 3_925}
    source = SOURCE
    ids_from_files = True

    def __init__(self, *, size: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if size is not None:
            expect("size", size, list(SIZES))
        self._size = size

    def files(self) -> list[Path]:
        return [self._folder() / part for part in ("train", "val")]

    def read_part(self, part: str) -> PublishedPart:
        wnids = CLASS_NAMES["imagenette"]["raw"]
        paths = list_images(self._folder() / part, wnids)
        labels = [wnids.index(path.split("/")[0]) for path in paths]
        return PublishedPart(stems(paths), labels, FilePictures(self._folder() / part, paths))

    def hub_configs(self) -> tuple[str, ...] | None:
        return (CONFIGS[self._size],) if self._size else None

    def _folder(self) -> Path:
        wanted = [SIZES[self._size]] if self._size else list(SIZES.values())
        folders = [find_folder(self.root, (name, f"imagenette/{name}"), FIRST_CLASS) for name in wanted]
        return next((folder for folder in folders if any(folder.glob(FIRST_CLASS))), folders[0])
