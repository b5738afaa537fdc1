"""Modules planned from file headers and filled file by file: a wrong name is found before gigabytes are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from model_zoo.pool import read_weights
from model_zoo.weights.safe import Tensors, load_tensors, put_

Convert = Callable[[Tensors], dict[str, Tensor]]


class Feed(NamedTuple):
    """A weight file and how its names become a module's.

    how: says what `convert` does, so that a file is not read again where `model_zoo.pool` has all of it; empty: always.
    """

    path: Path
    convert: Convert
    how: str = ""


@dataclass
class Blueprint:
    """A module on the meta device that is known to fit its files. Nothing of their data has been read yet.

    feeds: in order; a name that occurs twice gets the later value.
    ties: names that share the parameter of another name, so that it is stored once.
    finish: called last, on the filled module.
    """

    module: nn.Module
    feeds: list[Feed]
    ties: Mapping[str, str] = field(default_factory=dict)
    finish: Callable[[Any], None] | None = None

    def fill(self, dtype: torch.dtype | None) -> Any:
        """Read the files one after the other: cast, assign, drop. Peak memory is the module and the largest file.

        dtype: of the floating-point weights; None keeps every tensor's own, mapped from its file.

        Raises ValueError for a damaged file, and when a file is no longer what its header said.
        """
        for path, convert, how in self.feeds:
            read = partial(_read, path, convert)
            for key, value in read_weights(path, how, dtype, read):
                put_(self.module, key, value)
        for key, source in self.ties.items():
            put_(self.module, key, self.module.get_parameter(source))
        if empty := [key for key, value in self.module.state_dict(keep_vars=True).items() if value.is_meta]:
            files = ", ".join(str(feed.path) for feed in self.feeds)
            raise ValueError(f"{files} changed while loading: no {', '.join(empty[:12])} any more. Load again.")
        if self.finish:
            self.finish(self.module)
        return self.module


def _read(path: Path, convert: Convert) -> dict[str, Tensor]:
    return convert(load_tensors(path))


class ModelParts(NamedTuple):
    """What every layout of a model's files comes down to; an adapter is built from these."""

    connector: Any
    llm: Any
    tokenizer: Any
    qformer_tokenizer: Any = None
