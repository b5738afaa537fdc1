"""The planner at the published sizes: real architectures on tensors without memory, through the real adapters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.saved_bytes import SavedBytes
from support.tiny_models import tiny_tokenizer
from torch import nn

from model_zoo.base import MLLM
from model_zoo.connectors import build_connector
from model_zoo.memory.activations import Workload, kept_bytes
from model_zoo.memory.sizes import PUBLISHED_SIZES, Language, Sizes

TOLERANCE = 0.02
BATCH = 2


def published_connector(sizes: Sizes) -> nn.Module:
    eye, former = sizes.vision, sizes.qformer
    vision = dict(image_size=eye.pixels, patch_size=eye.patch, hidden_size=eye.width, num_hidden_layers=eye.layers)
    vision |= dict(num_attention_heads=eye.heads, intermediate_size=eye.mlp)
    bert = dict(hidden_size=former.width, num_hidden_layers=former.layers, num_attention_heads=former.heads)
    bert |= dict(intermediate_size=former.mlp, vocab_size=former.vocab or 30523)
    kinds = dict(reads_text=bool(former.vocab), with_patches=sizes.patches)
    return build_connector(vision, bert, former.queries, sizes.llm.width, **kinds)


def published_llm(m: Language) -> nn.Module:
    import transformers as hf

    common = dict(vocab_size=m.vocab, hidden_size=m.width, num_hidden_layers=m.layers, num_attention_heads=m.heads)
    if m.kind == "t5":
        numbers = dict(d_model=m.width, d_kv=m.inner // m.heads, d_ff=m.mlp, num_heads=m.heads, vocab_size=m.vocab)
        config = hf.T5Config(num_layers=m.layers, feed_forward_proj="gated-gelu", **numbers)
        config.dense_act_fn = "gelu"  # as LAVIS runs it
        return hf.T5ForConditionalGeneration(config)
    if m.kind == "opt":
        return hf.OPTForCausalLM(hf.OPTConfig(word_embed_proj_dim=m.width, ffn_dim=m.mlp, **common))
    if m.kind == "chatglm":
        from model_zoo.chatglm import ChatGLMConfig, ChatGLMForCausalLM

        return ChatGLMForCausalLM(ChatGLMConfig(intermediate_size=m.mlp, **common))
    return hf.LlamaForCausalLM(hf.LlamaConfig(intermediate_size=m.mlp, **common))


def published_mllm(name: str) -> MLLM:
    """The adapter around its published architecture, on the meta device."""
    from importlib import import_module

    from model_zoo.weights.catalogue import PUBLISHED

    sizes, (module, kind) = PUBLISHED_SIZES[name], PUBLISHED[name].adapter.split(":")
    options: dict[str, Any] = {"blip2": {"start_id": 0}, "visualglm": {"gmask_id": 4, "sop_id": 5}}.get(name, {})
    readers = [tiny_tokenizer(), tiny_tokenizer(bert=True)][: 2 if sizes.qformer.vocab else 1]
    with torch.device("meta"):
        parts = published_connector(sizes), published_llm(sizes.llm)
        return getattr(import_module(module), kind)(*parts, *readers, **options).freeze_()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["minigpt4", "instructblip", "blip2", "blip2_opt", "bliva", "visualglm"])
def test_kept_bytes_at_published_size_are_what_autograd_keeps(name: str, dtype: str) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    model = published_mllm(name).to(getattr(torch, dtype))
    with FakeTensorMode(allow_non_fake_inputs=True):  # CPU tensors with shapes, strides and kernels, but no memory
        model.to_empty(device="cpu")
        frames = torch.rand(BATCH, 3, 224, 224).requires_grad_()
    questions, answers = ["This is a photo of a"] * BATCH, ["a red car"] * BATCH
    with SavedBytes(model) as saved:
        model.answer_loss(frames, questions, answers)
    text = len(model.prefix_ids(questions[0], 0, ranking=False))
    load = Workload(text, int(model.answer_token_counts(questions, answers)[0]))
    planned = kept_bytes(PUBLISHED_SIZES[name], BATCH, dtype, load=load, padded=False)
    assert planned == pytest.approx(saved.total, rel=TOLERANCE)
