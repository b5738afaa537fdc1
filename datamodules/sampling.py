"""The order of training batches: a pure function of (seed, epoch), the same for any number of ranks and workers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler


def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """(n,) a permutation of range(n), fixed by (seed, epoch): the argsort of a counter-based generator's raw words.

    Raw Philox output is a published algorithm, so no library release can change it (a `permutation` method may).
    """
    key = hashlib.sha256(f"order:{seed}:{epoch}".encode()).digest()[:16]
    words = np.random.Philox(key=np.frombuffer(key, dtype="<u8")).random_raw(n)
    return np.argsort(words, kind="stable")


def distributed_rank() -> tuple[int, int]:
    """(rank, world) of torch.distributed when it is initialised, else (0, 1)."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


class EpochBatchSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, position) for one rank.

    Let B = batch_size x world and K = ceil(n / B). The epoch's permutation is repeated cyclically to K x B draws;
    global batch k is draws kB .. (k+1)B - 1, and rank r takes the r-th run of `batch_size` among them. Hence
    * every rank has K full batches, nothing is dropped, and only the last global batch can hold a row for the second
      time in the epoch (the first K x B - n rows of the permutation; more often only when n < B);
    * the ranks' batches of step k together are batch k of a single rank with batch size B;
    * within one step the ranks are disjoint whenever n >= B.
    The epoch travels with each draw, so persistent workers need not be told of it.
    """

    def __init__(self, n: int, batch_size: int, seed: int, rank: int = 0, world: int = 1) -> None:
        if n < 1 or batch_size < 1 or not 0 <= rank < world:
            raise ValueError(
                f"Cannot make batches of n={n}, batch_size={batch_size}, rank={rank}, world={world}. "
                "Expected n and batch_size of at least 1 and 0 <= rank < world."
            )
        self.n, self.batch_size, self.seed, self.rank, self.world = n, batch_size, seed, rank, world
        self.epoch = 0
        self._position = (0, 0)

    @property
    def sampler(self) -> EpochBatchSampler:
        """Itself: Lightning looks for `set_epoch` on `loader.batch_sampler.sampler`."""
        return self

    @property
    def start_batch(self) -> int:
        """The first batch of the current epoch: the position's in the position's epoch, 0 in every other."""
        epoch, start = self._position
        return start if epoch == self.epoch else 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration (Lightning calls it before each)."""
        self.epoch = epoch

    def set_position(self, epoch: int, start_batch: int) -> None:
        """Continue at batch `start_batch` of `epoch`; other epochs start at 0. Raises: ValueError when out of range."""
        if epoch < 0 or not 0 <= start_batch <= len(self):
            raise ValueError(
                f"Cannot continue at batch {start_batch} of epoch {epoch}: an epoch has {len(self)} batches. "
                "Expected 0 <= start_batch <= that; the data, batch size or number of ranks may have changed."
            )
        self.epoch, self._position = epoch, (epoch, start_batch)

    def __len__(self) -> int:
        """Batches in a whole epoch, wherever it starts."""
        return -(-self.n // (self.batch_size * self.world))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = self.epoch, epoch_order(self.n, self.seed, self.epoch)
        for k in range(self.start_batch, len(self)):
            first = (k * self.world + self.rank) * self.batch_size
            yield [(epoch, int(order[draw % self.n])) for draw in range(first, first + self.batch_size)]


class TrainLoader(DataLoader):
    """A DataLoader over an `EpochBatchSampler` that Lightning can resume in the middle of an epoch.

    Its state is where the consumer is: {"epoch", "start_batch", "batches", "global_batch"}, counting the batches handed
    out, not those the workers fetched ahead. Iteration begins at the first `next`, after Lightning has set the epoch.
    """

    batch_sampler: EpochBatchSampler
    _progress = (0, 0)

    def __iter__(self) -> Iterator:  # type: ignore[override]
        sampler = self.batch_sampler
        epoch, start = sampler.epoch, sampler.start_batch
        self._progress = (epoch, start)
        for done, batch in enumerate(super().__iter__(), start + 1):
            self._progress = (epoch, done)
            yield batch

    def state_dict(self) -> dict[str, int]:
        epoch, start = self._progress
        batches = len(self.batch_sampler)
        return {"epoch": epoch, "start_batch": start, "batches": batches, "global_batch": self._global_batch()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where `state` was taken; after an epoch's last batch that is the next epoch's first.

        Raises: ValueError in mid-epoch with another global batch size.
        """
        epoch, start = state["epoch"], state["start_batch"]
        if start >= state["batches"]:
            epoch, start = epoch + 1, 0
        if start and state["global_batch"] != self._global_batch():
            raise ValueError(
                f"The checkpoint was written with a global batch (batch size x ranks) of {state['global_batch']}, "
                f"this run has {self._global_batch()}. Expected the same; use it, or resume from an epoch's end."
            )
        self.batch_sampler.set_position(epoch, start)
        self._progress = (epoch, start)

    def _global_batch(self) -> int:
        return self.batch_sampler.batch_size * self.batch_sampler.world
