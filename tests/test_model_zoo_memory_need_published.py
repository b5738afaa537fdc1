"""The planner at the published sizes: real architectures on tensors without memory, through the real adapters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.saved_bytes import SavedBytes
from support.tiny_models import tiny_tokenizer

from model_zoo.base import MLLM
from model_zoo.memory.activations import build_connector, build_llm, kept_bytes
from model_zoo.memory.need import CLIP_B32_KEPT, CLIP_B32_PARAMETERS
from model_zoo.memory.sizes import PUBLISHED_SIZES, Workload

TOLERANCE = 0.001
BATCH = 2


def published_mllm(name: str) -> MLLM:
    """The adapter around its published architecture, on the meta device."""
    from importlib import import_module

    from model_zoo.weights.catalogue import PUBLISHED

    sizes, (module, kind) = PUBLISHED_SIZES[name], PUBLISHED[name].adapter.split(":")
    options: dict[str, Any] = {"blip2": {"start_id": 0}, "visualglm": {"gmask_id": 4, "sop_id": 5}}.get(name, {})
    readers = [tiny_tokenizer(), tiny_tokenizer(bert=True)][: 2 if sizes.qformer.vocab else 1]
    with torch.device("meta"):
        parts = (
            build_connector(sizes.vision, sizes.qformer, sizes.llm.width, patches=sizes.patches),
            build_llm(sizes.llm, sizes.llm.layers),
        )
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
    questions, answers = ["This is a photo of a", "This is"], ["a red car"] * BATCH
    with SavedBytes(model) as saved:
        model.answer_loss(frames, questions, answers)
    text = len(model.prefix_ids(questions[0], 0, ranking=False))
    load = Workload(text, int(model.answer_token_counts(questions, answers)[0]))
    planned = kept_bytes(PUBLISHED_SIZES[name], BATCH, dtype, load=load)
    assert planned == pytest.approx(saved.total, rel=TOLERANCE)


def test_clip_s_numbers_are_those_of_its_architecture() -> None:
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
    from torch._subclasses.fake_tensor import FakeTensorMode

    vision = CLIPVisionCfg(layers=12, width=768, patch_size=32, image_size=224)
    with torch.device("meta"):
        clip = CLIP(512, vision, CLIPTextCfg(), quick_gelu=True).eval().requires_grad_(False)
    assert sum(parameter.numel() for parameter in clip.parameters()) == CLIP_B32_PARAMETERS
    with FakeTensorMode(allow_non_fake_inputs=True):
        frames = torch.rand(BATCH, 3, 224, 224).requires_grad_()
        clip.to_empty(device="cpu")
    with SavedBytes(clip) as saved:
        clip.encode_image(frames)
    assert saved.total == BATCH * CLIP_B32_KEPT
