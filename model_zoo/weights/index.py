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
            return sorted(set(json.loads((folder / index).read_text())["weight_map"].values()))
        if (folder / single).is_file():
            return [single]
    return [SINGLE[1]]
