"""Oxford-IIIT Pets (Parkhi et al. 2012): 7,349 photographs of 37 breeds of cats and dogs.

Train: nine tenths of each breed of `trainval.txt` (3,680), val the tenth by hash, test `test.txt` (3,669).
Parquet: timm/oxford-iiit-pet (columns image, label, image_id; splits train, test).
"""

from __future__ import annotations

from pathlib import Path

from datamodules.class_names import CLASS_NAMES
from datamodules.labelled_pictures import FilePictures, PublishedPart
from datamodules.places import find_folder, find_inner
from datamodules.recognition import PublishedRecognition
from datamodules.text_files import read_lines

FOLDERS = ("oxford-iiit-pet", "oxford_pets", "oxford-pets", "oxford_iiit_pet", "pets", "")
MARK = "annotations/**/trainval.txt"
SOURCE = "images.tar.gz and annotations.tar.gz from https://www.robots.ox.ac.uk/~vgg/data/pets/"


class OxfordPets(PublishedRecognition):
    """The files are `<root>/oxford-iiit-pet/annotations/{trainval,test}.txt` and `images/*.jpg`.

    Ids are the image names of the lists, "Abyssinian_100".
    """

    name = "oxford_pets"
    parts = {"train": "trainval", "test": "test"}
    counts = {"trainval": 3_680, "test": 3_669}
    source = SOURCE
    ids_from_files = True

    def files(self) -> list[Path]:
        return [*(self._list(part) for part in ("trainval", "test")), self._images()]

    def read_part(self, part: str) -> PublishedPart:
        ids, labels = read_list(self._list(part))
        return PublishedPart(ids, labels, FilePictures(self._images(), [f"{name}.jpg" for name in ids]))

    def _images(self) -> Path:
        return find_inner(find_folder(self.root, FOLDERS, MARK) / "images")

    def _list(self, part: str) -> Path:
        return find_inner(find_folder(self.root, FOLDERS, MARK) / "annotations") / f"{part}.txt"


def read_list(path: Path) -> tuple[list[str], list[int]]:
    """(image names, labels) of lines "Abyssinian_100 1 1 1": name, class from 1, species, breed; "#" begins a comment.

    Raises: ValueError with file and line when a line is not so, or its class is not the breed in the name.
    """
    ids, labels = [], []
    for number, line in enumerate(read_lines(path), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if not _is_line(words):
            raise ValueError(
                f"'{path}', line {number}: '{line}'. Expected an image name and the number of its breed, as in "
                f"'Abyssinian_100 1 1 1'; get {SOURCE} again."
            )
        ids.append(words[0])
        labels.append(int(words[1]) - 1)
    return ids, labels


def _is_line(words: list[str]) -> bool:
    breeds = CLASS_NAMES["oxford_pets"]["raw"]
    if len(words) < 2 or not words[1].isdecimal() or not 1 <= int(words[1]) <= len(breeds):
        return False
    return words[0].rpartition("_")[0].lower() == breeds[int(words[1]) - 1].lower()
