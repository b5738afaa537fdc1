"""Training of the models on pretrained towers, and of their TSE scorer: `python -m experiments.embedded_zoo lite`.

Each learns to name one thing in a picture (views.py), on cached features of its frozen tower, through the adapter's own
`answer_loss`. No photograph and no picture of the downstream data is shown.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from datamodules.emoji import art
from datamodules.recognition import CAPTION, QUESTION
from experiments.embedded_zoo import things, views
from experiments.embedded_zoo.fit import files_sha256, fit, save_weights
from experiments.embedded_zoo.models import Asked, from_cache, tower_features, train_model
from experiments.embedded_zoo.things import THING_NAMES, THINGS
from experiments.embedded_zoo.towers import normalise
from experiments.embedded_zoo.views import Views, draw_views
from model_zoo.base import resize_square
from model_zoo.embedded.build import build_clip_model, build_embedded, load_tower_, own_tensors
from model_zoo.embedded.config import WEIGHTS, read_lite
from model_zoo.embedded.text import ClipTokenizer, train_tokenizer
from model_zoo.templates import TEMPLATES

HERE = Path(__file__).parent
TRAIN, HELD_OUT = 11_880, 540  # views: 110 and 5 of every thing
VOCABULARY = 600
QUESTIONS = (QUESTION, QUESTION, QUESTION, "What is this?", "What is shown in this image?")
GENERATION_STEPS = {0: 2, 5: 3}  # step modulo 10 -> which of models.VARIANTS the whole batch is laid out as
WHOLE = "lite"
LITE_CLIP = "lite_clip"


def lite_names() -> list[str]:
    """What can be trained: every model, in an order in which each finds what it grows from, and the scorer."""
    return [*read_lite()["models"], LITE_CLIP]


def provenance() -> dict[str, object]:
    return {
        "data_sha256": files_sha256([Path(str(module.__file__)) for module in (art, things, views)]),
        "code_sha256": files_sha256([HERE / "lite.py", HERE / "models.py", HERE / "fit.py"]),
        "torch": torch.__version__,
        "attribution": "trained on Twemoji (CC-BY 4.0) and OpenMoji (CC-BY-SA 4.0) art; EfficientNet-Lite: Apache-2.0",
    }


def train_lite_tokenizer(path: Path) -> None:
    """The BPE of these models: names are 1 to 4 tokens, any other text is possible."""
    texts = [text for t in (TEMPLATES["llava"], TEMPLATES["minigpt4"]) for text in (t.wrapper, t.cls, t.infer, t.vqa)]
    train_tokenizer([*texts, *QUESTIONS, CAPTION], [*THING_NAMES] * 8, path, VOCABULARY)


def draw_all(seed: int = 0) -> tuple[Views, Views]:
    """(training views, held-out views): the same for every model, as one web is."""
    size = read_lite()["frame"]
    return draw_views(seed, "train", TRAIN, size), draw_views(seed, "held-out", HELD_OUT, size)


def train_lite(name: str, *, out: Path | None, steps_scale: float, threads: int) -> None:
    """Train one model, or `lite`: all, of which those that an interrupted call finished are left as they are."""
    torch.set_num_threads(threads)
    out = out or WEIGHTS
    progress = out / "lite_progress"
    progress.mkdir(parents=True, exist_ok=True)
    pictures: list[Views] = []
    made_by = provenance()
    for each in lite_names() if name == WHOLE else [name]:
        done = progress / f"{each}.done"
        if name == WHOLE and done.exists():
            continue
        pictures = pictures or list(draw_all())
        start, cpu = time.time(), time.process_time()
        train = train_scorer if each == LITE_CLIP else train_on_tower
        tensors, figures = train(each, pictures[0], pictures[1], out, progress, steps_scale)
        record = {"name": each, **figures, "minutes": round((time.time() - start) / 60, 1)}
        record["cpu_seconds"] = round(time.process_time() - cpu)
        save_weights(out / f"{each}.safetensors", tensors, {**record, **made_by})
        print(json.dumps(record), flush=True)
        done.touch()
    if name == WHOLE:
        shutil.rmtree(progress)


# ---- models --------------------------------------------------------------------------------------------------------
def train_on_tower(
    name: str, train: Views, held_out: Views, out: Path, progress: Path, steps_scale: float
) -> tuple[dict[str, Tensor], dict[str, object]]:
    """A connector and an LLM on their frozen tower; returns their tensors and what to record."""
    config = read_lite()["models"][name]
    training, model = config["training"], build_embedded(name)
    load_tower_(model, name)
    features: tuple[Tensor, ...] = (cached_features(model, name, config["tower"], progress, train, held_out),)
    if config["family"] == "minigpt4":
        features = features * 2  # a Q-Former's `see` also returns the block before the last: here the same
    parent, slow = training.get("grown_from"), ()
    if parent:
        projector: Any = model.projector
        known = load_file(out / f"{parent}.safetensors")
        projector.load_state_dict(
            {k.removeprefix("projector."): t.float() for k, t in known.items() if k.startswith("projector.")}
        )
        slow = tuple(projector.parameters())
    steps = max(2, round(training["steps"] * steps_scale))
    asked = draw_batches(train.names, training["seed"], training["batch"])
    loss = train_model(model, name, features, asked, steps, training["lr"], slow, training.get("connector_lr", 1.0))
    tensors = own_tensors(name, model)
    model.load_state_dict({key: value.half().float() for key, value in tensors.items()}, strict=False)
    right = named_right(model, name, features, held_out, first=len(train.names))
    return tensors, {"seed": training["seed"], "steps": steps, "loss": round(loss, 4), "recognition": right}


def cached_features(model: Any, name: str, tower: str, folder: Path, *parts: Views) -> Tensor:
    """The frozen tower on all views, float16 (N, 16, 1280), kept in `folder` for the next model on that tower."""
    path = folder / f"{tower}.safetensors"
    if not path.exists():
        images = torch.cat([part.images for part in parts])
        save_file({"features": tower_features(model, name, images, batch=64)[0]}, path)
    return load_file(path)["features"]


def draw_batches(names: Tensor, seed: int, batch: int) -> Callable[[int], Asked]:
    """The batch of a step, a pure function of (seed, step)."""

    def at(step: int) -> Asked:
        rng = np.random.Generator(np.random.Philox(key=seed, counter=[step, 0, 0, 0]))
        numbers = rng.permutation(len(names))[:batch]
        questions = [QUESTIONS[int(u * len(QUESTIONS))] for u in rng.random(batch)]
        variants = [GENERATION_STEPS.get(step % 10, int(u < 0.55)) for u in rng.random(batch)]
        return Asked(torch.from_numpy(numbers), questions, [THING_NAMES[names[i]] for i in numbers], variants)

    return at


@torch.no_grad()
def named_right(model: Any, name: str, features: tuple[Tensor, ...], held_out: Views, first: int) -> float:
    """How often the likeliest of all names is one of the thing's own; chance is about 1 %."""
    right = 0
    with from_cache(model, name, features):
        for part in torch.arange(len(held_out.things)).split(60):
            scores = model.score(first + part, [QUESTION] * len(part), list(THING_NAMES))
            best = [THING_NAMES[i] for i in scores.argmax(1).tolist()]
            own = [THINGS[held_out.things[i]][1] for i in part.tolist()]
            right += sum(name in names for name, names in zip(best, own, strict=True))
    return round(right / len(held_out.things), 4)


# ---- the scorer of TSE -----------------------------------------------------------------------------------------------
def train_scorer(
    name: str, train: Views, held_out: Views, out: Path, progress: Path, steps_scale: float
) -> tuple[dict[str, Tensor], dict[str, object]]:
    """A CLIP whose image tower is no MLLM's, so that TSE favours no target: it starts as the emoji world's CLIP.

    A linear head that names the thing from the tower's last map is trained beside the captions and thrown away. From
    random weights the loss was near chance after 200 steps, with the head and without.
    """
    config, tokenizer = read_lite()["clip"], ClipTokenizer(file=read_lite()["tokenizer"])
    training, size = config["training"], config["architecture"]["image_size"]
    torch.manual_seed(training["seed"])
    model: Any = build_clip_model(config["architecture"], tokenizer.vocab_size, tokenizer.context_length)
    known = load_file(WEIGHTS / "clip.safetensors")
    model.load_state_dict({k: t.float() for k, t in known.items() if k.startswith("visual.")}, strict=False)
    captions = tokenizer([CAPTION.format(thing) for thing in THING_NAMES])
    steps, batch = max(2, round(training["steps"] * steps_scale)), training["batch"]

    head, maps = nn.Linear(32 * config["architecture"]["width"], len(THING_NAMES)), []
    hook = model.visual.layer4.register_forward_hook(lambda module, inputs, output: maps.append(output))

    def logits(images: Tensor) -> Tensor:
        seen = F.normalize(model.encode_image(normalise(resize_square(images.float() / 255, size))), dim=-1)
        return model.logit_scale.exp() * seen @ F.normalize(model.encode_text(captions), dim=-1).T

    def loss_at(step: int) -> Tensor:
        rng = np.random.Generator(np.random.Philox(key=training["seed"], counter=[step, 0, 0, 0]))
        rows = torch.from_numpy(rng.permutation(len(train.names))[:batch])
        by_caption, names = logits(moved(train.images[rows], rng)), train.names[rows]
        named = head(maps.pop().mean((2, 3)))
        return F.cross_entropy(by_caption, names) + F.cross_entropy(named, names, label_smoothing=0.1)

    parameters: list[nn.Parameter] = [*model.parameters(), *head.parameters()]
    loss = fit(parameters, loss_at, steps, training["lr"], name)
    hook.remove()
    model.eval()
    with torch.no_grad():
        best = torch.cat([logits(part) for part in held_out.images.split(60)]).argmax(1).tolist()
    right = [THING_NAMES[i] in THINGS[thing][1] for i, thing in zip(best, held_out.things.tolist(), strict=True)]
    figures = {"seed": training["seed"], "steps": steps, "loss": round(loss, 4)}
    return model.state_dict(), {**figures, "caption_top1": round(sum(right) / len(right), 4)}


def moved(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Pictures shifted by up to 12 pixels around the edge, mirrored by chance."""
    shift = rng.integers(-12, 13, size=2).tolist()
    images = torch.roll(images, shift, dims=(2, 3))
    return images.flip(3) if rng.random() < 0.5 else images
