"""Checkpointed layers give the same numbers, keep fewer bytes, and leave caches and dropout alone."""

from __future__ import annotations

import copy

import lightning as L
import pytest
import torch
from support.saved_bytes import SavedBytes
from support.tiny_models import ANSWERS, CANDIDATES, QUESTIONS, tiny_images, tiny_mllm

from model_zoo.base import MLLM
from model_zoo.layer_options import checkpoint_layers_, stacked_layers
from model_zoo.memory.activations import kept_bytes
from model_zoo.memory.sizes import sizes_of

NAMES = ("minigpt4", "instructblip", "blip2", "blip2_opt", "bliva", "visualglm")


def gradient(model: MLLM) -> tuple[torch.Tensor, torch.Tensor, int]:
    """(nats (B,), gradient with respect to the frames, bytes kept by autograd)."""
    frames = tiny_images().requires_grad_()
    with SavedBytes(model) as saved:
        nats, _ = model.answer_loss(frames, QUESTIONS, ANSWERS)
    (result,) = torch.autograd.grad(nats.sum(), frames)
    return nats.detach(), result, saved.total


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_equal_bit_for_bit_and_fewer_bytes_are_kept(name: str) -> None:
    nats, plain, kept = gradient(tiny_mllm(name))
    again, checkpointed, fewer = gradient(checkpoint_layers_(tiny_mllm(name)))
    assert torch.equal(nats, again) and torch.equal(plain, checkpointed)
    assert plain.abs().max() > 0
    assert fewer < 0.5 * kept


@pytest.mark.parametrize("name", NAMES)
def test_the_plan_counts_what_a_checkpointed_model_keeps(name: str) -> None:
    from test_model_zoo_memory_need import batch_of, built, workload

    model = checkpoint_layers_(built(name, "medium", "float32"))
    images, questions, answers = batch_of("medium", 3, padded=True)
    with SavedBytes(model) as saved:
        model.answer_loss(images.requires_grad_(), questions, answers)
    load = workload(model, questions, answers)
    planned = kept_bytes(sizes_of(model), 3, "float32", checkpointing=True, load=load)
    assert planned == pytest.approx(saved.total, rel=0.05)


@pytest.mark.parametrize("name", ["minigpt4", "blip2"])
def test_scoring_and_generation_are_unchanged_also_with_gradients_on(name: str) -> None:
    plain, wrapped = tiny_mllm(name), checkpoint_layers_(tiny_mllm(name))
    images = tiny_images()
    assert torch.equal(plain.score(images, QUESTIONS, CANDIDATES), wrapped.score(images, QUESTIONS, CANDIDATES))
    texts = [model.generate(images, QUESTIONS, max_new_tokens=4) for model in (plain, wrapped)]
    assert texts[0] == texts[1]


def test_a_cache_is_filled_though_layers_are_checkpointed() -> None:
    from transformers import DynamicCache

    model = checkpoint_layers_(tiny_mllm("minigpt4"))
    cache = DynamicCache(config=model.llm.config)
    embeds = torch.zeros(1, 3, model.llm.config.hidden_size, requires_grad=True)
    model.hidden_states(embeds, torch.ones(1, 3, dtype=torch.bool), torch.arange(3).unsqueeze(0), cache)
    assert cache.get_seq_length() == 3


def test_a_copy_of_a_checkpointed_model_recomputes_its_own_layers() -> None:
    model = checkpoint_layers_(tiny_mllm("minigpt4"))
    other = copy.deepcopy(model)
    for layer in stacked_layers(model):
        layer.requires_grad_(False).apply(lambda m: [p.data.zero_() for p in m.parameters(recurse=False)])
    assert gradient(other)[1].abs().max() > 0


def test_every_stack_is_found() -> None:
    model = tiny_mllm("blip2")
    kinds = {type(layer).__name__ for layer in stacked_layers(model)}
    assert len(stacked_layers(model)) == 2 + 2 + 2 + 2 and len(kinds) == 3


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="Linear has no stacked layers to checkpoint"):
        checkpoint_layers_(torch.nn.Linear(2, 2))


class Holder(L.LightningModule):
    """What a training module does to the models it holds."""

    def __init__(self, model: MLLM) -> None:
        super().__init__()
        self.model = model


@pytest.mark.parametrize("name", NAMES)
def test_dropout_stays_off_in_a_lightning_module_in_train_mode(name: str) -> None:
    holder = Holder(tiny_mllm(name))
    for module in holder.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.1
        for attribute in ("dropout", "attention_dropout", "dropout_rate"):  # OPT, LLaMA and T5 read floats
            if isinstance(getattr(module, attribute, None), float):
                setattr(module, attribute, 0.1)
    holder.train()
    images = tiny_images()
    first, second = (holder.model.answer_loss(images, QUESTIONS, ANSWERS)[0] for _ in range(2))
    assert holder.training and not any(module.training for module in holder.model.modules())
    assert torch.equal(first, second)
    for module in holder.model.modules():
        module.training = True  # what would have happened: the test can tell
    assert not torch.equal(first, holder.model.answer_loss(images, QUESTIONS, ANSWERS)[0])
