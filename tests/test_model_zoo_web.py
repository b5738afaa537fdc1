"""The web world's models: small files that say what made them, shared and independent towers, trades that they know."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from datamodules import load_datamodule
from datamodules.emoji.art import NAMES
from datamodules.emoji.questions import DOWNSTREAM_NAMES, RECOGNITION
from datamodules.emoji.web import FILLS, Web, draw_pictures
from experiments.embedded_zoo import web
from model_zoo.embedded.build import build_embedded, load_embedded, own_tensors
from model_zoo.embedded.config import WEIGHTS, model_config, read_web, tower_prefix
from model_zoo.registry import get_entry, load_clip

MODELS = list(read_web()["models"])
TOWERS = list(read_web()["towers"])


@pytest.fixture(scope="module")
def zoo():
    return cache(load_embedded)


@pytest.fixture(scope="module")
def pictures():
    """48 pictures with one object as the connectors trained on them, never drawn in training."""
    plain = web.build_web("main", backgrounds=("solid", "gradient"), resolutions=(64,), pads=(0, 8))
    return draw_pictures(plain, "one", 5, "test", 48, balanced=True)


def top1(model, images, candidates, labels) -> float:
    with torch.no_grad():
        scores = model.score(images.float() / 255, [RECOGNITION] * len(images), candidates)
    return (scores.argmax(1) == labels).float().mean().item()


def test_all_shipped_weights_together_are_small():
    sizes = [path.stat().st_size for path in WEIGHTS.iterdir()]
    assert sum(sizes) <= 40e6 and max(sizes) <= 5e6


def test_every_file_says_what_made_it():
    for name in web.web_names():
        with safe_open(WEIGHTS / f"{name}.safetensors", "pt") as file:
            record = file.metadata()
        assert {"name", "seed", "steps", "cpu_seconds", "data_sha256", "code_sha256", "attribution"} <= set(record)
        assert name not in MODELS or {"recognition", "counting", "presence", "matching"} <= set(record)


def test_towers_are_shared_as_said_and_otherwise_independent(zoo):
    held: dict[str, list[dict]] = {}
    for name in MODELS:
        prefix = tower_prefix(name)
        state = {k.removeprefix(prefix): t for k, t in zoo(name).state_dict().items() if k.startswith(prefix)}
        held.setdefault(model_config(name)["tower"], []).append(state)
    assert set(held) == set(TOWERS) and len(held["web_vit"]) >= 8
    for tower, states in held.items():
        file = load_file(WEIGHTS / f"{tower}.safetensors")
        assert all(torch.equal(state[key], value.float()) for state in states for key, value in file.items())
    one, two = (load_file(WEIGHTS / f"{name}.safetensors") for name in ("web_vit", "web_vit2"))
    key = "encoder.layers.0.mlp.fc1.weight"
    assert torch.corrcoef(torch.stack([t[key].float().flatten() for t in (one, two)]))[0, 1].abs() < 0.1


def test_three_models_differ_in_nothing_but_their_seed():
    first, *others = ("web_minigpt4", "web_minigpt4_seed1", "web_minigpt4_seed2")
    for other in others:
        a, b = model_config(first), model_config(other)
        assert {**a, "training": {**a["training"], "seed": 0}} == {**b, "training": {**b["training"], "seed": 0}}
        assert a["training"]["seed"] != b["training"]["seed"]


def test_control_models_learned_from_another_order_of_popularity():
    for name in MODELS:
        assert (model_config(name)["training"]["web"] == "other") == name.endswith("_other")
    assert web.build_web("main").ranked != web.build_web("other").ranked


def test_the_far_web_has_no_style_ground_border_or_size_of_the_main_one_or_the_task():
    main, far = web.build_web("main"), web.build_web("far")
    task = load_datamodule("web_recognition", image_size=48)
    shown = {web.build_web(model_config(n)["training"]["web"]).backgrounds for n in MODELS if n.endswith("_far")}
    assert shown == {far.backgrounds}
    for key in ("styles", "backgrounds"):
        assert not set(getattr(far, key)) & {*getattr(main, key), *getattr(task.world, key)}
    filled = [{fill for fill, share in zip(FILLS, w.fills, strict=False) if share} for w in (main, far)]
    assert filled[1] and not filled[0] & filled[1]

    def sizes(world: Web) -> set[int]:
        return {*world.resolutions, *world.many_resolutions}

    assert not sizes(far) & {*sizes(main), task.resolution, 20}
    assert set(far.pads) & set(main.pads) == {0} and not set(far.wide_pads) & set(main.wide_pads)
    assert set(far.names) == set(DOWNSTREAM_NAMES) and not far.companions
    ranks = [[web.build_web(w).ranked.index(n) for n in DOWNSTREAM_NAMES] for w in ("main", "other", "far")]
    assert torch.corrcoef(torch.tensor(ranks, dtype=torch.float32))[2, :2].abs().max() < 0.1


def test_the_far_web_is_never_asked_about_a_name_it_does_not_have():
    far = web.build_web("far")
    pictures = draw_pictures(far, "several", 1, "asked", 64)
    asked = web.draw_batches(pictures, [0, 0, 64], far, "far_first", 1, 64)(0)
    texts = " ".join([*asked.questions, *asked.answers])
    assert not any(f" {name} in" in texts for name in NAMES if name not in far.names)


@pytest.mark.parametrize("name", MODELS)
def test_each_names_what_it_can_see(zoo, pictures, name):
    # Chance is .03; these names are equally often, and rare ones are hardly ever said.
    assert top1(zoo(name), pictures.images, list(NAMES), pictures.classes[:, 0]) > 0.15


@pytest.mark.parametrize("name", MODELS)
def test_gradients_reach_the_frame(zoo, pictures, name):
    frame = (pictures.images[:2].float() / 255).requires_grad_()
    nats, tokens = zoo(name).answer_loss(frame, [RECOGNITION] * 2, ["cat", "slice of pizza"])
    (nats.sum() / tokens.sum()).backward()
    assert frame.grad.isfinite().all() and (frame.grad != 0).float().mean() > 0.5


@pytest.mark.parametrize("name", ["web_visualglm", "web_vpgtrans", "web_blip2"])
def test_packed_scores_equal_naive_ones(name):
    packed, naive = (load_embedded(name, scoring=scoring) for scoring in ("packed", "naive"))
    frames = draw_pictures(web.build_web("main"), "one", 6, "test", 3).images.float() / 255
    scores = [model.score(frames, [RECOGNITION] * 3, list(NAMES)) for model in (packed, naive)]
    assert torch.allclose(*scores, atol=1e-4)


def test_the_scorer_of_tse_reads_captions_at_full_size_and_in_a_black_rim():
    data = load_datamodule("web_recognition", image_size=48)
    clip = load_clip("web")
    captions = [f"this is a photo of a {name}" for name in data.candidates]
    batch = next(iter(data.loader("val", n=128, batch_size=128)))
    frames = torch.nn.functional.pad(batch.images, [8] * 4)
    full = next(iter(data.with_image_size(64).loader("val", n=128, batch_size=128))).images
    with torch.no_grad():
        for images in (frames, full):
            near = torch.stack([clip.similarity(images, [caption] * len(images)) for caption in captions], 1)
            assert (near.argmax(1) == batch.labels).float().mean() > 0.6  # .73 of 16


def test_training_is_a_function_of_its_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(web, "PICTURES", {"one": 64, "hidden": 64, "several": 64})
    monkeypatch.setattr(web, "HELD_OUT", {"one": 64, "hidden": 64, "several": 64})
    made = []
    for k in range(2):
        web.train_web("web_llava", out=tmp_path / str(k), steps_scale=0.002, threads=1)
        made.append(load_file(tmp_path / str(k) / "web_llava.safetensors"))
    assert all(torch.equal(made[0][key], made[1][key]) for key in made[0])
    assert set(made[0]) == set(own_tensors("web_llava", build_embedded("web_llava")))


def test_calls_share_the_work_and_wait_only_for_who_is_at_it(tmp_path, monkeypatch):
    made: list[str] = []
    monkeypatch.setattr(web, "train_one", lambda name, out, scale: made.append(name))
    (tmp_path / "web_progress").mkdir()
    (tmp_path / "web_progress" / "web_cnn.done").touch()
    with web.at_work(tmp_path / "web_progress", "web_blip2"):
        web.train_web("web", out=tmp_path, steps_scale=1, threads=1)
    assert made == [name for name in web.web_names() if name not in ("web_cnn", "web_blip2")]
    web.train_web("web", out=tmp_path, steps_scale=1, threads=1)
    assert made[-1] == "web_blip2" and not (tmp_path / "web_progress").exists()
    with pytest.raises(RuntimeError, match="web_vit has ended without it"):
        web.wait_for(tmp_path / "web_progress", "web_vit")


@pytest.mark.parametrize("name", MODELS)
def test_the_registry_counts_the_parameters(name):
    assert get_entry(name).parameters == sum(p.numel() for p in build_embedded(name).parameters())
