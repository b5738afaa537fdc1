"""Quantised LLMs: one clear error where they cannot run, and which layers are replaced where they can.

A stand-in takes the place of bitsandbytes, so that our replacement logic is tested anywhere. Where the extra `quant` is
installed the last test runs the real library on the CPU (it can, from 0.46 on); CUDA has not been tried.
"""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from support.tiny_models import ANSWERS, QUESTIONS, tiny_images, tiny_mllm
from torch import nn

import model_zoo.layer_options as quant
from model_zoo.base import MLLM
from model_zoo.pool import WeightPool
from model_zoo.registry import load_mllm


class Int8Params(nn.Parameter):
    def __new__(cls, data, requires_grad=True, has_fp16_weights=False):
        return torch.Tensor._make_subclass(cls, data, requires_grad)


class Params4bit(nn.Parameter):
    def __new__(cls, data, requires_grad=True, quant_type="fp4"):
        return torch.Tensor._make_subclass(cls, data, requires_grad)


class Linear8bitLt(nn.Linear):
    def __init__(self, inputs, outputs, bias=True, has_fp16_weights=True, threshold=0.0):
        super().__init__(inputs, outputs, bias)
        self.threshold, self.has_fp16_weights = threshold, has_fp16_weights


class Linear4bit(nn.Linear):
    def __init__(self, inputs, outputs, bias=True, compute_dtype=None, quant_type="fp4"):
        super().__init__(inputs, outputs, bias)
        self.compute_dtype, self.quant_type = compute_dtype, quant_type


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("bitsandbytes")
    module.nn = SimpleNamespace(
        Linear8bitLt=Linear8bitLt, Linear4bit=Linear4bit, Int8Params=Int8Params, Params4bit=Params4bit
    )
    monkeypatch.setitem(sys.modules, "bitsandbytes", module)


def test_without_bitsandbytes_and_cuda_one_error_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quant, "find_spec", lambda name: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError) as caught:
        quant.require_quant("8bit")
    for part in ("quant=8bit", 'pip install -e ".[quant]"', "a CUDA GPU", "dtype=bfloat16"):
        assert part in str(caught.value)


def test_with_bitsandbytes_but_no_cuda_only_cuda_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quant, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"missing here: a CUDA GPU\."):
        quant.require_quant("4bit")


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Unknown quant '3bit'\. Expected 8bit or 4bit, or null"):
        quant.require_quant("3bit")


def test_load_mllm_refuses_before_it_looks_for_weights(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(quant, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="quant=8bit needs bitsandbytes"):
        load_mllm("minigpt4", weights=tmp_path, quant="8bit")


@pytest.mark.parametrize(("kind", "layer"), [("8bit", Linear8bitLt), ("4bit", Linear4bit)])
@pytest.mark.parametrize("name", ["minigpt4", "blip2", "blip2_opt"])
def test_every_linear_layer_of_the_llm_is_replaced_but_the_head(stand_in: None, name: str, kind: str, layer) -> None:
    plain, model = tiny_mllm(name), quant.quantise_(tiny_mllm(name), kind)
    before = {n for n, m in plain.llm.named_modules() if type(m) is nn.Linear}
    after = {n for n, m in model.llm.named_modules() if isinstance(m, layer)}
    assert after == {n for n in before if n != "lm_head"} and after
    assert type(model.llm.lm_head) is nn.Linear
    assert not any(isinstance(m, layer) for m in model.connector.modules())


@pytest.mark.parametrize("kind", ["8bit", "4bit"])
def test_replaced_layers_hold_the_same_weights_frozen_and_pass_gradients_on(stand_in: None, kind: str) -> None:
    plain, model = tiny_mllm("blip2_opt"), quant.quantise_(tiny_mllm("blip2_opt"), kind)
    assert not any(p.requires_grad or p.is_meta for p in model.parameters())
    results = []
    for each in (plain, model):
        frames = tiny_images().requires_grad_()
        nats, _ = each.answer_loss(frames, QUESTIONS, ANSWERS)
        results.append(torch.autograd.grad(nats.sum(), frames)[0])
    assert torch.equal(*results) and results[0].abs().max() > 0
    assert not any(module.training for module in model.modules())


def test_4_bit_layers_compute_in_the_dtype_of_the_weights(stand_in: None) -> None:
    model = quant.quantise_(tiny_mllm("minigpt4").to(torch.bfloat16), "4bit")
    made = [m for m in model.llm.modules() if isinstance(m, Linear4bit)]
    assert {(m.compute_dtype, m.quant_type) for m in made} == {(torch.bfloat16, "nf4")}


def test_8_bit_layers_use_the_published_outlier_threshold(stand_in: None) -> None:
    model = quant.quantise_(tiny_mllm("minigpt4"), "8bit")
    made = [m for m in model.llm.modules() if isinstance(m, Linear8bitLt)]
    assert {(m.threshold, m.has_fp16_weights) for m in made} == {(6.0, False)}


# ---- in the pool of weights -----------------------------------------------------------------------------------------
def quantised(name: str, kind: str) -> MLLM:
    """As a model arrives on a GPU: its layers' weights are whole numbers."""
    model = quant.quantise_(tiny_mllm(name), kind)
    for parameter in model.parameters():
        if isinstance(parameter, Int8Params | Params4bit):
            parameter.data = (parameter.data * 100).to(torch.int8 if kind == "8bit" else torch.uint8)
            parameter.CB = parameter.data if kind == "8bit" else None
    return model


def integers(model: MLLM) -> list[int]:
    return [p.data_ptr() for p in model.parameters() if not p.is_floating_point()]


@pytest.mark.parametrize("kind", ["8bit", "4bit"])
def test_models_quantised_alike_hold_the_same_integers(stand_in: None, kind: str) -> None:
    pool, wanted = WeightPool(), [p.clone() for p in quantised("minigpt4", kind).parameters()]
    one, two = (pool.place_(quantised("minigpt4", kind)) for _ in range(2))
    assert integers(one) == integers(two) and len(set(integers(one))) > 5
    for model in (one, two):
        assert all(map(torch.equal, model.parameters(), wanted))
        layers = [m.weight for m in model.llm.modules() if isinstance(m, Linear8bitLt | Linear4bit)]
        assert all(w.CB is None or w.CB.data_ptr() == w.data_ptr() for w in layers)  # nothing holds what is not used


def test_a_quantised_model_shares_no_layer_with_one_of_another_kind(stand_in: None) -> None:
    pool = WeightPool()
    eight, four, plain = quantised("minigpt4", "8bit"), quantised("minigpt4", "4bit"), tiny_mllm("minigpt4")
    scores = plain.score(tiny_images(), QUESTIONS, ["cat", "dog"])
    models = [pool.place_(model) for model in (plain, eight, four)]
    held = [{layer.data_ptr() for layer in model.llm.model.layers.parameters()} for model in models]
    linear = [{p.data_ptr() for p in model.llm.model.layers.parameters() if p.ndim > 1} for model in models]
    assert not linear[0] & (linear[1] | linear[2]) and not linear[1] & linear[2]
    assert held[0] & held[1] & held[2]  # norms are the same in all
    assert torch.equal(plain.score(tiny_images(), QUESTIONS, ["cat", "dog"]), scores)


def test_what_waits_to_be_quantised_is_left_alone(stand_in: None) -> None:
    pool, model = WeightPool(), quant.quantise_(tiny_mllm("minigpt4"), "8bit")
    waiting = [p for p in model.parameters() if isinstance(p, Int8Params)]
    before = [p.data_ptr() for p in waiting]
    pool.place_(tiny_mllm("minigpt4")), pool.place_(model)
    assert [p.data_ptr() for p in waiting] == before


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["8bit", "4bit"])
def test_the_real_library_s_integers_are_held_once_and_score_the_same_bits(kind: str) -> None:
    pytest.importorskip("bitsandbytes", reason="the extra `quant` is not installed")
    pool, alone = WeightPool(), quant.quantise_(tiny_mllm("minigpt4"), kind).to("cpu")
    one, two = (pool.place_(quant.quantise_(tiny_mllm("minigpt4"), kind).to("cpu")) for _ in range(2))
    assert integers(one) == integers(two) and len(set(integers(one))) > 5
    frames = tiny_images().requires_grad_()  # without a gradient the library packs 4-bit layers anew for some CPUs
    wanted = alone.score(frames, QUESTIONS, ["cat", "dog"])
    for _ in range(2):  # a layer's first pass is another than its second
        assert all(torch.equal(m.score(frames, QUESTIONS, ["cat", "dog"]), wanted) for m in (one, two))
    assert integers(one) == integers(two)


@pytest.mark.filterwarnings("ignore")  # a third party's import-time warnings
@pytest.mark.parametrize(("kind", "least"), [("8bit", 0.98), ("4bit", 0.8)])
@pytest.mark.parametrize("name", ["minigpt4", "blip2_opt"])
def test_the_real_library_keeps_the_gradient_s_direction(name: str, kind: str, least: float) -> None:
    pytest.importorskip("bitsandbytes", reason="the extra `quant` is not installed")
    model = quant.quantise_(tiny_mllm(name).to(torch.bfloat16), kind).to("cpu")  # a move quantises
    gradients = []
    for each in (tiny_mllm(name), model):
        frames = tiny_images().requires_grad_()
        nats, _ = each.answer_loss(frames, QUESTIONS, ANSWERS)
        gradients.append(torch.autograd.grad(nats.sum(), frames)[0].flatten())
    assert {m.weight.dtype for m in model.llm.modules() if "bitsandbytes" in type(m).__module__} <= {
        torch.int8,
        torch.uint8,
    }
    assert torch.cosine_similarity(*gradients, dim=0) > least
