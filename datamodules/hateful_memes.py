"""Hateful Memes (Kiela et al. 2020): is the meme hateful, image and text together? 10,000 memes, licensed by Meta.

Train 7,650 and val 850 (a tenth of each label held out of train.jsonl by hash), test 500: `dev_seen.jsonl`, or
`dev.jsonl` of the first release where that is absent (test.jsonl has no labels). Ids begin with the file's name, so a
result says which it was.
"""

from __future__ import annotations

import re
from pathlib import Path

from datamodules.base import Row
from datamodules.image_files import ImageFiles
from datamodules.places import find_folder
from datamodules.rows import check_ids
from datamodules.text_files import either_ending, read_jsonl, take_field

FOLDERS = ("hateful_memes", "hateful-memes", "facebook-hateful-meme-dataset", "data", "")
SOURCE = "the data set from https://hatefulmemeschallenge.com after accepting its licence"
QUESTION = 'This is an image with: "{}" written on it. Is it hateful?'
CAPTIONS = ("a harmless meme", "a hateful meme")
TEST_FILES = ("dev_seen.jsonl", "dev.jsonl")


class HatefulMemes(ImageFiles):
    """The files are `<root>/hateful_memes/{train,dev_seen}.jsonl` and `img/*.png`.

    The text on the meme stands between double quotes in the question; see `clean_text` for quotes and newlines in it
    (`official=True` leaves it as it is, as the reference does).
    """

    name = "hateful_memes"
    task = "reasoning"

    @property
    def candidates(self) -> list[str]:
        return ["no", "yes"]

    @property
    def test_file(self) -> str:
        """The file that is the test: `dev_seen.jsonl`, or `dev.jsonl` where only that is there."""
        here = [name for name in TEST_FILES if self._list(name).is_file()]
        return (here or TEST_FILES)[0]

    def missing(self) -> list[str]:
        paths = [self._list("train.jsonl"), self._list(self.test_file), self._folder() / "img"]
        return [f"{path} (from {SOURCE}; it is never downloaded for you)" for path in paths if not path.exists()]

    def build_rows(self, split: str) -> list[Row]:
        name = self.test_file if split == "test" else "train.jsonl"
        path = self._list(name)
        lines = read_jsonl(path)
        pairs = [self._read_row(line, path) for line in lines]
        check_ids((row.id, f"'{path}' line {line['line']}") for (row, _), line in zip(pairs, lines, strict=True))
        places = self.train_or_val(split, [row.id for row, _ in pairs], [row.label for row, _ in pairs])
        pairs = [pairs[i] for i in places]
        self._files[split] = [file for _, file in pairs]
        return [row for row, _ in pairs]

    def _read_row(self, line: dict, path: Path) -> tuple[Row, str]:
        """(row, image file below root). Raises: ValueError for a missing field, or a label that is not 0 or 1."""
        image, text = take_field(line, "img", str, path), take_field(line, "text", str, path)
        number = take_field(line, "id", (int, str), path)
        label = _read_label(line.get("label"))
        if label is None:
            raise ValueError(
                f"'{path}' line {line['line']}: 'label' is {line.get('label')!r}. Expected 0 or 1 (test.jsonl has "
                f"none: use {' or '.join(TEST_FILES)})."
            )
        question = QUESTION.format(text if self.official else clean_text(text))
        row = Row(f"{path.stem}/{number}", label, question, self.candidates[label], CAPTIONS[label])
        return row, (path.parent / image).relative_to(self.root).as_posix()

    def _folder(self) -> Path:
        return find_folder(self.root, FOLDERS, "train.json*")

    def _list(self, name: str) -> Path:
        return either_ending(self._folder() / name)


def _read_label(value: object) -> int | None:
    """0 or 1, also written 1.0 or "1"; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    return int(value) if value in (0, 1, "0", "1") else None


def clean_text(text: str) -> str:
    """A meme's text on one line, without double quotes of its own: the question puts it between such.

    >>> clean_text('he said: "no"\\n  never “again” ')
    "he said: 'no' never 'again'"
    """
    return " ".join(re.sub('["“”„«»]', "'", text).split())
