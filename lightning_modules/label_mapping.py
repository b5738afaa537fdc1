"""Iterative label mapping as a read-out (ILM-VP, Chen et al., CVPR 2023, arXiv 2211.11635).

A classifier reused for other classes needs to know which of its outputs stands for which class. The paper counts how
often pictures of class c are called k and pairs c with k by falling counts, again after every epoch. Here the outputs
are the candidate answers, one for each class, and the pairing is the one to one that makes most of the counted pictures
right (an assignment problem, our choice in place of the paper's greedy pass). The prompt is trained on plain answers.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from datamodules.rows import Row
from lightning_modules.metrics import Scores


def fit_mapping(scores: Scores) -> np.ndarray:
    """(K,) int64: class -> the candidate that stands for it, each candidate once.

    Of the maps under which most rows are right one that keeps most classes at their own candidate, so that a class
    without rows, or one whose pictures are called many things, is not moved for nothing.
    """
    from scipy.optimize import linear_sum_assignment

    candidates = scores.scores.shape[1]
    counts = np.zeros((candidates, candidates))  # class, what it was called
    np.add.at(counts, (scores.labels, scores.predictions), 1)
    counts += np.eye(candidates) / (2 * candidates)  # less than one picture in all: it decides between equals alone
    return linear_sum_assignment(counts, maximize=True)[1].astype(np.int64)


def read_through(scores: Scores, mapping: np.ndarray) -> Scores:
    """The record in which each class has the score of the candidate that stands for it."""
    return scores._replace(scores=scores.scores[:, mapping])


def require_recognition(task: str) -> None:
    """Raises ValueError for another task."""
    if task != "recognition":
        raise ValueError(
            f"label_mapping=true pairs the classes of a recognition task with candidates, and this task is {task}. "
            "Leave it out."
        )


def require_shared_candidates(rows: Iterable[Row], data: str) -> None:
    """Raises ValueError where rows have candidates of their own, so that a place in their lists is no class."""
    if any(row.candidates for row in rows):
        raise ValueError(
            f"label_mapping=true pairs classes with candidates that all rows share, and rows of {data} have candidates "
            "of their own. Leave it out."
        )
