"""Noise on a source's weights: of the right size, on the right weights, and never on what models share."""

from __future__ import annotations

import pytest
import torch
from support.tiny_models import TINY, tiny_images, tiny_mllm

from lightning_modules.draws import step_generator
from lightning_modules.weight_noise import noisy_weights, seeing_weights

QUESTIONS = ["photo"] * 3


def bits(*mllms):
    """Where each weight lies, its object and its bits."""
    return [(id(p), p.data_ptr(), p._version, p.detach().clone()) for m in mllms for p in m.parameters()]


def same(before, after):
    return all(a[:3] == b[:3] and torch.equal(a[3], b[3]) for a, b in zip(before, after, strict=True))


@pytest.fixture
def draws():
    return step_generator(0, 1, "weights")


@pytest.mark.parametrize("name", TINY)
def test_shared_weights_keep_their_bits_and_objects_and_tokens_come_back(name, draws):
    mllm = tiny_mllm(name)
    before, tokens = bits(mllm), mllm.encode_image(tiny_images(), QUESTIONS).tokens
    with noisy_weights([mllm], 0.1, draws):
        noisy = mllm.encode_image(tiny_images(), QUESTIONS).tokens
    assert not torch.allclose(noisy, tokens, atol=1e-3)
    assert same(before, bits(mllm)) and torch.equal(mllm.encode_image(tiny_images(), QUESTIONS).tokens, tokens)


def test_they_do_also_when_the_step_raises_or_the_noise_itself_does(draws, monkeypatch):
    mllm = tiny_mllm("minigpt4")
    before = bits(mllm)
    with pytest.raises(RuntimeError, match="out of memory"), noisy_weights([mllm], 0.1, draws):
        mllm.encode_image(tiny_images(), QUESTIONS)
        raise RuntimeError("out of memory")
    assert same(before, bits(mllm))
    calls = []

    def fails(weight, *_):
        calls.append(weight)
        if len(calls) == 5:
            raise RuntimeError("no room")
        return weight + 1

    monkeypatch.setattr("lightning_modules.weight_noise._noisy", fails)
    with pytest.raises(RuntimeError, match="no room"), noisy_weights([mllm], 0.1, draws):
        pass
    assert same(before, bits(mllm))


def test_models_that_share_memory_never_see_each_other_s_noise(draws, tmp_path):
    from model_zoo.pool import sharing
    from model_zoo.registry import load_mllm

    with sharing():
        source, target = load_mllm("embedded_minigpt4"), load_mllm("embedded_instructblip")
    pointers = {p.data_ptr() for p in source.parameters()} & {p.data_ptr() for p in target.parameters()}
    assert pointers
    frames = tiny_images(size=64)
    before, tokens = bits(source, target), target.encode_image(frames, QUESTIONS).tokens
    with noisy_weights([source], 0.2, draws):
        assert torch.equal(target.encode_image(frames, QUESTIONS).tokens, tokens)
        assert same(before[-len(list(target.parameters())) :], bits(target))
    assert same(before, bits(source, target))


def test_noise_has_the_relative_size_asked_for_and_spares_the_language_model(draws):
    mllm = tiny_mllm("llava")
    before = {name: p.detach().clone() for name, p in mllm.named_parameters()}
    with noisy_weights([mllm], 0.1, draws):
        noise = {name: p.detach() - before[name] for name, p in mllm.named_parameters()}
        assert not any(p.requires_grad for p in mllm.parameters())
    language = {name for name in noise if name.startswith("llm.")}
    assert language and not any(noise[name].any() for name in language)
    big = max((n for n in noise if n not in language), key=lambda name: noise[name].numel())
    ratio = noise[big].square().mean().sqrt() / before[big].square().mean().sqrt()
    assert ratio.item() == pytest.approx(0.1, rel=0.1)
    assert {name for name, value in noise.items() if value.any()} == {*noise} - language


def test_noise_is_that_of_seed_and_update():
    mllm = tiny_mllm("minigpt4")

    def tokens(*key):
        with noisy_weights([mllm], 0.1, step_generator(*key, "weights")):
            return mllm.encode_image(tiny_images(), QUESTIONS).tokens

    assert torch.equal(tokens(0, 1), tokens(0, 1))
    assert not torch.equal(tokens(0, 1), tokens(0, 2)) and not torch.equal(tokens(0, 1), tokens(1, 1))


def test_gradients_through_recomputed_layers_are_those_of_the_noisy_model(draws):
    """Backward runs the layers again: it must meet the same noise."""
    from model_zoo.layer_options import checkpoint_layers_

    gradients = []
    for recomputed in (False, True):
        mllm = tiny_mllm("minigpt4")
        if recomputed:
            checkpoint_layers_(mllm)
        frames = tiny_images().requires_grad_()
        with noisy_weights([mllm], 0.1, step_generator(0, 0, "weights")):
            mllm.answer_loss(frames, QUESTIONS, ["cat"] * 3)[0].sum().backward()
        gradients.append(frames.grad)
    assert torch.equal(*gradients)


def test_tied_weights_stay_tied_and_zero_changes_nothing(draws):
    mllm = tiny_mllm("minigpt4")
    mllm.connector.tied = mllm.connector.projection
    before = bits(mllm)
    with noisy_weights([mllm], 0.1, draws):
        assert mllm.connector.tied.weight is mllm.connector.projection.weight
        assert mllm.connector.tied.weight is not before[0]
    with noisy_weights([mllm], 0.0, draws):
        assert same(before, bits(mllm))
    assert len(seeing_weights(mllm)) > 10


def test_a_model_of_the_hub_gets_noise_on_what_sees_alone(tmp_path):
    from model_zoo.hf.tiny.write import write_tiny
    from model_zoo.registry import load_mllm

    name = "hf:tiny/qwen3_vl"
    write_tiny("qwen3_vl", tmp_path / "tiny" / "qwen3_vl")
    mllm = load_mllm(name, weights=tmp_path)
    language = {id(p) for part in mllm.language_parts() for p in part.parameters()}
    seeing = {id(p) for _, _, p in seeing_weights(mllm)}
    assert seeing and language and not seeing & language
    assert {id(p) for p in mllm.parameters()} == seeing | language
    names = {name for name, p in mllm.named_parameters() if id(p) in seeing}
    assert all("visual" in name for name in names)
