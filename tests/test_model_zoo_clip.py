"""The frozen CLIP scorer: what it computes, what it remembers, what it refuses."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from support.tiny_models import reinitialise_, tiny_images

from model_zoo.clip import ClipScorer, build_clip
from model_zoo.registry import find_clip, load_clip

CAPTIONS = ["this is a photo of a cat", "this is a photo of a dog", "this is a photo of a cat"]


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    """A random CLIP in OpenAI's layout: 32-pixel images, width 64."""
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    vision = CLIPVisionCfg(layers=2, width=64, patch_size=8, image_size=32)
    text = CLIPTextCfg(context_length=77, vocab_size=49408, width=64, heads=1, layers=2)
    return reinitialise_(CLIP(32, vision, text, quick_gelu=True)).state_dict()


@pytest.fixture
def scorer(tensors: dict) -> ClipScorer:
    return build_clip({**tensors, "logit_scale": torch.tensor(2.0)})


def test_similarity_is_the_scaled_cosine(scorer: ClipScorer) -> None:
    from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
    with torch.no_grad():
        seen = scorer.model.encode_image((tiny_images() - mean) / std)
        read = scorer.model.encode_text(scorer.tokenizer(CAPTIONS))
        expected = math.exp(2.0) * torch.cosine_similarity(seen, read)
        torch.testing.assert_close(scorer.similarity(tiny_images(), CAPTIONS), expected)


def test_the_scale_is_capped_at_one_hundred(tensors: dict) -> None:
    image, text = tiny_images(), CAPTIONS
    with torch.no_grad():
        capped, exact = (
            build_clip({**tensors, "logit_scale": torch.tensor(value)}).similarity(image, text)
            for value in (9.0, math.log(100))
        )
    torch.testing.assert_close(capped, exact)


def test_every_caption_is_encoded_once(scorer: ClipScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, encode = [], scorer.model.encode_text
    monkeypatch.setattr(scorer.model, "encode_text", lambda tokens: asked.append(len(tokens)) or encode(tokens))
    for _ in range(2):
        scorer.similarity(tiny_images(), CAPTIONS)
    assert asked == [1, 1]  # each alone, once


def test_gradient_reaches_the_frames_and_no_weight(scorer: ClipScorer) -> None:
    frames = tiny_images(3, 48).requires_grad_()
    scorer.similarity(frames, CAPTIONS).sum().backward()
    assert frames.grad.abs().sum() > 0
    assert all(p.grad is None and not p.requires_grad for p in scorer.parameters())


def test_it_stays_in_eval_mode_and_float32(scorer: ClipScorer) -> None:
    assert not scorer.train().model.training
    plain = scorer.similarity(tiny_images(), CAPTIONS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(scorer.similarity(tiny_images(), CAPTIONS), plain)


def test_half_precision_files_are_computed_in_float32(tensors: dict) -> None:
    half = build_clip({key: value.half() for key, value in tensors.items()})
    assert {p.dtype for p in half.parameters()} == {torch.float32}


def test_bad_captions_are_named(scorer: ClipScorer) -> None:
    with pytest.raises(ValueError, match="A caption is empty"):
        scorer.similarity(tiny_images(), ["a", "", "b"])
    with pytest.raises(ValueError, match="Got 2 captions for 3 images"):
        scorer.similarity(tiny_images(), CAPTIONS[:2])


def test_a_missing_file_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"ViT-B-32\.safetensors, .*ViT-B-32\.pt"):
        find_clip("ViT-B-32", tmp_path)


def test_a_file_by_name_loads(tensors: dict, tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    torch.save(tensors, tmp_path / "clip" / "ViT-B-32.pt")
    assert load_clip("ViT-B-32", tmp_path).image_size == 32


def test_another_models_file_is_named(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="is no CLIP ViT"):
        load_clip(tmp_path / "other.pt")


def test_a_caption_s_features_do_not_depend_on_the_captions_beside_it():
    from model_zoo.registry import load_clip

    together, alone = load_clip("embedded"), load_clip("embedded")
    captions = [f"this is a photo of a {name}" for name in ("cat", "slice of pizza", "alarm clock", "dog", "car")]
    features = together.text_features(captions)
    for i, caption in enumerate(captions):
        assert torch.equal(alone.text_features([caption])[0], features[i])
