"""The `Batch` that models, training and scoring are given, and `collate`, which makes one of rows and images."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor

from datamodules.rows import Row


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
    # One list of its own in a batch gives every row its list; else the shared one is not repeated row by row.
    own = any(row.candidates is not None for row in rows)
    every = [row.candidates if row.candidates is not None else shared for row in rows]
    return Batch(
        images=torch.stack([image for _, image in items]),
        labels=torch.tensor([row.label for row in rows], dtype=torch.int64),
        questions=[row.question for row in rows],
        answers=[row.answer for row in rows],
        captions=[row.caption for row in rows],
        ids=[row.id for row in rows],
        groups=[row.group for row in rows],
        candidates=cast(list[list[str]], every) if own else None,
    )
