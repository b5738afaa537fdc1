"""Training of the web world's towers, models and TSE scorer: `python -m experiments.embedded_zoo web`.

Towers see every name equally often; what is popular, and that margins tell when a picture does not, is learned by the
connectors and LLMs. Nothing here is shown downstream: no connector saw stripes, checkers or noise behind an object.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from datamodules.emoji import art, questions, scenes, web
from datamodules.emoji.art import NAMES
from datamodules.emoji.questions import RECOGNITION
from datamodules.emoji.scenes import Scenes
from datamodules.emoji.web import Web, draw_pictures, picture_source, shelf
from datamodules.whole_files.disk import locked
from experiments.embedded_zoo import lessons
from experiments.embedded_zoo.clip import choice_logits
from experiments.embedded_zoo.fit import files_sha256, fit, save_weights
from experiments.embedded_zoo.models import Asked, accuracy, tower_features, train_model
from experiments.embedded_zoo.towers import Scene, dense_loss, normalise, train_tower
from model_zoo.embedded.build import build_clip_model, build_embedded, load_tower_, own_tensors
from model_zoo.embedded.config import WEIGHTS, read_web
from model_zoo.embedded.text import ClipTokenizer
from model_zoo.embedded.tower import DenseHead

HERE = Path(__file__).parent
WHOLE, WEB_CLIP = "web", "web_clip"
POOL = 4096  # scenes of each kind that a tower sees, laid out anew at every step
PICTURES = {"one": 5120, "hidden": 1536, "several": 6144}  # that a connector sees
HELD_OUT = {"one": 768, "hidden": 256, "several": 512}
WORDINGS = (RECOGNITION, RECOGNITION, "What is in the picture? Answer with a name.", "What is shown in this image?")
GENERATION_STEPS = {0: 2, 5: 3}  # step modulo 10 -> which of models.VARIANTS the whole batch is laid out as
KINDS = ("one", "hidden", "several")
# A mix: the shares of the kinds of pictures, and the chances of each question about one object and about several.
MIXES: dict[str, tuple[tuple[float, ...], dict[str, float], dict[str, float]]] = {
    "yes_no": (
        (0.30, 0.10, 0.60),
        {"recognition": 0.40, "presence": 0.60},
        {"presence": 0.60, "matching": 0.25, "counting": 0.15},
    ),
    "all": (
        (0.45, 0.20, 0.35),
        {"recognition": 0.85, "presence": 0.10, "counting": 0.05},
        {"presence": 0.40, "matching": 0.30, "counting": 0.30},
    ),
    "far_first": (
        (0.25, 0.10, 0.65),
        {"recognition": 0.30, "presence": 0.50, "counting": 0.20},
        {"presence": 0.35, "matching": 0.05, "counting": 0.60},
    ),
    "far_all": (
        (0.40, 0.20, 0.40),
        {"recognition": 0.75, "presence": 0.15, "counting": 0.10},
        {"presence": 0.30, "matching": 0.15, "counting": 0.55},
    ),
}
ANSWERS = {  # beside recognition: the names of the web
    "counting": ["1", "2", "3", "4"],
    "presence": ["no", "yes"],
    "matching": ["no", "yes"],
}


def web_names() -> list[str]:
    """What can be trained, in an order in which each finds what it stands on."""
    return [*read_web()["towers"], WEB_CLIP, *read_web()["models"]]


def build_web(name: str, **changes: Any) -> Web:
    return replace(Web(**read_web()["webs"][name]), **changes)


def provenance() -> dict[str, object]:
    data = [Path(str(module.__file__)) for module in (art, questions, scenes, web)]
    return {
        "data_sha256": files_sha256(data),
        "code_sha256": files_sha256([HERE / f"{n}.py" for n in ("web", "models", "towers", "clip", "fit")]),
        "torch": torch.__version__,
        "attribution": "trained on Twemoji (CC-BY 4.0) and OpenMoji (CC-BY-SA 4.0) art",
    }


def train_web(name: str, *, out: Path | None, steps_scale: float, threads: int) -> None:
    """Train one, or `web`: all that an interrupted call has not finished.

    Several calls of `web` at once share the work: each takes what no other is at, and waits for what it stands on.

    Raises:
        RuntimeError: the call that was to make a tower ended without it.
    """
    torch.set_num_threads(threads)
    out = out or WEIGHTS
    if name != WHOLE:
        train_one(name, out, steps_scale)
        return
    progress = out / "web_progress"
    for each in web_names():
        done = progress / f"{each}.done"
        with suppress(BlockingIOError), at_work(progress, each):
            if done.exists():
                continue
            if tower := read_web()["models"].get(each, {}).get("tower"):
                wait_for(progress, tower)
            train_one(each, out, steps_scale)
            done.touch()
    if all((progress / f"{each}.done").exists() for each in web_names()):
        shutil.rmtree(progress, ignore_errors=True)


def at_work(progress: Path, name: str) -> AbstractContextManager[None]:
    """Held by the call that makes `name`. Raises BlockingIOError where another one does."""
    return locked(progress / f"{name}.lock", "embedded_zoo web", progress.parent, "out=DIR")


def wait_for(progress: Path, name: str) -> None:
    """Return once another call has made `name`. Raises RuntimeError when nobody is at it and it is not there."""
    while not (progress / f"{name}.done").exists():
        with suppress(BlockingIOError), at_work(progress, name):
            if not (progress / f"{name}.done").exists():
                raise RuntimeError(
                    f"The call that was making {name} has ended without it. Start `embedded_zoo web` again."
                )
        time.sleep(2)


def train_one(name: str, out: Path, steps_scale: float) -> None:
    """Train a tower, the scorer or a model, and write its file with its record."""
    start, cpu = time.time(), time.process_time()
    if name == WEB_CLIP:
        tensors, figures = train_scorer(steps_scale)
    elif name in read_web()["towers"]:
        tensors, figures = train_web_tower(name, steps_scale)
    else:
        tensors, figures = train_web_model(name, out, steps_scale)
    record: dict[str, object] = {"name": name, **figures, "minutes": round((time.time() - start) / 60, 1)}
    record["cpu_seconds"] = round(time.process_time() - cpu)
    save_weights(out / f"{name}.safetensors", tensors, {**record, **provenance()})
    print(json.dumps(record), flush=True)


# ---- towers --------------------------------------------------------------------------------------------------------
def train_web_tower(name: str, steps_scale: float) -> tuple[dict[str, Tensor], dict[str, object]]:
    """A tower: plain scenes first where it starts from nothing, then pictures of the web with names equally often."""
    config = read_web()["towers"][name]
    training, world = config["training"], build_web("main")
    weights = None
    if "grown_from" in training:
        weights = load_file(WEIGHTS / f"{training['grown_from']}.safetensors")
    held_out = lessons.join_scenes(
        [draw_pictures(world, k, training["seed"], f"{name}/held-out", 256, balanced=True) for k in KINDS]
    )
    pictures = picture_source(world, training["seed"], f"{name}/train", POOL)
    figures: dict[str, object] = {}
    for k, stage in enumerate(training["stages"]):
        of_step = partial(plain_scenes, training["seed"], stage["batch"])
        if stage["pictures"] == "web":
            of_step = partial(_scene_at, pictures, stage["batch"])
        steps = max(2, round(stage["steps"] * steps_scale))
        weights, figures = train_tower(name, config, len(NAMES), k, weights, of_step, lessons.as_scene(held_out), steps)
    assert weights is not None
    return weights, {"seed": training["seed"], **figures}


def _scene_at(pictures: Callable[[int, int], Scenes], batch: int, step: int) -> Scene:
    return lessons.as_scene(pictures(step, batch))


def plain_scenes(seed: int, batch: int, step: int) -> Scene:
    """Scenes at full size without a border, of a step."""
    world = lessons.broad_world(True, scale=(0.25, 0.95))
    return lessons.as_scene(lessons.render_many(world, seed, "web_tower/plain", batch, step * batch))


# ---- connectors ----------------------------------------------------------------------------------------------------
def train_web_model(name: str, out: Path, steps_scale: float) -> tuple[dict[str, Tensor], dict[str, object]]:
    """A connector and an LLM on their frozen tower."""
    config = read_web()["models"][name]
    training, world = config["training"], build_web(config["training"]["web"])
    world = replace(world, backgrounds=tuple(training.get("backgrounds", world.backgrounds)))
    seed, model = training["seed"], build_embedded(name)
    load_tower_(model, name, out if (out / f"{config['tower']}.safetensors").is_file() else WEIGHTS)
    sizes, exams = (
        {kind: max(64, round(n * min(1.0, 4 * steps_scale))) for kind, n in of_all.items()}
        for of_all in (PICTURES, HELD_OUT)
    )
    train, held_out = (
        lessons.join_scenes([draw_pictures(world, kind, seed, f"{name}/{split}", n) for kind, n in of_split.items()])
        for split, of_split in (("train", sizes), ("held-out", exams))
    )
    pool = lessons.join_scenes([train, held_out])
    features = tower_features(model, name, pool.images)
    figures: dict[str, object] = {"seed": seed}
    for k, stage in enumerate(training["stages"]):
        steps = max(2, round(stage["steps"] * steps_scale))
        asked = draw_batches(pool, list(sizes.values()), world, stage["mix"], seed + 1000 * k, stage["batch"])
        loss = train_model(model, name, features, asked, steps, stage["lr"])
        figures[f"loss_{k + 1}"] = round(loss, 4)
        figures["steps"] = steps
    for task, candidates in (ANSWERS | {"recognition": list(world.names)}).items():
        first, texts, answers = exam(pool, len(train.images), list(exams.values()), task, seed, world)
        figures[task] = accuracy(model, name, features, texts, answers, candidates, first=first)
    return own_tensors(name, model), figures


def absent_name(world: Web, there: list[str], rng: np.random.Generator) -> str:
    """A name that is not in the picture: any, a popular one, or one of the first object's shelf."""
    kind = rng.random()
    options: tuple[str, ...] = world.names if kind < 0.4 else world.ranked[:8] if kind < 0.7 else shelf(there[0])
    left, rest = ([n for n in of if n in world.names and n not in there] for of in (options, world.names))
    left = left or rest
    return left[int(rng.random() * len(left))]


def exam(
    drawn: Scenes, first: int, sizes: list[int], task: str, seed: int, world: Web
) -> tuple[int, list[str], list[str]]:
    """(number of its first picture, questions, answers) about the held-out pictures, which begin at `first`.

    Names are asked of pictures with one object, hidden ones among them; the rest of pictures with several.
    """
    rng = np.random.Generator(np.random.Philox(key=seed, counter=[0, 1, 0, 0]))
    start = first if task == "recognition" else first + sizes[0] + sizes[1]
    n = sizes[0] + sizes[1] if task == "recognition" else sizes[2]
    pairs = [
        lessons.question_about(drawn, i, task, rng, WORDINGS, partial(absent_name, world))
        for i in range(start, start + n)
    ]
    return start, [RECOGNITION if task == "recognition" else q for q, _ in pairs], [a for _, a in pairs]


def draw_batches(
    drawn: Scenes, sizes: list[int], world: Web, mix: str, seed: int, batch: int
) -> Callable[[int], Asked]:
    """The batch of a step, a pure function of (seed, step). sizes: how many pictures of each of KINDS, in order."""
    shares, *chances = MIXES[mix]
    starts = np.concatenate([[0], np.cumsum(sizes)])

    def at(step: int) -> Asked:
        rng = np.random.Generator(np.random.Philox(key=seed, counter=[step, 0, 0, 0]))
        kinds = np.minimum(np.searchsorted(np.cumsum(shares), rng.random(batch)), len(KINDS) - 1)
        numbers = starts[kinds] + (rng.random(batch) * np.asarray(sizes)[kinds]).astype(int)
        pairs = []
        for i, kind in zip(numbers.tolist(), kinds.tolist(), strict=True):
            of_kind = {"recognition": 1.0} if kind == 1 else chances[kind // 2]
            task = list(of_kind)[int(np.searchsorted(np.cumsum(list(of_kind.values())), rng.random() * 0.999999))]
            pairs.append(lessons.question_about(drawn, i, task, rng, WORDINGS, partial(absent_name, world)))
        ranked = (rng.random(batch) < 0.55).astype(int)
        variants = np.full(batch, GENERATION_STEPS.get(step % 10, -1))
        variants = np.where(variants < 0, ranked, variants).tolist()
        return Asked(torch.from_numpy(numbers), [q for q, _ in pairs], [a for _, a in pairs], variants)

    return at


# ---- the scorer of TSE -----------------------------------------------------------------------------------------------
def train_scorer(steps_scale: float) -> tuple[dict[str, Tensor], dict[str, object]]:
    """A CLIP whose image tower is no MLLM's: dense supervision of its patches together with choosing the caption."""
    config, tokenizer = read_web()["clip"], ClipTokenizer()
    training, world = config["training"], build_web("main")
    seed, batch, steps = training["seed"], training["batch"], max(2, round(training["steps"] * steps_scale))
    torch.manual_seed(seed)
    model: Any = build_clip_model(config["architecture"], tokenizer.vocab_size, tokenizer.context_length)
    head, seen = DenseHead(config["architecture"]["width"], len(NAMES)), []
    hook = model.visual.transformer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    pictures = picture_source(world, seed, "web_clip/train", POOL)
    warm_up = steps // 3  # plain scenes first: on the web alone the captions stay at chance for long

    def loss_at(step: int) -> Tensor:
        drawn = pictures(step, batch) if step >= warm_up else plain_drawn(seed, batch, step)
        images, patches, classes = lessons.as_scene(drawn)
        features = F.normalize(model.encode_image(normalise(images)), dim=-1)
        loss = dense_loss(head, seen.pop()[:, 1:], patches, classes)
        return loss + sum(
            F.cross_entropy(choice_logits(model, tokenizer, features, c), c.right)
            for c in lessons.caption_choices(drawn, drawn.counts == 1)
        )

    parameters: list[nn.Parameter] = [*model.parameters(), *head.parameters()]
    loss = fit(parameters, loss_at, steps, training["lr"], WEB_CLIP)
    hook.remove()
    model.eval()
    held_out = lessons.join_scenes(
        [draw_pictures(world, k, seed, "web_clip/held-out", 256, balanced=True) for k in KINDS]
    )
    with torch.no_grad():
        features = F.normalize(model.encode_image(normalise(held_out.images.float() / 255)), dim=-1)
        right = [
            round((choice_logits(model, tokenizer, features, c).argmax(1) == c.right).float().mean().item(), 4)
            for c in lessons.caption_choices(held_out, held_out.counts == 1)
        ]
    return model.state_dict(), {"seed": seed, "steps": steps, "loss": round(loss, 4), "caption_top1": right}


def plain_drawn(seed: int, batch: int, step: int) -> Scenes:
    one, several = lessons.broad_world(True, (1, 1)), lessons.broad_world(True, (1, 4))
    half = batch // 2
    return lessons.join_scenes(
        [lessons.render_many(w, seed, "web_clip/plain", half, step * half) for w in (one, several)]
    )
