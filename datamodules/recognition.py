"""Recognition: which class is in the picture. `Recognition` for any such set, `PublishedRecognition` for known ones."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.base import ImageTextDataModule, Row
from datamodules.class_names import class_names
from datamodules.corruptions import corrupt, parse_corruption
from datamodules.decoded_cache import DecodedCache, content_key
from datamodules.labelled_pictures import PublishedPart
from datamodules.parquet import HubCopy
from datamodules.sampling import TrainLoader
from datamodules.splits import three_way
from datamodules.transforms import draw_augmentation
from datamodules.wording import CAPTION as CAPTION

QUESTION = "This is a photo of a"


class Recognition(ImageTextDataModule):
    """Questions, captions and answers (docs/method.md#data-sets), corrupted evaluation pictures, a cache of decoded.

    corruption: "fog:3" puts a common corruption (name:severity, see corruptions.py) on every original of val and test,
    fixed by (split_seed, id); train stays clean, and `name` says it. cache: keep decoded and resized pictures on disk
    (see decoded_cache.py); off by default, since it writes gigabytes. It holds evaluation pictures, and training
    pictures where a crop has no room (`square`).
    """

    task = "recognition"

    def __init__(self, *, corruption: str | None = None, cache: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cache = cache
        self.corruption = None if corruption is None else parse_corruption(corruption)
        if self.corruption is not None:
            self.name = "_".join(map(str, (type(self).name, *self.corruption)))
        self._caches: dict[tuple[str, int], DecodedCache] = {}

    @abstractmethod
    def content(self, split: str, index: int) -> bytes:
        """Return the stored bytes of the image `load_image(split, index)` decodes: equal content, equal image."""

    def make_rows(self, ids: list[str], labels: list[int]) -> list[Row]:
        names = self.candidates
        assert names is not None  # a recognition set is its classes
        return [
            Row(row_id, label, QUESTION, names[label], CAPTION.format(names[label]))
            for row_id, label in zip(ids, labels, strict=True)
        ]

    def original(self, split: str, position: int) -> Tensor:
        image = super().original(split, position)
        if self.corruption is None or split == "train":
            return image
        return corrupt(image, *self.corruption, key=f"{self.split_seed}:{self.rows(split)[position].id}")

    def stored_path(self, split: str, position: int) -> Path | None:
        return super().stored_path(split, position) if self.corruption is None or split == "train" else None

    def image(self, split: str, position: int, epoch: int | None = None) -> Tensor:
        variants = self._variants(split) if self.cache else 0
        if not variants:
            return super().image(split, position, epoch)
        mirrored = variants == 2 and epoch is not None and self._flips(split, position, epoch)
        slot = position * variants + mirrored
        return self._open_cache(split).get(slot, lambda: super(Recognition, self).image(split, position, epoch))

    def loader(self, split: str, *args: Any, **kwargs: Any) -> DataLoader:
        self._before_workers(split)
        return super().loader(split, *args, **kwargs)

    def train_dataloader(self) -> TrainLoader:
        self._before_workers("train")
        return super().train_dataloader()

    # ---- cache ----------------------------------------------------------------------------------------------------
    def _variants(self, split: str) -> int:
        """Count the pictures a row of a split can become: 1, 2 (mirrored or not), or 0 for too many to keep."""
        if split != "train" or not self.augment:
            return 1
        return 2 if self.square else 0

    def _flips(self, split: str, position: int, epoch: int) -> bool:
        return draw_augmentation(self.seed, epoch, self.rows(split)[position].id).flip

    def _before_workers(self, split: str) -> None:
        """Reads the contents once, not in every worker."""
        if self.cache and self._variants(split):
            self._open_cache(split)

    def _open_cache(self, split: str) -> DecodedCache:
        key = (split, self.image_size)
        if key not in self._caches:
            table, variants = self._table(split), self._variants(split)
            corruption = (self.corruption, self.split_seed) if self.corruption and split != "train" else None
            rows = ((row.id, self.content(*at)) for row, at in zip(table.rows, table.sources, strict=True))
            digest = content_key((self.image_size, variants, corruption), rows)
            name = f"{self.name}-{split}-{self.image_size}-{digest[:16]}"
            self._caches[key] = DecodedCache(name, len(table.rows) * variants, self.image_size)
        return self._caches[key]


class PublishedRecognition(Recognition):
    """A data set whose images, counts and class names are published.

    A subclass sets `name`, `parts` (split -> published part; {"all": ...} alone is split 80/10/10 by hash; without a
    part of its own, val is a tenth of each class of train by hash), `counts` (part -> images, as published) and
    `source`, and implements `files` and `read_part`; with `ids_from_files` ids are file names, and rows are in their
    order. Where its files are missing, the parquet shards of a Hugging Face
    hub copy in `<root>/<name>` are read instead (parquet.py).

    family: the set whose class names and hub copy are used, when it is not `name`.
    names: which words the classes are called by (class_names.py). counts: part -> images, for fixtures only.
    """

    parts: dict[str, str] = {"train": "train", "test": "test"}
    counts: dict[str, int] = {}
    source: str = ""
    family: str = ""
    ids_from_files = False

    def __init__(self, *, names: str | None = None, counts: dict[str, int] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._class_names = class_names(self.family or type(self).name, names)
        self._counts = self.counts if counts is None else counts
        self._parts: dict[str, PublishedPart] = {}
        self._places: dict[str, list[int]] = {}

    # ---- what a data set says -------------------------------------------------------------------------------------
    @abstractmethod
    def files(self) -> list[Path]:
        """The files and folders without which `read_part` cannot work."""

    @abstractmethod
    def read_part(self, part: str) -> PublishedPart:
        """A published part, in its published order, from its publisher's files. Raises: ValueError if not so."""

    def hub_order(self, part: str, labels: list[int]) -> list[int] | None:
        """For each place in the published order the row of the hub's copy; None if that copy is in no known order."""
        return list(range(len(labels)))

    def hub_configs(self) -> tuple[str, ...] | None:
        """The configurations of the hub's copy that are wanted; None: any."""
        return None

    # ---- rows -----------------------------------------------------------------------------------------------------
    @property
    def candidates(self) -> list[str]:
        return self._class_names

    def missing(self) -> list[str]:
        lines = [f"{file} (from {self.source}, below '{self.root}')" for file in self.files() if not file.exists()]
        if not lines or self._hub().found():
            return []
        return [*lines, f"or {self._hub().expected()}"]

    def build_rows(self, split: str) -> list[Row]:
        part = self.part(self._part_of(split))
        self._places[split] = places = self._choose(split, part)
        return self.make_rows([part.ids[i] for i in places], [part.labels[i] for i in places])

    def load_image(self, split: str, index: int) -> Tensor:
        return self.part(self._part_of(split)).pictures.decode(self._places[split][index])

    def image_path(self, split: str, index: int) -> Path | None:
        return self.part(self._part_of(split)).pictures.path(self._places[split][index])

    def content(self, split: str, index: int) -> bytes:
        return self.part(self._part_of(split)).pictures.content(self._places[split][index])

    def part(self, name: str) -> PublishedPart:
        """A published part, read once and counted. Raises: ValueError when it has not the published size."""
        if name not in self._parts:
            part = self.read(name)
            self._check_count(name, len(part.ids))
            self._parts[name] = part.by_id() if self.ids_from_files else part
        return self._parts[name]

    def read(self, part: str) -> PublishedPart:
        """From the publisher's files, or where some are missing from a copy of the hub's."""
        original = all(file.exists() for file in self.files())
        return self.read_part(part) if original else self._hub().read(part, self.hub_order)

    def _hub(self) -> HubCopy:
        return HubCopy(self.root, self.family or type(self).name, self.ids_from_files, self.hub_configs())

    def _part_of(self, split: str) -> str:
        return self.parts.get("all") or self.parts.get(split, self.parts.get("train", ""))

    def _choose(self, split: str, part: PublishedPart) -> list[int]:
        if "all" in self.parts:
            return three_way(part.ids, part.labels, self.split_seed)[split]
        if "val" in self.parts:
            return list(range(len(part.ids)))
        return self.train_or_val(split, part.ids, part.labels)

    def _check_count(self, part: str, n: int) -> None:
        if n != self._counts[part]:
            raise ValueError(
                f"The part '{part}' of {type(self).name} in '{self.root}' has {n:,} images. Expected the published "
                f"{self._counts[part]:,}; get {self.source} again (`imagefolder` reads sets of your own)."
            )
