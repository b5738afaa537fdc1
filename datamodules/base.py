"""The DataModule all data sets share; `Batch` and `Row` (the contract) are importable from here.

A data set is one file: a subclass says which rows there are and how an image is read; order, augmentation, sub-samples,
ranks, resuming and the fingerprint are here and are pure functions of (seed, epoch, id).
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from functools import partial

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.batch import Batch, Images, collate
from datamodules.rows import Row, Table, check_rows, expect, rows_fingerprint
from datamodules.sampling import EpochBatchSampler, TrainLoader, distributed_rank
from datamodules.splits import balanced_order, few_shot, official_sample, sample_size
from datamodules.transforms import draw_augmentation, prepare_image

__all__ = ["SPLITS", "TASKS", "Batch", "ImageTextDataModule", "Row", "collate"]

SPLITS = ("train", "val", "test")
TASKS = ("recognition", "counting", "reasoning", "hallucination")


class ImageTextDataModule(lightning.LightningDataModule, ABC):
    """Images with questions and candidate answers.

    A subclass sets `name`, `task` (one of TASKS) and, when every image is square, `square = True`; it implements
    `build_rows`, `load_image` and `candidates`, and `missing` when it reads files. `build_rows("train")` and
    `build_rows("val")` must be disjoint; with `self.val == "official"` the base makes "val" itself out of "test".

    seed drives order and augmentation; split_seed which rows are held out or sub-sampled, so that runs of several seeds
    share them. image_size: S of the batches. batch_size: per rank. n_train: None, a number of rows, or a fraction: the
    class-balanced first rows by hash. shots: instead, that many train rows of every class (answer) by hash. val:
    "train" (held out of train; the default) or "official" (the reference's 5 % of the TEST split with replacement; the
    default when `official`). augment: flip and random crop in training.
    """

    name: str = ""
    task: str = ""
    square: bool = False

    def __init__(
        self,
        *,
        root: str = "data",
        image_size: int = 164,
        batch_size: int = 16,
        eval_batch_size: int = 64,
        n_train: int | float | None = None,
        shots: int | None = None,
        workers: int = 0,
        seed: int = 42,
        split_seed: int = 42,
        val: str | None = None,
        official: bool = False,
        augment: bool = True,
    ) -> None:
        super().__init__()
        val = val or ("official" if official else "train")
        expect("task", self.task, TASKS)
        expect("val", val, ("train", "official"))
        self.root, self.image_size = str(root), image_size
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        if n_train is not None and shots is not None:
            raise ValueError(f"Got n_train={n_train} and shots={shots}. Expected one of them: both choose train rows.")
        self.n_train, self.shots = n_train, shots
        self.workers, self.seed, self.split_seed = workers, seed, split_seed
        self.val, self.official, self.augment = val, official, augment
        self.n_val: int | None = None
        self.n_test: int | None = None
        self.epoch, self.start_batch = 0, 0
        self._tables: dict[str, Table] = {}
        self._fingerprints: dict[tuple, str] = {}
        self._sampler: EpochBatchSampler | None = None

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

    def subset_positions(self, split: str, n: int | float | None) -> list[int]:
        """Positions in `rows(split)` of the fixed sub-sample of n rows (all of them in their own order for None).

        Rows come in order of sha256("{split_seed}:{id}"), taking turns over (group, label) where rows share
        candidates, so that every prefix is balanced and a smaller sub-sample is the beginning of a larger one.
        """
        return self._positions(self.rows(split), n, f"{self.name} '{split}'")

    def subset(self, split: str, n: int | float | None) -> list[Row]:
        """The rows of the fixed sub-sample, in its order."""
        return self._table(split).take(self.subset_positions(split, n)).rows

    def _positions(self, rows: list[Row], n: int | float | None, what: str) -> list[int]:
        size = sample_size(n, len(rows), what)
        if n is None:
            return list(range(size))
        shared = self.candidates is not None
        classes = [(row.group, row.label) if shared else None for row in rows]
        return balanced_order([row.id for row in rows], classes, self.split_seed)[:size]

    def _table(self, split: str) -> Table:
        expect("split", split, SPLITS)
        if split not in self._tables:
            self._tables[split] = self._build_table(split)
        return self._tables[split]

    def _build_table(self, split: str) -> Table:
        if split == "val" and self.val == "official":
            test = self._table("test")
            return test.take(official_sample([row.label for row in test.rows]))
        self.setup()
        rows = self.build_rows(split)
        check_rows(rows, self.candidates, f"{self.name} '{split}'")
        table = Table(rows, [(split, i) for i in range(len(rows))])
        return table.take(self._train_positions(rows)) if split == "train" else table

    def _train_positions(self, rows: list[Row]) -> list[int]:
        if self.shots is not None:
            return few_shot([row.id for row in rows], [row.answer for row in rows], self.shots, self.split_seed)
        return self._positions(rows, self.n_train, f"{self.name} 'train'")

    # ---- images ---------------------------------------------------------------------------------------------------
    def original(self, split: str, position: int) -> Tensor:
        """The image of `rows(split)[position]` as stored, before any resize."""
        return self.load_image(*self._table(split).sources[position])

    def image(self, split: str, position: int, epoch: int | None = None) -> Tensor:
        """(3, S, S) of `rows(split)[position]`: augmented as in `epoch`, or the evaluation transform for None."""
        row, image = self.rows(split)[position], self.original(split, position)
        if self.square and image.shape[-1] != image.shape[-2]:
            raise ValueError(
                f"Image '{row.id}' of {self.name} is {tuple(image.shape)}. Expected a square; unset `square`."
            )
        draw = draw_augmentation(self.seed, epoch, row.id) if self.augment and epoch is not None else None
        return prepare_image(image, self.image_size, draw)

    def augmentation_id(self, epoch: int, row: Row | str) -> str:
        """Names what training does to a row (or id) in an epoch: equal ids, equal pictures. For caches of features.

        "none" without augmentation; "flip0" or "flip1" where images are square (the crop has no room); else with the
        crop's place, which rarely repeats.
        """
        if not self.augment:
            return "none"
        draw = draw_augmentation(self.seed, epoch, row if isinstance(row, str) else row.id)
        return f"flip{draw.flip:d}" + ("" if self.square else f"-{draw.top:.17g}-{draw.left:.17g}")

    def with_image_size(self, size: int) -> ImageTextDataModule:
        """A sibling that reads the same rows (and shares what is already loaded) at another size."""
        sibling = copy.copy(self)
        sibling.image_size, sibling.trainer, sibling._sampler = size, None, None
        return sibling

    def fingerprint(self, split: str, n: int | float | None = None) -> str:
        """sha256 of `subset(split, n)`: ids, original decoded pixels, labels, questions, candidates (not S). Cached."""
        if (split, n) not in self._fingerprints:
            rows, positions = self.rows(split), self.subset_positions(split, n)
            pairs = ((rows[i], self.original(split, i)) for i in positions)
            self._fingerprints[split, n] = rows_fingerprint(pairs, self.candidates)
        return self._fingerprints[split, n]

    # ---- loaders --------------------------------------------------------------------------------------------------
    def set_position(self, epoch: int, start_batch: int) -> None:
        """Start training at batch `start_batch` of `epoch`; every other epoch starts at its first batch.

        Counts this rank's batches (micro-batches when gradients accumulate). Also moves a loader already made.
        """
        if self._sampler is not None:
            self._sampler.set_position(epoch, start_batch)
        self.epoch, self.start_batch = epoch, start_batch

    def loader(
        self,
        split: str,
        n: int | float | None = None,
        batch_size: int | None = None,
        shard: tuple[int, int] | None = None,
    ) -> DataLoader:
        """Batches of `subset(split, n)` in its order, evaluation transform, the last one possibly smaller.

        shard: (rank, world) gives every world-th row: each row to exactly one rank, none twice, so that odd sizes leave
        some ranks one row (perhaps one batch) short: use no per-batch collectives over it.
        """
        positions = self.subset_positions(split, n)
        if shard is not None:
            rank, world = shard
            positions = positions[rank::world]
        data = Images(self, split, positions)
        return DataLoader(data, batch_size=batch_size or self.eval_batch_size, shuffle=False, **self._loader_options())

    def train_dataloader(self) -> TrainLoader:
        """This rank's training batches: see `EpochBatchSampler` for the order (all full, nothing dropped, the last
        global batch filled from the epoch's beginning). Rank and world are those of torch.distributed.

        The Trainer must have `use_distributed_sampler=False`.
        """
        rank, world = distributed_rank()
        self._sampler = EpochBatchSampler(self.n("train"), self.batch_size, self.seed, rank, world)
        self._sampler.set_position(self.epoch, self.start_batch)
        data = Images(self, "train", list(range(self.n("train"))))
        return TrainLoader(data, batch_sampler=self._sampler, **self._loader_options())

    def val_dataloader(self) -> DataLoader:
        """The sub-sample of val (`n_val` rows, None: all); under torch.distributed this rank's shard."""
        return self.loader("val", n=self.n_val, shard=distributed_rank())

    def test_dataloader(self) -> DataLoader:
        """The sub-sample of test (`n_test` rows, None: all); under torch.distributed this rank's shard."""
        return self.loader("test", n=self.n_test, shard=distributed_rank())

    def _loader_options(self) -> dict:
        # A generator of its own: a DataLoader otherwise draws from torch's global one whenever it is iterated.
        return {
            "num_workers": self.workers,
            "persistent_workers": self.workers > 0,
            "pin_memory": torch.cuda.is_available(),
            "generator": torch.Generator(),
            "collate_fn": partial(collate, shared=self.candidates),
        }
