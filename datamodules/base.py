"""The DataModule all data sets share; `Batch` and `Row` (the contract) are importable from here.

A data set is one file: a subclass says which rows there are and how an image is read; order, augmentation, sub-samples,
ranks, resuming and the fingerprint are here and are pure functions of (seed, epoch, id).
"""

from __future__ import annotations

import copy
from abc import ABC
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.batch import Batch, collate
from datamodules.file_notes import look_at
from datamodules.images import decode_image
from datamodules.rows import Row, RowTables, expect, image_sha256, rows_fingerprint, text_length
from datamodules.sampling import EpochBatchSampler, TrainLoader, distributed_rank
from datamodules.transforms import draw_augmentation, prepare_image
from datamodules.unreadable_images import allowed_images
from datamodules.wording import Wording

__all__ = ["TASKS", "Batch", "ImageTextDataModule", "Row", "collate"]

TASKS = ("recognition", "counting", "reasoning", "hallucination")


class ImageTextDataModule(RowTables, lightning.LightningDataModule, ABC):
    """Images with questions and candidate answers.

    A subclass sets `name`, `task` (one of TASKS) and, when every image is square, `square = True`; it implements
    `build_rows`, `load_image` and `candidates`, and `missing` when it reads files. `build_rows("train")` and
    `build_rows("val")` must be disjoint; with `self.val == "official"` the base makes "val" itself out of "test".

    seed drives order and augmentation; split_seed which rows are held out or sub-sampled, so that runs of several seeds
    share them. image_size: S of the batches. batch_size: per rank. n_train: None, a number of rows, or a fraction: the
    class-balanced first rows by hash. shots: instead, that many train rows of every class (answer) by hash. val:
    "train" (held out of train; the default) or "official" (the reference's 5 % of the TEST split with replacement; the
    default when `official`). augment: flip and random crop in training. max_corrupt: how many images of a split that
    cannot be read (a number, or a fraction of them) are left out with their rows; 0: the first one stops the run.
    question, eval_question, caption, caption_names: other words than the set's own, see `Wording`.
    """

    name: str = ""
    task: str = ""
    square: bool = False
    answer_rule: str = "parse"  # how a generated answer is read, see lightning_modules/answer_scoring.py

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
        max_corrupt: int | float = 0,
        question: str | None = None,
        eval_question: str | None = None,
        caption: str | None = None,
        caption_names: Sequence[str] = (),
    ) -> None:
        super().__init__()
        val = val or ("official" if official else "train")
        expect("task", self.task, TASKS)
        expect("val", val, ("train", "official"))
        self.root, self.image_size = str(Path(root).expanduser()), image_size
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        if n_train is not None and shots is not None:
            raise ValueError(f"Got n_train={n_train} and shots={shots}. Expected one of them: both choose train rows.")
        self.n_train, self.shots = n_train, shots
        self.workers, self.seed, self.split_seed = workers, seed, split_seed
        self.val, self.official, self.augment = val, official, augment
        allowed_images(max_corrupt, 0)
        self.max_corrupt = max_corrupt
        self.wording = Wording(question, eval_question, caption, tuple(caption_names))
        self.n_val: int | None = None
        self.n_test: int | None = None
        self.epoch, self.start_batch = 0, 0
        self._fingerprints: dict[tuple, str] = {}
        self._sampler: EpochBatchSampler | None = None

    def reword(self, split: str, rows: list[Row]) -> list[Row]:
        return self.wording.apply(rows, split, self.candidates, f"{self.name} '{split}'")

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

    def with_image_size(self, size: int) -> ImageTextDataModule:
        """A sibling that reads the same rows (and shares what is already loaded) at another size."""
        sibling = copy.copy(self)
        sibling.image_size, sibling.trainer, sibling._sampler = size, None, None
        return sibling

    def fingerprint(self, split: str, n: int | float | None = None) -> str:
        """sha256 of `subset(split, n)`: ids, original decoded pixels, labels, questions, candidates (not S). Cached."""
        if (split, n) not in self._fingerprints:
            rows, positions = self.rows(split), self.subset_positions(split, n)
            pairs = zip((rows[i] for i in positions), self._image_digests(split, positions), strict=True)
            self._fingerprints[split, n] = rows_fingerprint(pairs, self.candidates)
        return self._fingerprints[split, n]

    def _image_digests(self, split: str, positions: list[int]) -> Iterator[str]:
        """`image_sha256` of each original; a file is decoded once for all its rows and remembered by its date."""
        paths = {i: self.stored_path(split, i) for i in positions}
        files = list(dict.fromkeys(path for path in paths.values() if path is not None))
        known = look_at(files, "sha256", lambda file: image_sha256(decode_image(file)), keep=bool)
        for i, path in paths.items():
            yield image_sha256(self.original(split, i)) if path is None else known[path]

    def stored_path(self, split: str, position: int) -> Path | None:
        """The file whose decoded content is exactly `original(split, position)`, where there is one."""
        return self.image_path(*self._table(split).sources[position])

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
        *,
        by_length: bool = False,
    ) -> DataLoader:
        """Batches of `subset(split, n)` in its order, evaluation transform, the last one possibly smaller.

        by_length: rows with texts of like length stand together, the longest first, so that little of a batch is
        padding; rows of one length stay in their order.

        shard: (rank, world) gives every world-th row: each row to exactly one rank, none twice, so that odd sizes leave
        some ranks one row (perhaps one batch) short: use no per-batch collectives over it.
        """
        positions = self.subset_positions(split, n)
        if by_length:
            rows, shared = self.rows(split), sum(map(len, self.candidates or ()))
            positions = sorted(positions, key=lambda i: text_length(rows[i], shared), reverse=True)
        if shard is not None:
            rank, world = shard
            positions = positions[rank::world]
        data = PreparedRows(self, split, positions)
        return DataLoader(data, batch_size=batch_size or self.eval_batch_size, shuffle=False, **self._loader_options())

    def train_dataloader(self) -> TrainLoader:
        """This rank's training batches: see `EpochBatchSampler` for the order (all full, nothing dropped, the last
        global batch filled from the epoch's beginning). Rank and world are those of torch.distributed.

        The Trainer must have `use_distributed_sampler=False`.
        """
        rank, world = distributed_rank()
        self._sampler = EpochBatchSampler(self.n("train"), self.batch_size, self.seed, rank, world)
        self._sampler.set_position(self.epoch, self.start_batch)
        data = PreparedRows(self, "train", list(range(self.n("train"))))
        return TrainLoader(data, batch_sampler=self._sampler, **self._loader_options())

    def val_dataloader(self) -> DataLoader:
        """The sub-sample of val (`n_val` rows, None: all); under torch.distributed this rank's shard."""
        return self.loader("val", n=self.n_val, shard=distributed_rank(), by_length=True)

    def test_dataloader(self) -> DataLoader:
        """The sub-sample of test (`n_test` rows, None: all); under torch.distributed this rank's shard."""
        return self.loader("test", n=self.n_test, shard=distributed_rank(), by_length=True)

    def _loader_options(self) -> dict:
        # A generator of its own: a DataLoader otherwise draws from torch's global one whenever it is iterated.
        return {
            "num_workers": self.workers,
            "persistent_workers": self.workers > 0,
            "pin_memory": torch.cuda.is_available(),
            "generator": torch.Generator(),
            "collate_fn": partial(collate, shared=self.candidates),
        }


class PreparedRows(Dataset):
    """Rows with their prepared images. An item is a number (evaluation) or an (epoch, number) pair (training).

    Holds a copy of the DataModule without its Trainer, so that it can be sent to spawned workers.
    """

    def __init__(self, data: ImageTextDataModule, split: str, positions: list[int]) -> None:
        self.data, self.split, self.positions = data.with_image_size(data.image_size), split, positions

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, item: int | tuple[int, int]) -> tuple[Row, Tensor]:
        epoch, i = item if isinstance(item, tuple) else (None, item)
        position = self.positions[i]
        return self.data.rows(self.split)[position], self.data.image(self.split, position, epoch)
