"""Which shard files a Hugging Face folder consists of; imports no torch."""

from __future__ import annotations

import json
from pathlib import Path

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLE = ("model.safetensors", "pytorch_model.bin")


def shard_names(folder: Path) -> list[str]:
    """File names of the weight shards, from the index where there is one (whether or not the shards exist).

    Safetensors win over .bin. Without any weights the answer is the name a single file would have.
    """
    for index, single in zip(INDEXES, SINGLE, strict=True):
        if (folder / index).is_file():
            return _indexed(folder / index)
        if (folder / single).is_file():
            return [single]
    return [SINGLE[1]]


def _indexed(path: Path) -> list[str]:
    try:
        return sorted(set(json.loads(path.read_text())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path} is no index of weight shards. Expected JSON with a weight_map; get it again."
        ) from error
