"""The shipped tiny MLLMs load, are frozen, share their tower, know their trade, and can be trained anew."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from datamodules.emoji.art import NAMES
from datamodules.emoji.questions import RECOGNITION, EmojiRecognition
from datamodules.emoji.scenes import World, render_scenes
from experiments.embedded_zoo import __main__ as command
from experiments.embedded_zoo import lessons, train
from experiments.embedded_zoo.lite import lite_names
from experiments.embedded_zoo.models import Asked, from_cache, laid_out, tower_features
from experiments.embedded_zoo.web import web_names
from model_zoo.embedded.build import (
    WEIGHTS,
    build_embedded,
    embedded_files,
    load_embedded,
    model_config,
    read_config,
)
from model_zoo.embedded.config import read_worlds, world_of
from model_zoo.embedded.text import ClipTokenizer, build_tokenizer, train_tokenizer
from model_zoo.registry import load_clip, load_mllm, weight_files

MODELS = list(read_config()["models"])
LITE = lite_names()  # tests/test_model_zoo_lite.py
ON_VIT = [name for name in MODELS if model_config(name)["tower"] == "vit"]


@pytest.fixture(scope="module")
def zoo():
    return {name: load_embedded(name) for name in MODELS}


@pytest.fixture(scope="module")
def narrow():
    """48 scenes as the connectors trained on them, never drawn in training."""
    return render_scenes(World(("twemoji",), ("solid", "gradient")), 5, "test", range(48))


@pytest.fixture(scope="module")
def downstream():
    data = EmojiRecognition(image_size=64)
    data.setup()
    return next(iter(data.loader("val", n=64, batch_size=64))), data.candidates


def top1(model, images, candidates, labels):
    with torch.no_grad():
        scores = model.score(images, [RECOGNITION] * len(images), candidates)
    return (scores.argmax(1) == labels).float().mean().item()


def test_weights_are_small():
    ours, lites = ([f"{name}.safetensors" for name in names] for names in ([*read_config()["towers"], *MODELS], LITE))
    sizes = [(WEIGHTS / name).stat().st_size for name in ours]
    assert sum(sizes) <= 12e6 and max(sizes) <= 5e6
    webs = [f"{name}.safetensors" for name in web_names()]
    assert sorted(path.name for path in WEIGHTS.iterdir()) == sorted([*ours, *lites, *webs])


def test_every_file_says_what_made_it():
    for path in (WEIGHTS / f"{name}.safetensors" for name in [*read_config()["towers"], *MODELS]):
        with safe_open(path, "pt") as file:
            record = file.metadata()
        assert {"name", "seed", "steps", "loss", "data_sha256", "code_sha256", "torch", "attribution"} <= set(record)
        if path.stem in MODELS:
            assert float(record["recognition"]) >= 0.85


@pytest.mark.parametrize("name", [name for world in read_worlds() for name in world["models"]])
def test_registry_loads_each_frozen(name):
    model = load_mllm(name, weights="nowhere")
    assert model.name == name and model.image_size == world_of(name)["frame"] and not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert weight_files(name) == embedded_files(name) and all(path.is_file() for path in embedded_files(name))


def test_loading_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    load_embedded("embedded_minigpt4")
    assert torch.equal(before, torch.get_rng_state())


def test_all_but_the_cnn_model_share_one_tower(zoo):
    assert len(ON_VIT) == 3
    tower = load_file(WEIGHTS / "vit.safetensors")
    for name in ON_VIT:
        held = zoo[name].connector.vision.state_dict()
        assert all(torch.equal(held[key], value.float()) for key, value in tower.items())


@pytest.mark.parametrize("name", MODELS)
def test_each_knows_its_narrow_world(zoo, narrow, name):
    assert top1(zoo[name], narrow.images, list(NAMES), narrow.classes[:, 0]) > 0.6  # chance .03


@pytest.mark.parametrize("name", MODELS)
def test_each_sees_the_downstream_objects(zoo, downstream, name):
    batch, candidates = downstream
    assert top1(zoo[name], batch.images, candidates, batch.labels) > 0.3  # chance .06


@pytest.mark.parametrize("name", MODELS)
def test_gradients_reach_the_frame(zoo, narrow, name):
    frame = narrow.images[:2].clone().requires_grad_()
    nats, tokens = zoo[name].answer_loss(frame, [RECOGNITION] * 2, ["cat", "slice of pizza"])
    (nats.sum() / tokens.sum()).backward()
    assert frame.grad.isfinite().all() and (frame.grad != 0).float().mean() > 0.5


@pytest.mark.parametrize("name", MODELS)
def test_generation_answers_in_the_vocabulary(zoo, narrow, name):
    texts = zoo[name].generate(narrow.images[:8], [RECOGNITION] * 8, style="vqa", max_new_tokens=12, num_beams=1)
    assert sum(text in NAMES for text in texts) >= 5


@pytest.mark.parametrize("name", ["embedded_instructblip", "embedded_llava"])
def test_cached_features_give_the_same_loss(zoo, narrow, name):
    model, questions, answers = zoo[name], [RECOGNITION] * 4, ["cat", "dog", "bee", "tree"]
    features = tower_features(model, name, narrow.images[:4])
    direct, _ = model.answer_loss(narrow.images[:4], questions, answers)
    with from_cache(model, name, features):
        cached, _ = model.answer_loss(torch.arange(4), questions, answers)
    again, _ = model.answer_loss(narrow.images[:4], questions, answers)
    assert torch.allclose(direct, cached, atol=0.05) and torch.equal(direct, again)


def test_layouts_are_those_of_inference(zoo, narrow):
    model = zoo["embedded_instructblip"]
    visual = model.encode_image(narrow.images[:1], [RECOGNITION])
    with laid_out(model, [1]):
        nats, _ = model.answer_loss(narrow.images[:1], [RECOGNITION], ["cat"], visual=visual)
    trained, _ = model.answer_loss(narrow.images[:1], [RECOGNITION], ["cat"], visual=visual)
    ranked = -model.score(narrow.images[:1], [RECOGNITION], ["cat"], visual=visual, normalize=False)
    assert trained.item() != nats.item() and ranked.item() <= nats.item() + 1e-4  # the loss adds the end token


def test_unknown_name_lists_the_models():
    with pytest.raises(ValueError, match=r"Unknown embedded MLLM 'gpt'\. Available: embedded_minigpt4"):
        load_embedded("gpt")


def test_missing_file_says_how_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No vit\.safetensors in .*python -m experiments\.embedded_zoo vit"):
        load_embedded("embedded_blip2", folder=tmp_path)


def test_tokenizer_covers_any_text_and_names_differ_in_length():
    tokenizer = build_tokenizer()
    text = "".join(map(chr, range(32, 127))) + "\n é 日本"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    lengths = {len(tokenizer(name, add_special_tokens=False)["input_ids"]) for name in NAMES}
    assert min(lengths) == 1 and 6 <= max(lengths) <= 8
    asked = build_tokenizer(qformer=True)("cat")["input_ids"]
    assert [tokenizer.convert_ids_to_tokens(i) for i in (asked[0], asked[-1])] == ["[CLS]", "[SEP]"]


def test_clip_matches_captions_to_scenes(narrow):
    scorer, images = load_clip("embedded"), narrow.images[:16]
    texts = [f"this is a photo of a {name}" for name in NAMES]
    with torch.no_grad():
        scores = torch.stack([scorer.similarity(images, [text] * 16) for text in texts], 1)
    assert (scores.argmax(1) == narrow.classes[:16, 0]).float().mean() > 0.3  # chance .03
    assert ClipTokenizer()("cat").shape == (1, 32)


def test_question_batches_are_pure_functions_of_the_step():
    drawn = lessons.narrow_scenes("any", 1, ("twemoji",), ("solid",), 16)
    first, again = (train.draw_batches(drawn, 16, "even", 9, 16)(4) for _ in range(2))
    assert isinstance(first, Asked) and first.questions == again.questions and first.answers == again.answers
    assert torch.equal(first.scenes, again.scenes)


def test_train_refuses_an_unknown_option():
    with pytest.raises(ValueError, match=r"Unknown key 'step'\. Did you mean 'steps_scale'"):
        command.main(["vit", "step=1"])
    with pytest.raises(ValueError, match=r"Unknown name 'vitt'\. Did you mean 'vit'"):
        command.main(["vitt"])


@pytest.mark.slow
def test_training_writes_files_that_load(tmp_path):
    threads = torch.get_num_threads()
    for name in ("vit", "clip", "embedded_instructblip"):
        command.main([name, f"out={tmp_path}", "steps_scale=0.001", "threads=1"])
    torch.set_num_threads(threads)
    assert load_embedded("embedded_instructblip", folder=tmp_path).name == "embedded_instructblip"
    with safe_open(tmp_path / "vit.safetensors", "pt") as file:
        assert file.metadata()["stages_done"] == "2"


def test_seed_fixes_the_starting_weights():
    first, second = (build_embedded("embedded_blip2").state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_tokenizer_file_is_reproducible(tmp_path):
    train_tokenizer(*train.tokenizer_texts(), tmp_path / "tokenizer.json", 500)
    shipped = build_tokenizer().backend_tokenizer.get_vocab()
    made = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"]
    assert all(shipped[token] == i for token, i in made.items())
