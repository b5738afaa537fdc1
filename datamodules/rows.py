"""Rows: the text half of an example, checks on them, and the fingerprint of rows with their images."""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from datamodules.splits import SPLITS, balanced_order, few_shot, holdout, official_sample, sample_size
from datamodules.unreadable_images import LeftOut, allowed_images, find_unreadable, too_many


class Row(NamedTuple):
    """One example without its image.

    id: unique in its split and the same on every machine. label: index of the answer in the row's candidates.
    caption: text for the TSE loss. group: the sub-test (POPE's `popular`). candidates: None when all rows share a list.
    """

    id: str
    label: int
    question: str
    answer: str
    caption: str
    group: str = ""
    candidates: list[str] | None = None


def text_length(row: Row, shared: int) -> int:
    """Letters of a row's question and of all its candidates, `shared` where it has none of its own."""
    return len(row.question) + (shared if row.candidates is None else sum(map(len, row.candidates)))


class SplitTable(NamedTuple):
    """A split as used: `rows[i]` has its image at `load_image(*sources[i])`."""

    rows: list[Row]
    sources: list[tuple[str, int]]

    def take(self, positions: list[int]) -> SplitTable:
        return SplitTable([self.rows[i] for i in positions], [self.sources[i] for i in positions])


def expect(what: str, value: str, allowed: Sequence[str]) -> None:
    """Raises: ValueError naming the allowed values when `value` is none of them."""
    if value not in allowed:
        raise ValueError(f"Unknown {what} {value!r}. Expected one of: {', '.join(allowed)}.")


def same_words(text: str) -> str:
    """What a candidate says, whatever its spaces, underscores, case and the way its accents are stored."""
    return " ".join(unicodedata.normalize("NFC", text).replace("_", " ").split()).casefold()


def check_candidates(candidates: Sequence[str], where: str, repair: str = "rename or remove one") -> None:
    """Raises: ValueError naming two candidates that are the same words, one without any, or a single one."""
    seen: dict[str, str] = {}
    for text in candidates:
        words = same_words(text) if isinstance(text, str) else ""
        if not words:
            raise ValueError(f"{where}: the candidate {text!r} says nothing. Expected a text with at least one word.")
        if words in seen:
            raise ValueError(
                f"{where}: the candidates {seen[words]!r} and {text!r} are the same words. Expected each "
                f"answer once: {repair}."
            )
        seen[words] = text
    if len(seen) < 2:
        raise ValueError(f"{where}: candidates {list(candidates)}. Expected at least two, all different.")


def check_ids(places: Iterable[tuple[str, str]], what: str = "The data set") -> None:
    """places: (id, where it was read). Raises: ValueError naming both places of an id that comes twice."""
    seen: dict[str, str] = {}
    for row_id, where in places:
        if row_id in seen:
            raise ValueError(
                f"{what} has the id '{row_id}' twice: {seen[row_id]} and {where}. Expected every id once in "
                "train, val and test together: give one of them another, or remove the copy."
            )
        seen[row_id] = where


def check_rows(rows: list[Row], shared: list[str] | None, where: str) -> None:
    """Raises: ValueError for an empty split, missing or equal candidates, or a label outside them."""
    if not rows:
        raise ValueError(f"{where} has no rows. Expected at least one; check the files it is read from.")
    checked: set[tuple[str, ...]] = set()
    for row in rows:
        candidates = row.candidates if row.candidates is not None else shared
        if not candidates:
            raise ValueError(f"Row '{row.id}' of {where} has no candidates. Give it a list or set `candidates`.")
        if not 0 <= row.label < len(candidates):
            raise ValueError(
                f"Row '{row.id}' of {where} has label {row.label}. Expected an index into its "
                f"{len(candidates)} candidates, 0 to {len(candidates) - 1}."
            )
        if (key := tuple(candidates)) not in checked:
            check_candidates(candidates, f"Row '{row.id}' of {where}" if row.candidates is not None else where)
            checked.add(key)


def image_sha256(image: Tensor) -> str:
    """sha256 over type, shape and values of a decoded image (3, H, W)."""
    digest = hashlib.sha256(f"{image.dtype}{tuple(image.shape)}".encode())
    digest.update(image.contiguous().numpy().tobytes())
    return digest.hexdigest()


def rows_fingerprint(pairs: Iterable[tuple[Row, str]], shared: list[str] | None) -> str:
    """A result row's data_fp: sha256 over a JSON line [id, image sha256, label, question, candidates] per row in order.

    pairs: rows with the `image_sha256` of their images.
    """
    digest = hashlib.sha256()
    for row, image in pairs:
        candidates = row.candidates if row.candidates is not None else shared
        line = json.dumps([row.id, image, row.label, row.question, candidates])
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


class RowTables(ABC):
    """The rows half of `ImageTextDataModule`, which says what the attributes mean."""

    name: str
    root: str
    val: str
    n_train: int | float | None
    shots: int | None
    split_seed: int
    max_corrupt: int | float

    def __init__(self) -> None:
        super().__init__()
        self._whole: dict[str, SplitTable] = {}
        self._tables: dict[str, SplitTable] = {}
        self._left_out: dict[str, list[LeftOut]] = {}
        self._units: dict[str, dict[str, str]] = {}

    # ---- what a data set says -------------------------------------------------------------------------------------
    @abstractmethod
    def build_rows(self, split: str) -> list[Row]:
        """The rows of "train", "val" or "test" in a fixed order; called once per split."""

    @abstractmethod
    def load_image(self, split: str, index: int) -> Tensor:
        """The original image of `build_rows(split)[index]`: (3, H, W) RGB, uint8 or float in [0, 1]. Pure."""

    @property
    @abstractmethod
    def candidates(self) -> list[str] | None:
        """The answers every row chooses from, or None when each row has its own."""

    def image_path(self, split: str, index: int) -> Path | None:
        """The file `load_image` decodes, where it is one of its own: it is then checked once (unreadable_images.py)."""
        return None

    def picture(self, split: str, index: int) -> str | None:
        """What the image of `build_rows(split)[index]` is called, the same for all rows about it; None: of its own.

        The image's file, where it has one; links are followed, so one file under two names is one picture.
        """
        path = self.image_path(split, index)
        return None if path is None else os.path.realpath(path)

    def reword(self, split: str, rows: list[Row]) -> list[Row]:
        """The rows in other words than the data set's own."""
        return rows

    def missing(self) -> list[str]:
        """One line per missing file: what it is, where to put it, where it is published."""
        return []

    # ---- rows -----------------------------------------------------------------------------------------------------
    def setup(self, stage: str | None = None) -> None:
        """Raises: FileNotFoundError naming every missing file."""
        lines = self.missing()
        if lines:
            raise FileNotFoundError("\n  ".join([f"No {self.name} data in '{self.root}'. Expected:", *lines]))

    def rows(self, split: str) -> list[Row]:
        """The rows of a split as used (train after `n_train`), cached."""
        return self._table(split).rows

    def n(self, split: str) -> int:
        return len(self.rows(split))

    def units(self, split: str) -> dict[str, str]:
        """Row id -> its unit, the first row about the same picture over all groups: what intervals resample.

        Questions about one picture are not independent, pictures are.
        """
        if split not in self._units:
            table = self._table(split)
            first: dict[str, str] = {}  # the first row names a picture the same on every machine, a path does not
            self._units[split] = units = {}
            for row, source in zip(table.rows, table.sources, strict=True):
                picture = self.picture(*source)
                units[row.id] = row.id if picture is None else first.setdefault(picture, row.id)
        return self._units[split]

    def left_out(self, split: str) -> list[LeftOut]:
        """The rows that `max_corrupt` let go, in order; none by default."""
        self._table(split)
        return self._left_out[split]

    def subset_positions(self, split: str, n: int | float | None) -> list[int]:
        """Positions in `rows(split)` of the fixed sub-sample of n rows (all of them in their own order for None).

        Rows come in order of sha256("{split_seed}:{id}"), taking turns over (group, label) where rows share
        candidates, so that every prefix is balanced and a smaller sub-sample is the beginning of a larger one.
        """
        return self._positions(self.rows(split), n, f"{self.name} '{split}'")

    def subset(self, split: str, n: int | float | None) -> list[Row]:
        """The rows of the fixed sub-sample, in its order."""
        return self._table(split).take(self.subset_positions(split, n)).rows

    def train_or_val(self, split: str, ids: Sequence[str], labels: Sequence[Hashable]) -> list[int]:
        """Places of train or val in what is published as train: val is a tenth of each label, by hash of the ids.

        All of them for test, and where val is the reference's draw from test.
        """
        if split == "test" or self.val == "official":
            return list(range(len(ids)))
        kept, held = holdout(ids, labels, 0.1, self.split_seed)
        return held if split == "val" else kept

    def _positions(self, rows: list[Row], n: int | float | None, what: str) -> list[int]:
        size = sample_size(n, len(rows), what)
        if n is None:
            return list(range(size))
        shared = self.candidates is not None
        classes = [(row.group, row.label) if shared else None for row in rows]
        return balanced_order([row.id for row in rows], classes, self.split_seed)[:size]

    def _table(self, split: str) -> SplitTable:
        expect("split", split, SPLITS)
        if split not in self._tables:
            self._tables[split], self._left_out[split] = self._leave_out(split, self._whole_table(split))
        return self._tables[split]

    def _whole_table(self, split: str) -> SplitTable:
        if split not in self._whole:
            self._whole[split] = self._build_table(split)
        return self._whole[split]

    def _build_table(self, split: str) -> SplitTable:
        if split == "val" and self.val == "official":
            test = self._whole_table("test")  # the reference's draw, whatever is left out of test
            return test.take(official_sample([row.label for row in test.rows]))
        self.setup()
        rows = self.reword(split, self.build_rows(split))
        check_rows(rows, self.candidates, f"{self.name} '{split}'")
        self._check_ids(split, rows)
        table = SplitTable(rows, [(split, i) for i in range(len(rows))])
        return table.take(self._train_positions(rows)) if split == "train" else table

    def _check_ids(self, split: str, rows: list[Row]) -> None:
        """Within the split and against those already built: an id means one row in the whole data set."""
        own = ((row.id, self._place_of(split, i)) for i, row in enumerate(rows))
        others = (
            (row.id, self._place_of(*source))
            for table in self._whole.values()
            for row, source in zip(table.rows, table.sources, strict=True)
        )
        ids = {row.id for row in rows}
        if len(ids) < len(rows) or any(row.id in ids for table in self._whole.values() for row in table.rows):
            check_ids([*dict.fromkeys(others), *own], f"{self.name} '{split}'")

    def _place_of(self, split: str, index: int) -> str:
        path = self.image_path(split, index)
        return f"{self.name} '{split}' row {index}" + (f" ('{path}')" if path else "")

    def _train_positions(self, rows: list[Row]) -> list[int]:
        if self.shots is not None:
            return few_shot([row.id for row in rows], [row.answer for row in rows], self.shots, self.split_seed)
        return self._positions(rows, self.n_train, f"{self.name} 'train'")

    def _leave_out(self, split: str, table: SplitTable) -> tuple[SplitTable, list[LeftOut]]:
        """The table without rows whose image cannot be read, and those; as it is (nothing is read) by default.

        Train rows are chosen first (`n_train` then gives fewer); sub-samples of val and test are of what is left.
        Raises: ValueError when more images than `max_corrupt`, or all, cannot be read.
        """
        if not self.max_corrupt:
            return table, []
        reasons, images = find_unreadable(dict.fromkeys(table.sources), self.image_path, self.load_image)
        gone = [i for i, source in enumerate(table.sources) if source in reasons]
        named: dict[object, str] = {}  # one line an image: several rows may ask about it
        for i in gone:
            source = table.sources[i]
            named.setdefault(self.image_path(*source) or source, f"{table.rows[i].id}: {reasons[source]}")
        limit = allowed_images(self.max_corrupt, images)
        if len(named) > limit or len(gone) == len(table.rows):
            raise too_many(list(named.values()), images, limit, f"{self.name} '{split}'")
        kept = [i for i in range(len(table.rows)) if table.sources[i] not in reasons]
        return table.take(kept), [LeftOut(table.rows[i].id, reasons[table.sources[i]]) for i in gone]
