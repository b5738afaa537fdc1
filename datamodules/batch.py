"""What a batch is (the contract with everything else), and how one is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.rows import Row

if TYPE_CHECKING:
    from datamodules.base import ImageTextDataModule


class Batch(NamedTuple):
    """B images with their questions, answers and candidate answers.

    images: (B, 3, S, S) float32 RGB in [0, 1], never normalised, S = the DataModule's `image_size`.
    labels: (B,) int64, index of the right answer in the row's candidates.
    captions: texts for the TSE loss; may be empty strings outside training.
    groups: the sub-test a row belongs to (POPE's `popular`), else "".
    candidates: one list per row, or None when all rows share `datamodule.candidates`.
    """

    images: Tensor
    labels: Tensor
    questions: list[str]
    answers: list[str]
    captions: list[str]
    ids: list[str]
    groups: list[str]
    candidates: list[list[str]] | None = None


def collate(items: list[tuple[Row, Tensor]], shared: list[str] | None) -> Batch:
    """Rows with their prepared images -> Batch. `candidates` is None when no row has a list of its own."""
    rows = [row for row, _ in items]
    own = any(row.candidates is not None for row in rows)
    return Batch(
        images=torch.stack([image for _, image in items]),
        labels=torch.tensor([row.label for row in rows], dtype=torch.int64),
        questions=[row.question for row in rows],
        answers=[row.answer for row in rows],
        captions=[row.caption for row in rows],
        ids=[row.id for row in rows],
        groups=[row.group for row in rows],
        candidates=[row.candidates if row.candidates is not None else shared for row in rows] if own else None,
    )


class Images(Dataset):
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
