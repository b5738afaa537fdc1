"""Training of each tiny model, from scenes to its safetensors file: what `python -m experiments.embedded_zoo` calls.

Same seed, same machine: same weights. A file is written after every stage of training.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import safe_open

from datamodules.emoji import art as emoji_art
from datamodules.emoji import questions as emoji
from datamodules.emoji import scenes
from datamodules.emoji.art import NAMES
from datamodules.emoji.scenes import Scenes, World
from experiments.cli import unknown
from experiments.embedded_zoo import lessons
from experiments.embedded_zoo.clip import Choice, train_clip
from experiments.embedded_zoo.fit import files_sha256, save_weights
from experiments.embedded_zoo.models import Asked, accuracy, tower_features, train_model
from experiments.embedded_zoo.towers import Scene, train_tower
from model_zoo.embedded.build import WEIGHTS, build_embedded, embedded_files, load_tower_, own_tensors, read_config
from model_zoo.embedded.text import ClipTokenizer, train_tokenizer
from model_zoo.templates import TEMPLATES

HERE = Path(__file__).parent
MODELS = HERE.parents[1] / "model_zoo" / "embedded"
VOCABULARY = 500
POOL = 12_288  # scenes a connector trains on, half of them with one object
ANSWERS = {"recognition": list(NAMES), "counting": ["1", "2", "3", "4"], "presence": ["no", "yes"]}
GENERATION_STEPS = {0: 2, 5: 3}  # step modulo 10 -> which of train_models.VARIANTS the whole batch is laid out as


class Job(NamedTuple):
    """out: where files go. steps_scale: fraction of every number of steps. third_style: with the derived art too."""

    out: Path
    steps_scale: float
    third_style: bool
    provenance: dict[str, object]


def provenance() -> dict[str, object]:
    """What made a file: digests of the scene code and of this package's code, library version."""
    data = [Path(str(module.__file__)) for module in (scenes, emoji_art, emoji, lessons)]
    return {
        "data_sha256": files_sha256(data),
        "code_sha256": files_sha256([*HERE.glob("*.py"), *MODELS.glob("*.py")]),
        "torch": torch.__version__,
        "attribution": "trained on Twemoji (CC-BY 4.0) and OpenMoji (CC-BY-SA 4.0) art",
    }


def tokenizer_texts() -> tuple[list[str], tuple[str, ...]]:
    """(instruction texts, object names) that the BPE is fitted on."""
    templates = [text for t in TEMPLATES.values() for text in (t.wrapper, t.cls, t.system, t.infer, t.vqa)]
    questions = [emoji.RECOGNITION, emoji.COUNTING, emoji.PRESENCE, emoji.MATCHING]
    answers = ["yes", "no", "2", "3", "4", "a photo of 1 object", "a photo of 2 objects", "this is a photo of a cat"]
    return [*templates, *questions, *answers, "Is there an apple in the image?"], NAMES


# ---- towers --------------------------------------------------------------------------------------------------------
def run_clip(job: Job) -> None:
    """Train the tiny CLIP and write `clip.safetensors`."""
    config, start = read_config()["towers"]["clip"], time.time()
    seed, half = config["training"]["seed"], config["training"]["batch"] // 2
    worlds = [lessons.broad_world(job.third_style, objects) for objects in ((1, 1), (1, 4))]

    def draw(split: str, first: int, n: int) -> tuple[Scene, list[Choice]]:
        drawn = lessons.join_scenes([lessons.render_many(world, seed, split, n, first) for world in worlds])
        return lessons.as_scene(drawn), lessons.caption_choices(drawn, torch.arange(len(drawn.images)) < n)

    def scenes_at(step: int) -> tuple[Scene, list[Choice]]:
        return draw("clip/train", step * half, half)

    steps = scaled(config["training"]["steps"], job)
    weights, figures = train_clip(config, ClipTokenizer(), len(NAMES), scenes_at, draw("clip/held-out", 0, 256), steps)
    write("clip", job, start, seed, weights, figures)


def run_tower(name: str, job: Job) -> None:
    """Train `vit` or `cnn`."""
    config = read_config()["towers"][name]
    seed, stages, start = config["training"]["seed"], config["training"]["stages"], time.time()
    weights, done = read_stages(job.out / f"{name}.safetensors", len(stages))
    for k in range(done, len(stages)):
        world = lessons.broad_world(job.third_style, scale=tuple(stages[k]["scale"]))
        weights, figures = train_tower(
            name,
            config,
            len(NAMES),
            k,
            weights,
            partial(tower_scenes, world, seed, k, stages[k]["batch"]),
            lessons.as_scene(lessons.render_many(world, seed, "tower/held-out", lessons.HELD_OUT)),
            scaled(stages[k]["steps"], job),
        )
        write(name, job, start, seed, weights, {**figures, "stages_done": k + 1})


def tower_scenes(world: World, seed: int, stage: int, batch: int, step: int) -> Scene:
    """Fresh scenes of a step."""
    split = "tower/train" if stage == 0 else f"tower/train/{stage}"
    return lessons.as_scene(lessons.render_many(world, seed, split, batch, step * batch))


# ---- connectors ----------------------------------------------------------------------------------------------------
def draw_batches(drawn: Scenes, n_single: int, mix: str, seed: int, batch: int) -> Callable[[int], Asked]:
    """The batch of a step, a pure function of (seed, step)."""

    def at(step: int) -> Asked:
        rng = np.random.Generator(np.random.Philox(key=seed, counter=[step, 0, 0, 0]))
        numbers, questions, answers = lessons.draw_questions(drawn, n_single, mix, rng, batch)
        ranked = (rng.random(batch) < 0.55).astype(int)  # the ranking layout a little more often than the training one
        variants = np.full(batch, GENERATION_STEPS.get(step % 10, -1))
        variants = np.where(variants < 0, ranked, variants).tolist()
        return Asked(torch.from_numpy(numbers), questions, answers, variants)

    return at


def run_model(name: str, job: Job) -> None:
    """Train one MLLM's connector and LLM on its frozen tower."""
    training, start = read_config()["models"][name]["training"], time.time()
    seed, stages = training["seed"], training["stages"]
    styles = training["styles"] if job.third_style else ("twemoji",)
    n = max(64, round(POOL * min(1.0, 4 * job.steps_scale)) // 2)
    drawn, model = lessons.narrow_scenes(name, seed, styles, training["backgrounds"], n), build_embedded(name)
    tower = job.out / embedded_files(name)[0].name
    load_tower_(model, name, job.out if tower.is_file() else WEIGHTS)
    weights, done = read_stages(job.out / f"{name}.safetensors", len(stages))
    if weights:
        model.load_state_dict({key: value.float() for key, value in weights.items()}, strict=False)
    features = tower_features(model, name, drawn.images)
    pool = Scenes(*(column[: 2 * n] for column in drawn))
    for k in range(done, len(stages)):
        asked = draw_batches(pool, n, stages[k]["mix"], seed + 1000 * k, stages[k]["batch"])
        steps = scaled(stages[k]["steps"], job)
        loss = train_model(model, name, features, asked, steps, stages[k]["lr"])
        figures: dict[str, object] = {"steps": steps, "loss": round(loss, 4), "stages_done": k + 1}
        for task, candidates in ANSWERS.items():
            first, questions, answers = lessons.exam(drawn, 2 * n, task, seed)
            figures[task] = accuracy(model, name, features, questions, answers, candidates, first)
        write(name, job, start, seed, own_tensors(name, model), figures)


# ---- files ---------------------------------------------------------------------------------------------------------
def scaled(steps: int, job: Job) -> int:
    return max(2, round(steps * job.steps_scale))


def read_stages(path: Path, total: int) -> tuple[dict[str, torch.Tensor] | None, int]:
    """(tensors, stages done) of an unfinished file; (None, 0) when there is none or it is finished."""
    if not path.is_file():
        return None, 0
    with safe_open(path, "pt") as file:
        done = int((file.metadata() or {}).get("stages_done", total))
        return ({key: file.get_tensor(key) for key in file.keys()}, done) if done < total else (None, 0)  # noqa: SIM118


def write(name: str, job: Job, start: float, seed: int, weights: dict, figures: dict[str, object]) -> None:
    """Write `<name>.safetensors` with its record, and print the record as one JSON line."""
    record = {"name": name, "seed": seed, "minutes": round((time.time() - start) / 60, 1), **figures}
    save_weights(job.out / f"{name}.safetensors", weights, {**record, **job.provenance})
    print(json.dumps(record), flush=True)


def train_zoo(name: str, *, out: Path | None, steps_scale: float, third_style: bool, threads: int) -> None:
    """Train one model, or `all`; `tokenizer` fits the BPE instead.

    Raises:
        ValueError: an unknown name.
    """
    towers, models = list(read_config()["towers"]), list(read_config()["models"])
    job = Job(out or WEIGHTS, steps_scale, third_style, provenance())
    if name == "tokenizer":
        return train_tokenizer(*tokenizer_texts(), job.out / "tokenizer.json", VOCABULARY)
    if name != "all" and name not in towers + models:
        raise unknown("name", name, ["all", "tokenizer", *towers, *models])
    torch.set_num_threads(threads)
    for each in towers + models if name == "all" else [name]:
        if each == "clip":
            run_clip(job)
        else:
            (run_tower if each in towers else run_model)(each, job)
