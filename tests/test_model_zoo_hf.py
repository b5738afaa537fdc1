"""Every family of today's VLMs, as a tiny complete folder: the adapter computes what the model itself computes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from support.hf_folders import FAMILIES, write_folder
from support.hf_oracle import official_inputs, own_logp
from support.hf_parts import ANSWERS, CANDIDATES, QUESTIONS
from torch import Tensor

from model_zoo.hf import adapter as adapter_module
from model_zoo.hf.adapter import HuggingFaceMLLM
from model_zoo.hf.load import load_folder
from model_zoo.hf.tree import Tree
from model_zoo.layer_options import checkpoint_layers_

# One of each kind of attention, position and picture; the others repeat them with other names.
QUICK = ("qwen3_vl", "llava_onevision", "smolvlm", "paligemma", "gemma3")
EVERY = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
SLIDING = {"gemma3", "gemma4", "aya_vision", "cohere2_vision"}
RESIZES = {name for name, family in FAMILIES.items() if family.fits is None}


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """name -> the folder, written once."""
    root, known = tmp_path_factory.mktemp("hub"), {}

    def folder(name: str) -> Path:
        if name not in known:
            known[name] = write_folder(name, root / "tiny" / name)
        return known[name]

    return folder


@pytest.fixture(scope="module", params=EVERY)
def model(request: pytest.FixtureRequest, folders: Any) -> HuggingFaceMLLM:
    return load_folder(request.param, folders(request.param))


def frames(model: HuggingFaceMLLM, batch: int = 2, size: int | None = None) -> Tensor:
    """8-bit noise (B, 3, S, S)."""
    size = size or FAMILIES[model.name].other
    return torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)


@torch.no_grad()
def sums(model: HuggingFaceMLLM, images: Tensor, candidates: Any = None, questions: Any = None) -> Tensor:
    return model.score(images / 255, questions or QUESTIONS, candidates or CANDIDATES, normalize=False)


def own_pixels(model: HuggingFaceMLLM, inputs: dict[str, Any], image: Tensor) -> dict[str, Any]:
    """Official inputs with the adapter's own pixels: differences of the resize stay outside."""
    return inputs | {"pixel_values": model.pixels(image[None] / 255)["pixel_values"]}


def own_sums(model: HuggingFaceMLLM, images: Tensor) -> Tensor:
    """The oracle: one candidate at a time."""
    rows = []
    for image, question in zip(images, QUESTIONS, strict=True):
        inputs = own_pixels(model, official_inputs(model, image, question), image)
        rows.append(torch.stack([own_logp(model, inputs, model.prompter.answer(text)) for text in CANDIDATES]))
    return torch.stack(rows)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_scores_are_the_models_own(model: HuggingFaceMLLM, attention: str) -> None:
    before = model.llm.config._attn_implementation
    if model.name == "paligemma" and attention == "sdpa":
        pytest.skip("the library's Gemma 2 refuses it")
    model.model.set_attn_implementation(attention)
    try:
        images = frames(model)
        torch.testing.assert_close(sums(model, images), own_sums(model, images), atol=2e-5, rtol=2e-7)
    finally:
        model.model.set_attn_implementation(before)


def test_scores_in_rounds_equal_those_in_one(model: HuggingFaceMLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    images = frames(model)
    once = sums(model, images)
    monkeypatch.setattr(model, "max_nodes", 2)
    torch.testing.assert_close(sums(model, images), once, atol=2e-5, rtol=2e-7)


def test_naive_scores_equal_packed_ones(model: HuggingFaceMLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    images = frames(model)
    packed = sums(model, images)
    monkeypatch.setattr(model, "scoring", "naive")
    torch.testing.assert_close(sums(model, images), packed, atol=2e-5, rtol=2e-7)


def test_a_batch_equals_its_single_rows(model: HuggingFaceMLLM) -> None:
    """Questions and answers of different length, and candidates of its own for each picture."""
    images, own = frames(model), [CANDIDATES[:3], ["dog"]]
    together = sums(model, images, own)
    with torch.no_grad():
        nats, tokens = model.answer_loss(images / 255, QUESTIONS, ANSWERS)
    for i in range(2):
        alone = sums(model, images[i : i + 1], own[i], QUESTIONS[i : i + 1])
        torch.testing.assert_close(alone[0], together[i, : len(own[i])], atol=2e-5, rtol=2e-7)
        with torch.no_grad():
            one = model.answer_loss(images[i : i + 1] / 255, QUESTIONS[i : i + 1], ANSWERS[i : i + 1])
        torch.testing.assert_close(one[0][0], nats[i], atol=2e-5, rtol=2e-7)
        assert one[1][0] == tokens[i]
    assert together[1, 1:].isneginf().all()


def test_prompt_and_answer_are_the_official_conversation(model: HuggingFaceMLLM) -> None:
    for question, answer in zip(QUESTIONS, ANSWERS, strict=True):
        image = frames(model, 1)[0]
        whole = official_inputs(model, image, question, answer)["input_ids"][0].tolist()
        prompt = model.prompter.row(question, image.shape[-1]).ids
        assert prompt == official_inputs(model, image, question)["input_ids"][0].tolist()
        ids = [*prompt, *model.prompter.answer(answer)]
        assert whole[: len(ids)] == ids
        ending = model.prompter.answer_and_end(answer)
        assert ending[: len(model.prompter.answer(answer))] == model.prompter.answer(answer)
        if model.prompter.end:
            assert whole[len(prompt) :][: len(ending)] == ending


def test_loss_is_the_models_own_on_official_pixels(model: HuggingFaceMLLM) -> None:
    images = frames(model, size=FAMILIES[model.name].fits)
    with torch.no_grad():
        nats, tokens = model.answer_loss(images / 255, QUESTIONS, ANSWERS)
    assert tokens.tolist() == model.answer_token_counts(QUESTIONS, ANSWERS).tolist()
    for i, image in enumerate(images):
        inputs = official_inputs(model, image, QUESTIONS[i])
        inputs = own_pixels(model, inputs, image) if model.name in RESIZES else inputs
        expected = -own_logp(model, inputs, model.prompter.answer_and_end(ANSWERS[i]))
        torch.testing.assert_close(nats[i], expected, atol=2e-5, rtol=2e-7)


@pytest.mark.parametrize("tiles", ["one", "official"])
def test_pixels_are_the_official_ones(model: HuggingFaceMLLM, folders: Any, tiles: str) -> None:
    """On a frame of noise, where a float resize without the clips is off by tens of 255."""
    model = model if tiles == "one" else load_folder(model.name, folders(model.name), tiles=tiles)
    image = frames(model, 1)[0]
    official = official_inputs(model, image, QUESTIONS[0])["pixel_values"]
    ours = model.pixels(image[None] / 255)["pixel_values"].view(official.shape)
    gap = (ours - official).abs() * max(model.std) * 255
    assert gap.max() <= 2 and gap.mean() <= 0.5


def test_gradient_is_the_slope_along_itself(model: HuggingFaceMLLM) -> None:
    exact = copy.deepcopy(model).double()
    exact.model.set_experts_implementation("eager")  # the fast one has no float64
    images = (0.3 + 0.4 * torch.rand(2, 3, FAMILIES[model.name].other, FAMILIES[model.name].other)).double()

    def loss(at: Tensor) -> Tensor:
        return exact.answer_loss(at, QUESTIONS, ANSWERS)[0].sum()

    (gradient,) = torch.autograd.grad(loss(images.requires_grad_()), images)
    with torch.no_grad():
        size = 1e-4 if model.recurrent else 1e-3  # a recurrent tower is more curved
        step = size * gradient / gradient.norm()
        slope = (loss(images + step) - loss(images - step)) / (2 * size)
    assert gradient.norm() > 1e-3
    assert abs(slope / gradient.norm() - 1) <= 1e-3


def test_the_picture_matters(model: HuggingFaceMLLM) -> None:
    images = frames(model)
    assert (sums(model, images) - sums(model, 255 - images)).abs().max() > 0.1


def test_pixels_of_zeros_are_a_picture(model: HuggingFaceMLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """An even 0.5 is nothing but zeros to some families, which take such a tile for padding and drop it."""
    run = adapter_module.run

    def zeros(*args: Any) -> dict[str, Any]:
        found = run(*args)
        return found | {"pixel_values": torch.zeros_like(found["pixel_values"])}

    monkeypatch.setattr(adapter_module, "run", zeros)
    assert sums(model, frames(model)).isfinite().all()


def test_recomputed_layers_give_the_same_gradient(model: HuggingFaceMLLM) -> None:
    images, again = frames(model) / 255, checkpoint_layers_(copy.deepcopy(model))
    found = []
    for each in (model, again):
        at = images.clone().requires_grad_()
        found.append(torch.autograd.grad(each.answer_loss(at, QUESTIONS, ANSWERS)[0].sum(), at)[0])
    torch.testing.assert_close(*found, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("beams", [1, 2])
def test_generation_equals_generation_from_pixels(model: HuggingFaceMLLM, beams: int) -> None:
    images, settings = frames(model), {"num_beams": beams, "max_new_tokens": 5}
    texts = model.generate(images / 255, QUESTIONS, **settings)
    for i, image in enumerate(images):
        inputs = own_pixels(model, official_inputs(model, image, QUESTIONS[i]), image)
        ids = model.model.generate(**inputs, do_sample=False, pad_token_id=0, **settings)
        text = model.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert text.strip() == texts[i]


def test_a_reused_encoding_needs_no_images(model: HuggingFaceMLLM) -> None:
    images = frames(model)
    with torch.no_grad():
        visual = model.encode_image(images / 255, QUESTIONS)
        again = model.score(None, QUESTIONS, CANDIDATES, visual=visual, normalize=False)
    assert torch.equal(again, sums(model, images))
    assert visual.n_query == visual.tokens.shape[1]


def linear(plain: Tree) -> Tree:
    """Nodes stand where their columns are."""
    return plain._replace(entry=torch.arange(plain.entry.shape[1]).expand_as(plain.entry))


def siblings(plain: Tree) -> Tree:
    """Every node sees all before it."""
    return plain._replace(allow=torch.ones_like(plain.allow))


@pytest.mark.parametrize("fault", [linear, siblings])
def test_a_planted_fault_is_found(model: HuggingFaceMLLM, fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if model.recurrent:
        pytest.skip("no tree")
    images, right = frames(model), adapter_module.tree
    expected = sums(model, images)
    monkeypatch.setattr(adapter_module, "tree", lambda *args: fault(right(*args)))
    assert (sums(model, images) - expected).abs().max() > 0.1


def test_a_window_that_counts_columns_is_found(model: HuggingFaceMLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    if model.name not in SLIDING:
        pytest.skip("no window")
    from model_zoo.hf import tree as tree_module

    images, expected, pick = frames(model), None, tree_module.pick
    expected = sums(model, images)
    columns = lambda seen, q, k: pick(seen, *(torch.arange(x.shape[1]).expand_as(x) for x in (q, k)))  # noqa: E731
    monkeypatch.setattr(tree_module, "pick", columns)
    assert (sums(model, images) - expected).abs().max() > 0.1


def test_half_precision_runs(model: HuggingFaceMLLM) -> None:
    half, images = copy.deepcopy(model).to(torch.bfloat16), (frames(model) / 255).requires_grad_()
    nats, _ = half.answer_loss(images, QUESTIONS, ANSWERS)
    (gradient,) = torch.autograd.grad(nats.sum(), images)
    assert nats.dtype == gradient.dtype == torch.float32 and gradient.isfinite().all() and gradient.abs().sum() > 0
    scores = half.score((frames(model) / 255), QUESTIONS, CANDIDATES)
    assert scores.dtype == torch.float32 and scores.isfinite().all()
