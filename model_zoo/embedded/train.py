"""Train the embedded zoo from nothing: python -m model_zoo.embedded.train NAME|all [key=value ...]

    NAME         vit, cnn, clip, embedded_minigpt4 ... (an MLLM needs its tower in `out` or in the package), or all;
                 tokenizer writes tokenizer.json (into `out`; all the others use the package's)
    out=DIR      where the safetensors go                         (default: this package's weights/)
    steps_scale  fraction of every number of steps, for a trial   (default 1.0)
    third_style  false leaves the derived `sketch` and `sticker` art out of every world (default true)
    threads      CPU threads                                      (default 2; 1 on a busy machine)

The one file of model_zoo that imports datamodules: it is an entry point. Same seed, same machine: same weights.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from datamodules import emoji_art, scenes
from datamodules.emoji import COUNTING, MATCHING, PRESENCE, RECOGNITION, absent, matching_text, present, with_article
from datamodules.emoji_art import NAMES
from datamodules.scenes import Scenes, World, render_scenes
from model_zoo.base import MLLM
from model_zoo.embedded.build import WEIGHTS, build_embedded, embedded_files, load_tower_, own_tensors, read_config
from model_zoo.embedded.fit import files_sha256, save_weights
from model_zoo.embedded.options import parse
from model_zoo.embedded.text import ClipTokenizer, train_tokenizer
from model_zoo.embedded.train_clip import Choice, train_clip
from model_zoo.embedded.train_models import Asked, accuracy, tower_features, train_model
from model_zoo.embedded.train_towers import Scene, train_tower
from model_zoo.templates import TEMPLATES

HERE = Path(__file__).parent
POOL = 12_288  # scenes a connector trains on, half of them with one object
VOCABULARY = 500
HELD_OUT = 512  # of either half
ANSWERS = {"recognition": list(NAMES), "counting": ["1", "2", "3", "4"], "presence": ["no", "yes"]}
# A mix: the share of scenes with one object, and the chances of each question about such and about other scenes.
MIXES = {
    "even": (
        0.5,
        {"recognition": 0.70, "counting": 0.10, "presence": 0.20},
        {"counting": 0.40, "presence": 0.40, "matching": 0.20},
    ),
    "names": (
        0.65,
        {"recognition": 0.90, "counting": 0.05, "presence": 0.05},
        {"counting": 0.50, "presence": 0.40, "matching": 0.10},
    ),
}
GENERATION_STEPS = {0: 2, 5: 3}  # step modulo 10 -> which of train_models.VARIANTS the whole batch is laid out as


def provenance() -> dict[str, object]:
    """What made a file: digests of the scene code and of this package's code, library version."""
    return {
        "data_sha256": files_sha256([Path(scenes.__file__), Path(emoji_art.__file__)]),
        "code_sha256": files_sha256(HERE.glob("*.py")),
        "torch": torch.__version__,
        "attribution": "trained on Twemoji (CC-BY 4.0) and OpenMoji (CC-BY-SA 4.0) art",
    }


def tokenizer_texts() -> tuple[list[str], tuple[str, ...]]:
    """(instruction texts, object names) that the BPE is fitted on."""
    templates = [text for t in TEMPLATES.values() for text in (t.wrapper, t.cls, t.system, t.infer, t.vqa)]
    answers = ["yes", "no", "2", "3", "4", "a photo of 1 object", "a photo of 2 objects", "this is a photo of a cat"]
    return [*templates, RECOGNITION, COUNTING, PRESENCE, MATCHING, *answers, "Is there an apple in the image?"], NAMES


def render_many(world: World, seed: int, split: str, n: int, start: int = 0) -> Scenes:
    """n scenes, images as uint8."""
    parts = []
    for k in range(start, start + n, 64):
        part = render_scenes(world, seed, split, range(k, min(k + 64, start + n)))
        parts.append(part._replace(images=(part.images * 255).round().to(torch.uint8)))
    return Scenes(*(torch.cat(column) for column in zip(*parts, strict=True)))


def as_scene(drawn: Scenes) -> Scene:
    images = drawn.images.float() / 255 if drawn.images.dtype == torch.uint8 else drawn.images
    return images, drawn.patches, drawn.classes


# ---- towers --------------------------------------------------------------------------------------------------------
def broad_world(third_style: bool, objects: tuple[int, int] = (1, 4)) -> World:
    """Everything there is: all styles, all grounds."""
    styles = emoji_art.STYLES if third_style else ("twemoji", "openmoji")
    return World(styles, scale=(0.25, 0.95), objects=objects)


def clip_choices(drawn: Scenes, n_single: int) -> list[Choice]:
    """Captions to tell apart: names for the first n_single scenes, lists of objects for the rest, counts for all."""
    rows = torch.arange(len(drawn.images))
    lists = [", ".join(present(drawn, i)) for i in rows[n_single:].tolist()]
    unique = list(dict.fromkeys(lists))
    counts = [f"a photo of {n} object{'s' if n > 1 else ''}" for n in range(1, 5)]
    return [
        Choice(rows[:n_single], [f"this is a photo of a {name}" for name in NAMES], drawn.classes[:n_single, 0]),
        Choice(rows, counts, drawn.counts - 1),
        Choice(rows[n_single:], unique, torch.tensor([unique.index(text) for text in lists])),
    ]


def run_clip(config: dict[str, Any], options: dict[str, Any], steps: int) -> tuple[dict, dict]:
    seed, half = config["training"]["seed"], config["training"]["batch"] // 2
    worlds = broad_world(options["third_style"], (1, 1)), broad_world(options["third_style"])

    def draw(split: str, start: int, n: int) -> tuple[Scene, list[Choice]]:
        parts = [render_many(world, seed, split, n, start) for world in worlds]
        drawn = Scenes(*(torch.cat(column) for column in zip(*parts, strict=True)))
        return as_scene(drawn), clip_choices(drawn, n)

    def scenes_at(step: int) -> tuple[Scene, list[Choice]]:
        return draw("clip/train", step * half, half)

    return train_clip(config, ClipTokenizer(), len(NAMES), scenes_at, draw("clip/held-out", 0, 256), steps)


def run_clip_file(options: dict[str, Any]) -> None:
    """Train the tiny CLIP and write `clip.safetensors`."""
    config, start = read_config()["towers"]["clip"], time.time()
    steps = max(2, round(config["training"]["steps"] * options["steps_scale"]))
    weights, figures = run_clip(config, options, steps)
    write("clip", options, start, config["training"]["seed"], weights, figures)


def run_tower(name: str, options: dict[str, Any]) -> None:
    """Train `vit` or `cnn` and write `<name>.safetensors` after every stage; an unfinished file is continued."""
    if name == "clip":
        return run_clip_file(options)
    config = read_config()["towers"][name]
    seed, stages, start = config["training"]["seed"], config["training"]["stages"], time.time()
    weights, done = read_stages(options["out"] / f"{name}.safetensors", len(stages))
    for k in range(done, len(stages)):
        batch, scale = stages[k]["batch"], tuple(stages[k]["scale"])
        world = replace(broad_world(options["third_style"]), scale=scale)
        weights, figures = train_tower(
            name,
            config,
            len(NAMES),
            k,
            weights,
            partial(tower_scenes, world, seed, k, batch),
            as_scene(render_many(world, seed, "tower/held-out", HELD_OUT)),
            max(2, round(stages[k]["steps"] * options["steps_scale"])),
        )
        write(name, options, start, seed, weights, {**figures, "stages_done": k + 1})


def tower_scenes(world: World, seed: int, stage: int, batch: int, step: int) -> Scene:
    """Fresh scenes of a step."""
    split = "tower/train" if stage == 0 else f"tower/train/{stage}"
    return as_scene(render_many(world, seed, split, batch, step * batch))


def read_stages(path: Path, total: int) -> tuple[dict | None, int]:
    """(tensors, stages done) of an unfinished tower file; (None, 0) when there is none or it is finished."""
    if not path.is_file():
        return None, 0
    with safe_open(path, "pt") as file:
        done = int((file.metadata() or {}).get("stages_done", total))
        return ({key: file.get_tensor(key) for key in file.keys()}, done) if done < total else (None, 0)  # noqa: SIM118


# ---- connectors ----------------------------------------------------------------------------------------------------
def question_about(drawn: Scenes, i: int, task: str, rng: np.random.Generator) -> tuple[str, str]:
    """(question, answer) of a task about scene i."""
    there = present(drawn, i)
    if task == "recognition":
        return RECOGNITION, there[0]
    if task == "counting":
        return COUNTING, str(int(drawn.counts[i]))
    right = rng.random() < 0.5
    if task == "presence":
        asked = there[int(rng.random() * len(there))] if right else absent(drawn, i, rng.random())
        return PRESENCE.format(object=with_article(asked)), ("no", "yes")[right]
    pair = [there[int(rng.random() * len(there))] for _ in range(2)]
    if not right:
        pair[int(rng.random() * 2)] = absent(drawn, i, rng.random())
    return MATCHING.format(text=matching_text(pair)), ("no", "yes")[right]


def draw_batches(drawn: Scenes, n_single: int, mix: str, seed: int, batch: int) -> Callable[[int], Asked]:
    """Scene numbers and questions of a step, a pure function of (seed, step)."""
    share, *chances = MIXES[mix]

    def at(step: int) -> Asked:
        rng = np.random.Generator(np.random.Philox(key=seed, counter=[step, 0, 0, 0]))
        single = rng.random(batch) < share
        numbers = np.where(
            single,
            (rng.random(batch) * n_single).astype(int),
            n_single + (rng.random(batch) * (len(drawn.images) - n_single)).astype(int),
        )
        questions, answers = [], []
        for i in numbers.tolist():
            tasks = chances[0 if i < n_single else 1]
            task = list(tasks)[int(np.searchsorted(np.cumsum(list(tasks.values())), rng.random() * 0.999999))]
            question, answer = question_about(drawn, i, task, rng)
            questions.append(question)
            answers.append(answer)
        ranked = (rng.random(batch) < 0.55).astype(int)  # the ranking layout a little more often than the training one
        variants = np.full(batch, GENERATION_STEPS.get(step % 10, -1))
        variants = np.where(variants < 0, ranked, variants).tolist()
        return Asked(torch.from_numpy(numbers), questions, answers, variants)

    return at


def narrow_scenes(name: str, third_style: bool, n: int) -> Scenes:
    """n scenes of one object, n of several, then HELD_OUT of either: in the model's own styles and grounds."""
    training = read_config()["models"][name]["training"]
    styles = tuple(training["styles"]) if third_style else ("twemoji",)
    one = World(styles, tuple(training["backgrounds"]))
    several = replace(one, scale=(0.3, 0.6), objects=(1, 4))
    parts = [
        render_many(world, training["seed"], f"{name}/{split}", size)
        for split, size in (("train", n), ("held-out", HELD_OUT))
        for world in (one, several)
    ]
    return Scenes(*(torch.cat(column) for column in zip(*parts, strict=True)))


def run_model(name: str, options: dict[str, Any]) -> None:
    """Train one MLLM's connector and LLM on its frozen tower; `<name>.safetensors` is written after every stage."""
    training, start = read_config()["models"][name]["training"], time.time()
    seed, stages = training["seed"], training["stages"]
    n = max(64, round(POOL * min(1.0, 4 * options["steps_scale"])) // 2)
    drawn, model = narrow_scenes(name, options["third_style"], n), build_embedded(name)
    tower = options["out"] / embedded_files(name)[0].name
    load_tower_(model, name, options["out"] if tower.is_file() else WEIGHTS)
    weights, done = read_stages(options["out"] / f"{name}.safetensors", len(stages))
    if weights:
        model.load_state_dict({key: value.float() for key, value in weights.items()}, strict=False)
    features = tower_features(model, name, drawn.images)
    pool = Scenes(*(column[: 2 * n] for column in drawn))
    for k in range(done, len(stages)):
        stage, steps = stages[k], max(2, round(stages[k]["steps"] * options["steps_scale"]))
        asked = draw_batches(pool, n, stage["mix"], seed + 1000 * k, stage["batch"])
        loss = train_model(model, name, features, asked, steps, stage["lr"])
        figures = {"steps": steps, "loss": round(loss, 4), **examine(model, name, features, drawn, 2 * n)}
        write(name, options, start, seed, own_tensors(name, model), {**figures, "stages_done": k + 1})


def examine(model: MLLM, name: str, features: tuple[torch.Tensor, ...], drawn: Scenes, first: int) -> dict[str, float]:
    """Top-1 on held-out narrow scenes: 32 names of one object; counts, and yes or no, of up to four."""
    figures, rng = {}, np.random.Generator(np.random.Philox(key=first, counter=[0, 1, 0, 0]))
    for task, candidates in ANSWERS.items():
        start = first + (0 if task == "recognition" else HELD_OUT)
        pairs = [question_about(drawn, i, task, rng) for i in range(start, start + HELD_OUT)]
        questions, answers = (list(column) for column in zip(*pairs, strict=True))
        figures[task] = accuracy(model, name, features, questions, answers, candidates, start)
    return figures


def write(name: str, options: dict, start: float, seed: int, weights: dict, figures: dict[str, object]) -> None:
    record = {"name": name, "seed": seed, "minutes": round((time.time() - start) / 60, 1), **figures}
    save_weights(options["out"] / f"{name}.safetensors", weights, {**record, **options["provenance"]})
    print(json.dumps(record), flush=True)


def main(argv: list[str]) -> None:
    """Train what the command line names."""
    name, options = parse(argv, __doc__)
    towers, models = list(read_config()["towers"]), list(read_config()["models"])
    if name == "tokenizer":
        return train_tokenizer(*tokenizer_texts(), options["out"] / "tokenizer.json", VOCABULARY)
    if name != "all" and name not in towers + models:
        raise SystemExit(f"Unknown name {name!r}. Available: all, {', '.join(towers + models)}.")
    torch.set_num_threads(options["threads"])
    options["provenance"] = provenance()
    for each in towers + models if name == "all" else [name]:
        (run_tower if each in towers else run_model)(each, options)


if __name__ == "__main__":
    main(sys.argv[1:])
