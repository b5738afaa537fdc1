"""POPE (Li et al. 2023): is an object in the picture? Three types of question, by which absent objects are asked for.

Test: the three official files of 3,000 questions about 500 COCO val2014 images each, in the groups `random`, `popular`
and `adversarial`. Train and val: questions about 2,000 COCO train2014 images, made by `datamodules/pope_questions.py`
as the authors of the reference made theirs; val is all questions about a tenth of the images, so that none is shared.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from datamodules.base import Row
from datamodules.image_files import ImageFiles
from datamodules.places import find_folder
from datamodules.text_files import either_ending, read_json, read_jsonl, take_field

FOLDER = "pope"
FOLDERS = ("pope", "pope/output/coco", "POPE/coco", "output/coco", "coco_pope", "")
TYPES = ("random", "popular", "adversarial")
SOURCE = "https://github.com/AoiDragon/POPE, output/coco"
COCO = "https://cocodataset.org/#download"
MANIFEST = "train_manifest.json"
MAKE = "python -m datamodules.pope_questions"


class POPE(ImageFiles):
    """The files are `<root>/pope/coco_pope_{type}.json`, `pope/train_{type}.json` and `coco/{train,val}2014/*.jpg`.

    half: only the first half of each test file, as the reference reads it (default: `official`).
    n_questions: what each test file must hold. Ids are type and line. Captions name the objects in the picture; they
    are empty in test, where nothing reads them.
    """

    name = "pope"
    task = "hallucination"

    def __init__(self, *, half: bool | None = None, n_questions: int = 3000, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.half = self.official if half is None else half
        self.n_questions = n_questions

    @property
    def candidates(self) -> list[str]:
        return ["no", "yes"]

    def missing(self) -> list[str]:
        lines = [(self._questions("coco_pope", t), f"from {SOURCE}") for t in TYPES]
        lines += [(self._questions("train", t), f"made by {MAKE} root={self.root}") for t in TYPES]
        lines += [(self._pictures(part), f"the images of {part}, from {COCO}") for part in COCO_PARTS]
        return [f"{path} ({how})" for path, how in lines if not path.exists()]

    def build_rows(self, split: str) -> list[Row]:
        pairs = [pair for group in TYPES for pair in self._read(split, group)]
        images = sorted({file for _, file in pairs})  # all questions about an image stay together
        places = self.train_or_val(split, [Path(image).stem for image in images], [0] * len(images))
        chosen = {images[i] for i in places}
        pairs = [(row, file) for row, file in pairs if file in chosen]
        self._files[split] = [file for _, file in pairs]
        return [row for row, _ in pairs]

    def _read(self, split: str, group: str) -> list[tuple[Row, str]]:
        """(row, image below root) of every question of one type."""
        test = split == "test"
        path = self._questions("coco_pope" if test else "train", group)
        if not test:
            check_digest(path)
        lines = read_jsonl(path)
        if test and len(lines) != self.n_questions:
            raise ValueError(
                f"'{path}' has {len(lines)} questions. Expected {self.n_questions} (copies with 2,910 are an early "
                f"release); get it from {SOURCE}."
            )
        lines = lines[: len(lines) // 2] if test and self.half else lines
        pictures = self._pictures(COCO_PARTS[test]).relative_to(self.root).as_posix()
        return [_read_row(line, path, group, pictures, test) for line in lines]

    def _questions(self, begin: str, group: str) -> Path:
        """The file of one type of questions; those of train, which are ours, are found as those of test are."""
        folder = find_folder(self.root, FOLDERS, f"{begin}_{group}.json*")
        return either_ending(folder / f"{begin}_{group}.json")

    def _pictures(self, part: str) -> Path:
        around = ("coco", "", "coco/images", "images", "coco2014", "mscoco", "coco_2014")
        return find_folder(self.root, [f"{folder}/{part}".strip("/") for folder in around], f"COCO_{part}_*.jpg")


COCO_PARTS = ("train2014", "val2014")


def _read_row(line: dict, path: Path, group: str, pictures: str, test: bool) -> tuple[Row, str]:
    image, question = take_field(line, "image", str, path), take_field(line, "text", str, path)
    answer = take_field(line, "label", str, path)
    if answer not in ("no", "yes"):
        raise ValueError(f"'{path}' line {line['line']}: 'label' is {answer!r}. Expected 'no' or 'yes'.")
    caption = "" if test else ", ".join(take_field(line, "objects", list, path))
    row_id = f"{'' if test else 'train/'}{group}/{line['line']:05d}"
    row = Row(row_id, int(answer == "yes"), question, answer, caption, group)
    return row, f"{pictures}/{image}"


def check_digest(path: Path) -> None:
    """Held against `train_manifest.json` where there is one (the reference's own questions come without).

    Raises: ValueError when the file is not what was written.
    """
    manifest = path.with_name(MANIFEST)
    if not manifest.is_file():
        return
    content = read_json(manifest)
    expected = content.get("sha256", {}).get(path.name) if isinstance(content, dict) else None
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != expected:
        raise ValueError(
            f"'{path}' has SHA-256 {digest}. Expected {expected}, as written in '{manifest}'; make it again with "
            f"{MAKE}, or remove the manifest if these questions are meant."
        )
