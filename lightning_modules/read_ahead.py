"""Models in memory: all stay, or one at a time, the next one read while the present one is scored where both fit."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from lightning_modules.backoff import free_memory, is_out_of_memory
from lightning_modules.evaluation import ModelSpec
from model_zoo.registry import is_hub_model

LARGE = 2**28  # bytes of weights from which a collection of garbage between models pays


class ReadAhead:
    """Hands out models, loaded when they are asked for or before.

    A model that is read beside another takes from it what both have in common (`model_zoo.pool`). Reading is the only
    thing done in the background: no collective, no random number, no score.

    Args:
        keep: whether a model stays once it is loaded; else it goes when the next one is there.
        beside: pairs (present, next) of names that fit in memory together while the present one is scored; present ""
            stands for the sources alone. Of any other pair the present one goes before the next one is read.
        load: (spec, device) -> the model, in place of `spec.load(device)`.
    """

    def __init__(
        self,
        *,
        keep: bool,
        beside: Collection[tuple[str, str]] = (),
        load: Callable[[ModelSpec, Any], Any] | None = None,
    ) -> None:
        self.keep, self.beside, self._load = keep, frozenset(beside), load or _load
        self._held: dict[str, Any] = {}
        self._queue: list[ModelSpec] = []
        self._coming: tuple[str, Future] | None = None
        self._stream: Any = None  # of copies to a GPU

    def expect(self, specs: Sequence[ModelSpec], device: torch.device | str) -> None:
        """Tell which models will be asked for, in their order. The first may be read from now on."""
        self._queue = list(specs)
        self._read_next("", device)

    def get(self, spec: ModelSpec, device: torch.device | str) -> Any:
        """The model on its device. Raises what loading it raises, also where that happened in the background."""
        if spec.name not in self._held:
            present = next(iter(self._held), "")
            if not self.keep and (present, spec.name) not in self.beside:
                self.let_go()
            model = self._take(spec, device)
            self.let_go()
            self._held[spec.name] = model
            self._queue = [other for other in self._queue if other.name != spec.name]
            self._read_next(spec.name, device)
        return self._held[spec.name]

    def let_go(self, *, also_kept: bool = False) -> None:
        """Let go of the models that need not stay, and of what they took."""
        if self.keep and not also_kept:
            return
        large = any(sum(p.nbytes for p in model.parameters()) > LARGE for model in self._held.values())
        self._held.clear()
        if large:
            free_memory()

    def stop(self) -> None:
        """Expect no further model, and let go of those that need not stay."""
        self._queue, coming, self._coming = [], self._coming, None
        if coming:
            coming[1].cancel()
        self.let_go()

    def _take(self, spec: ModelSpec, device: torch.device | str) -> Any:
        if self._coming and self._coming[0] == spec.name:
            (_, coming), self._coming = self._coming, None
            problem = coming.exception()  # waits
            if problem is None:
                return coming.result()
            if not is_out_of_memory(problem):
                raise problem
            del coming, problem  # with what was read
            self.let_go()  # the two did not fit after all
            free_memory()
        return self._load(spec, device)

    def _read_next(self, present: str, device: torch.device | str) -> None:
        following = self._queue[0] if self._queue else None
        if self._coming or following is None or (present, following.name) not in self.beside:
            return
        if is_hub_model(following.name):  # sets torch's default dtype while it is built: the present model's too
            return
        pool = ThreadPoolExecutor(1, thread_name_prefix="read ahead")
        self._coming = following.name, pool.submit(self._read, following, device)
        pool.shutdown(wait=False)  # its thread ends with this model

    def _read(self, spec: ModelSpec, device: torch.device | str) -> Any:
        """Load in this thread; on a GPU all copies are on one stream, beside what computes."""
        if torch.device(device).type != "cuda":
            return self._load(spec, device)
        self._stream = self._stream or torch.cuda.Stream(device)
        with torch.cuda.device(self._stream.device), torch.cuda.stream(self._stream):
            model = self._load(spec, device)
        self._stream.synchronize()
        return model


def _load(spec: ModelSpec, device: torch.device | str) -> Any:
    return spec.load(device)
