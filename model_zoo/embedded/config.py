"""Which embedded models there are, what they are built from and where their files lie. Imports no torch."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
WEIGHTS = HERE / "weights"


@lru_cache(maxsize=1)
def read_config() -> dict[str, Any]:
    """Every architecture and training number of the zoo."""
    return json.loads((HERE / "config.json").read_text(encoding="utf-8"))


def model_config(name: str) -> dict[str, Any]:
    """One model's entry. Raises ValueError naming the available ones."""
    models = read_config()["models"]
    if name not in models:
        raise ValueError(f"Unknown embedded MLLM {name!r}. Available: {', '.join(models)}.")
    return models[name]


def embedded_files(name: str, folder: Path | None = None) -> list[Path]:
    """The tower's file and the model's own file: all the bytes its outputs depend on."""
    folder = Path(folder or WEIGHTS)
    return [folder / f"{model_config(name)['tower']}.safetensors", folder / f"{name}.safetensors"]
