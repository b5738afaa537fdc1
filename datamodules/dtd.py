"""Describable Textures (Cimpoi et al. 2014), release 1.0.1: 5,640 photographs of 47 textures, 120 each.

Split 1 of the ten published: 1,880 each of train, val and test, all official.
Parquet: only copies with the three parts apart (train, validation, test); tanganke/dtd has joined train and val.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.class_names import CLASS_NAMES
from datamodules.labelled_pictures import FilePictures, PublishedPart, stems
from datamodules.places import find_folder
from datamodules.recognition import PublishedRecognition
from datamodules.text_files import read_lines

FOLDERS = ("dtd/dtd", "dtd", "dtd-r1.0.1", "")
SOURCE = "dtd-r1.0.1.tar.gz from https://www.robots.ox.ac.uk/~vgg/data/dtd/"


class DTD(PublishedRecognition):
    """The files are `<root>/dtd/dtd/labels/{train1,val1,test1}.txt` and `images/<texture>/*.jpg`.

    Ids are file names without ending, "banded_0002".
    """

    name = "dtd"
    parts = {"train": "train", "val": "val", "test": "test"}
    counts = {"train": 1_880, "val": 1_880, "test": 1_880}
    source = SOURCE
    ids_from_files = True

    def files(self) -> list[Path]:
        return [*(self._list(part) for part in self.parts), self._folder() / "images"]

    def read_part(self, part: str) -> PublishedPart:
        paths, labels = read_list(self._list(part))
        return PublishedPart(stems(paths), labels, FilePictures(self._folder() / "images", paths))

    def _list(self, part: str) -> Path:
        return self._folder() / "labels" / f"{part}1.txt"

    def _folder(self) -> Path:
        return find_folder(self.root, FOLDERS, "labels/train1.txt")


def read_list(path: Path) -> tuple[list[str], list[int]]:
    """(paths below images/, labels) of lines "banded/banded_0002.jpg".

    Raises: ValueError with file and line for a line of another form or an unknown texture.
    """
    textures = CLASS_NAMES["dtd"]["raw"]
    paths, labels = [], []
    for number, line in enumerate(read_lines(path), 1):
        texture, _, name = line.strip().partition("/")
        if not line.strip():
            continue
        if texture not in textures or not name or "/" in name:
            raise ValueError(
                f"'{path}', line {number}: '{line}'. Expected <texture>/<file>, as in 'banded/banded_0002.jpg', of the "
                f"47 textures; get {SOURCE} again."
            )
        paths.append(line.strip())
        labels.append(textures.index(texture))
    return paths, labels
