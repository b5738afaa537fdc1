"""Hugging Face conversions: written by transformers from our weights, they load as the original files do."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from support.golden import Golden, golden_root, load_golden
from support.hub_form import build_hub_model, hub_inputs, write_hub_form
from torch import Tensor

from model_zoo.base import MLLM
from model_zoo.registry import canonical, load_mllm, missing_files, weight_files
from model_zoo.sequences import IMAGE
from model_zoo.weights.catalogue import PUBLISHED
from model_zoo.weights.hub import own_rows

NAMES = [name for name in ("blip2_opt", "blip2_t5", "instructblip") if (golden_root() / name).is_dir()]


def tokenizer_folders(golden: Golden) -> dict[str, Path]:
    known, root = PUBLISHED[canonical(golden.config["model"])], golden.folder / "weights"
    bert = {"qformer_tokenizer": (root / known.bert.path).parent} if known.bert else {}
    return {"tokenizer": root / known.llm.path} | bert


@pytest.fixture(scope="module", params=NAMES)
def golden(request: pytest.FixtureRequest) -> Golden:
    return load_golden(request.param)


@pytest.fixture(scope="module", params=["safetensors", "bin"])
def hub_root(request: pytest.FixtureRequest, golden: Golden, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights root that holds nothing but the hub folder of the golden model."""
    root = tmp_path_factory.mktemp("hub")
    folder = root / PUBLISHED[canonical(golden.config["model"])].hub
    write_hub_form(golden.model, folder, tokenizer_folders(golden), binary=request.param == "bin")
    if "llm_resized_embed_row" in golden.arrays:
        add_pad_token(folder)
    return root


def add_pad_token(folder: Path) -> None:
    """What InstructBLIP's conversion does to its tokenizer: `[PAD]` after the last piece."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)


def results(model: MLLM, golden: Golden) -> list[Tensor]:
    """Scores, losses and the image gradient."""
    frames = golden.frames.requires_grad_()
    nats, _ = model.answer_loss(frames, golden.questions("mixed"), golden.text["text_output"])
    (gradient,) = torch.autograd.grad(nats.sum(), frames)
    with torch.no_grad():
        scores = model.score(frames, golden.questions("mixed"), golden.text["class_names"])
    return [scores, nats.detach(), gradient]


def test_a_hub_folder_gives_the_results_of_the_original_files(golden: Golden, hub_root: Path) -> None:
    name = golden.config["model"]
    assert missing_files(name, hub_root) == [] and len(weight_files(name, hub_root)) > 2
    model = load_mllm(name, weights=hub_root, official=True)
    for found, expected in zip(results(model, golden), results(golden.model, golden), strict=True):
        assert torch.equal(found, expected)


def test_tied_weights_of_a_hub_folder_are_stored_once(golden: Golden, hub_root: Path) -> None:
    llm = load_mllm(golden.config["model"], weights=hub_root, official=True).llm
    embedding = llm.get_input_embeddings().weight
    if llm.config.model_type == "opt":
        assert llm.lm_head.weight.data_ptr() == embedding.data_ptr()
    if llm.config.model_type == "t5":
        assert llm.encoder.embed_tokens.weight.data_ptr() == llm.decoder.embed_tokens.weight.data_ptr()
        assert llm.lm_head.weight.data_ptr() != embedding.data_ptr() == llm.shared.weight.data_ptr()
        assert llm.config.dense_act_fn == "gelu"


def test_the_pad_row_of_instructblip_is_kept_only_officially(golden: Golden, hub_root: Path) -> None:
    if "llm_resized_embed_row" not in golden.arrays:
        pytest.skip("a model without a [PAD] row of its own")
    name = golden.config["model"]
    default, official = (load_mllm(name, weights=hub_root, official=flag).llm for flag in (False, True))
    assert official.lm_head.weight.shape[0] == default.lm_head.weight.shape[0] + 1
    original = load_mllm(name, weights=golden.folder / "weights").llm
    assert torch.equal(default.lm_head.weight, original.lm_head.weight)
    assert default.config.vocab_size == original.config.vocab_size


def test_our_losses_equal_transformers_own_forward(golden: Golden) -> None:
    model, hub = golden.model, build_hub_model(golden.model)
    hub.vision_model.post_layernorm.eps = model.connector.vision.post_layernorm.eps  # see weights/hub.py
    question, answer = golden.questions("std")[0], golden.text["text_output"][0]
    with torch.no_grad():
        (nats,), (count,) = model.answer_loss(golden.frames[:1], [question], [answer])
        theirs = hub_loss(model, hub, golden.frames[:1], question, answer)
    assert float(theirs) == pytest.approx(float(nats / count), abs=1e-5)


def hub_loss(model: MLLM, hub: torch.nn.Module, frames: Tensor, question: str, answer: str) -> Tensor:
    """Mean negative log-likelihood of the answer's tokens by transformers' class."""
    image, pixels = hub.config.image_token_index, {"pixel_values": model.prepare(frames)}
    if model.llm.config.is_encoder_decoder:
        prompt, target = model.prefix_ids(question, 0, ranking=False), model.answer_ids(answer)
        return hub(**pixels, **hub_inputs(model, prompt, target, image), labels=torch.tensor([target])).loss
    prefix, target = model.loss_ids(question, answer, model.connector.n_query)
    inputs = hub_inputs(model, [token for token in prefix if token != IMAGE], target, image)
    if model.connector.reads_text:
        ids = torch.tensor([model.qformer_ids(question)])
        inputs |= {"qformer_input_ids": ids, "qformer_attention_mask": torch.ones_like(ids)}
    logits = hub(**pixels, **inputs).logits
    return F.cross_entropy(logits[0, -len(target) - 1 : -1], torch.tensor(target))


def test_a_config_of_another_model_is_refused(golden: Golden, hub_root: Path, tmp_path: Path) -> None:
    folder = hub_root / PUBLISHED[canonical(golden.config["model"])].hub
    config = json.loads((folder / "config.json").read_text())
    original = (folder / "config.json").read_text()
    try:
        (folder / "config.json").write_text(json.dumps(config["text_config"]))
        with pytest.raises(ValueError, match="Expected one of blip-2, instructblip"):
            load_mllm(golden.config["model"], weights=hub_root)
    finally:
        (folder / "config.json").write_text(original)


def test_rows_added_for_an_image_token_are_dropped(golden: Golden, tmp_path: Path) -> None:
    """Revisions since transformers 4.47 pad the vocabulary after `[PAD]` and `<image>`."""
    if "llm_resized_embed_row" not in golden.arrays:
        pytest.skip("only InstructBLIP's rows are told by its tokenizer")
    folder = tmp_path / PUBLISHED["instructblip"].hub
    write_hub_form(golden.model, folder, tokenizer_folders(golden), binary=True)
    add_pad_token(folder)
    for path in folder.glob("*.bin"):
        tensors = torch.load(path, weights_only=True)
        for key in ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight"):
            if key in tensors:
                tensors[key] = torch.cat([tensors[key], torch.randn(7, tensors[key].shape[1])])
        torch.save(tensors, path)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["vocab_size"] += 7
    (folder / "config.json").write_text(json.dumps(config))
    llm = load_mllm("instructblip", weights=tmp_path, official=True).llm
    assert torch.equal(llm.lm_head.weight, golden.model.llm.lm_head.weight)


@pytest.mark.parametrize(("kind", "rows", "own"), [("opt", 50304, 50272), ("opt", 50272, 50272), ("t5", 32128, 32128)])
def test_rows_of_the_published_conversions(kind: str, rows: int, own: int) -> None:
    assert own_rows(kind, rows, None, padded=False) == own


@pytest.mark.parametrize("padded", [False, True])
def test_rows_of_instructblip_end_at_its_pad_token(padded: bool) -> None:
    tokenizer = SimpleNamespace(pad_token="[PAD]", pad_token_id=32000)
    assert [own_rows("llama", rows, tokenizer, padded=padded) for rows in (32001, 32064)] == [32000 + padded] * 2
