"""Train the embedded zoo from nothing: python -m model_zoo.embedded.train NAME|all [key=value ...]

    NAME         vit, cnn, clip (towers), embedded_minigpt4 ... (connectors; need their tower), or all
    out=DIR      where the safetensors go                         (default: this package's weights/)
    steps_scale  fraction of every number of steps, for a trial   (default 1.0)
    third_style  false leaves the derived `sketch` and `sticker` art out of the towers' world (default true)
    threads      CPU threads                                      (default 2)

The one file of model_zoo that imports datamodules: it is an entry point. Same seed, same machine: same weights.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules import emoji_art, scenes
from datamodules.scenes import World, render_scenes
from model_zoo.embedded.fit import files_sha256, save_weights
from model_zoo.embedded.train_towers import train_tower

HERE = Path(__file__).parent
BROAD = World(scale=(0.25, 0.95), objects=(1, 4))


def provenance() -> dict[str, object]:
    """What made a file: digests of the scene code and of this package's code, library version."""
    return {
        "data_sha256": files_sha256([Path(scenes.__file__), Path(emoji_art.__file__)]),
        "code_sha256": files_sha256(HERE.glob("*.py")),
        "torch": torch.__version__,
        "attribution": "trained on Twemoji (CC-BY 4.0) and OpenMoji (CC-BY-SA 4.0) art",
    }


def broad_scenes(world: World, seed: int, batch: int) -> Callable[[int], tuple[Tensor, Tensor, Tensor]]:
    """Fresh scenes for a tower at each step."""

    def at(step: int) -> tuple[Tensor, Tensor, Tensor]:
        drawn = render_scenes(world, seed, "tower/train", range(step * batch, (step + 1) * batch))
        return drawn.images, drawn.patches, drawn.classes

    return at


def run_tower(name: str, config: dict[str, Any], options: dict[str, Any]) -> None:
    """Train one tower and write `<name>.safetensors`."""
    training = config["towers"][name]["training"]
    world = BROAD if options["third_style"] else World(("twemoji", "openmoji"), scale=BROAD.scale, objects=(1, 4))
    start, steps = time.time(), max(2, round(training["steps"] * options["steps_scale"]))
    held_out = render_scenes(world, training["seed"], "tower/held-out", range(512))
    weights, figures = train_tower(
        name,
        config["towers"][name],
        len(emoji_art.NAMES),
        broad_scenes(world, training["seed"], training["batch"]),
        (held_out.images, held_out.patches, held_out.classes),
        steps,
    )
    record = {"name": name, "seed": training["seed"], "minutes": round((time.time() - start) / 60, 1), **figures}
    save_weights(options["out"] / f"{name}.safetensors", weights, {**record, **provenance()})
    print(json.dumps(record), flush=True)


def parse(argv: list[str]) -> tuple[str, dict[str, Any]]:
    """NAME and the options; raises SystemExit with the usage on anything else."""
    options: dict[str, Any] = {"out": HERE / "weights", "steps_scale": 1.0, "third_style": True, "threads": 2}
    names = [a for a in argv if "=" not in a]
    for key, _, value in (a.partition("=") for a in argv if "=" in a):
        if key not in options:
            raise SystemExit(f"Unknown option {key!r}. Available: {', '.join(options)}.")
        kind = type(options[key])
        options[key] = value.lower() == "true" if kind is bool else Path(value) if key == "out" else kind(value)
    if len(names) != 1:
        raise SystemExit(__doc__)
    return names[0], options


def main(argv: list[str]) -> None:
    name, options = parse(argv)
    torch.set_num_threads(options["threads"])
    config = json.loads((HERE / "config.json").read_text())
    known = list(config["towers"])
    if name != "all" and name not in known:
        raise SystemExit(f"Unknown name {name!r}. Available: all, {', '.join(known)}.")
    for each in known if name == "all" else [name]:
        run_tower(each, config, options)


if __name__ == "__main__":
    main(sys.argv[1:])
