"""VisualGLM's original checkpoint: every key at its published shape, and small files that fit, or say why not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from support.ice_text import MARKS, write_ice_text
from support.tiny_models import ANSWERS, CANDIDATES, QUESTIONS, tiny_images
from torch import Tensor, nn

from model_zoo.registry import load_mllm
from model_zoo.weights.sat import COMPUTED, build_parts, check_originals, origins, plan_visualglm

VIT, QFORMER = "image_encoder.vit.", "image_encoder.qformer."
FOLDER = "THUDM/visualglm-6b"


class Sizes(NamedTuple):
    """width, layers, inner of the LLM, tower and Q-Former; the rest as named."""

    llm: tuple[int, int, int]
    vit: tuple[int, int, int]
    qformer: tuple[int, int, int]
    vocab: int
    patch: int
    grid: int
    queries: int
    rotary: int


REAL = Sizes((4096, 28, 16384), (1408, 39, 6144), (768, 12, 3072), 130528, 14, 16, 32, 32)
SMALL = Sizes((32, 3, 48), (24, 2, 40), (16, 4, 20), 400, 8, 4, 5, 4)
CONFIG = {
    "model_type": "chatglm",
    "num_layers": 3,
    "num_attention_heads": 4,
    "bos_token_id": 4 + MARKS.index("<sop>"),
    "eva_config": {"num_layers": 2, "num_attention_heads": 4},
    "qformer_config": {"num_layers": 4, "num_attention_heads": 2},
}


def blocks(prefix: str, sizes: tuple[int, int, int], cross: int = 0) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of a stack of SAT blocks; every other one attends to `cross` wide features."""
    width, layers, inner = sizes
    linear = {
        "attention.query_key_value": (3 * width, width),
        "attention.dense": (width, width),
        "mlp.dense_h_to_4h": (inner, width),
        "mlp.dense_4h_to_h": (width, inner),
    }
    crossing = {
        "cross_attention.query": (width, width),
        "cross_attention.key_value": (2 * width, cross),
        "cross_attention.dense": (width, width),
    }
    keys: dict[str, tuple[int, ...]] = {}
    for layer in range(layers):
        here = cross and layer % 2 == 0
        norms = ["input_layernorm", "post_attention_layernorm", *(["post_cross_attention_layernorm"] if here else [])]
        both = {**linear, **(crossing if here else {}), **{norm: (width,) for norm in norms}}
        for name, shape in both.items():
            keys |= {f"{prefix}transformer.layers.{layer}.{name}.weight": shape}
            keys |= {f"{prefix}transformer.layers.{layer}.{name}.bias": shape[:1]}
    return keys


def original_keys(s: Sizes) -> dict[str, tuple[int, ...]]:
    """Every key of the published checkpoint with its shape."""
    llm, vit, qformer = s.llm[0], s.vit[0], s.qformer[0]
    pairs = {
        "transformer.final_layernorm": (llm,),
        f"{VIT}mixins.patch_embedding.proj": (vit, 3, s.patch, s.patch),
        f"{VIT}mixins.cls.ln_vision": (vit,),
        f"{QFORMER}transformer.final_layernorm": (qformer,),
        "image_encoder.glm_proj": (llm, qformer),
    }
    single = {
        "transformer.word_embeddings.weight": (s.vocab, llm),
        "lm_head.weight": (s.vocab, llm),
        f"{VIT}transformer.word_embeddings.weight": (1, vit),
        f"{VIT}transformer.position_embeddings.weight": (s.grid**2 + 1, vit),
        f"{QFORMER}transformer.word_embeddings.weight": (s.queries, qformer),
    }
    buffers = {f"transformer.layers.{n}.attention.rotary_emb.inv_freq": (s.rotary,) for n in range(s.llm[1])}
    stacks = blocks("", s.llm) | blocks(VIT, s.vit) | blocks(QFORMER, s.qformer, cross=vit)
    weights = {f"{key}.weight": shape for key, shape in pairs.items()}
    return stacks | weights | {f"{key}.bias": shape[:1] for key, shape in pairs.items()} | single | buffers


def test_the_published_checkpoint_fits_key_by_key() -> None:
    """7.8 billion numbers on disk, as published; one matrix fewer in memory, where embeddings and head are tied."""
    header = {key: torch.empty(shape, device="meta") for key, shape in original_keys(REAL).items()}
    read = {key: value for key, value in header.items() if not COMPUTED.match(key)}
    assert len(header) - len(read) == 28
    parts = build_parts(read, {}, None, None)
    places = origins(parts["connector"], parts["llm"])
    check_originals(parts, places, read, "the published file", [])
    assert sum(value.numel() for value in read.values()) == 7_802_193_408
    assert sum(p.numel() for p in parts.parameters()) == 7_802_193_408 - 130_528 * 4096
    assert sum(p.numel() for p in parts["llm"].parameters()) == 6_173_286_400
    assert sum(p.numel() for p in parts["connector"].vision.parameters()) == 985_952_256
    assert parts["llm"].config.num_attention_heads == 32
    vision, qformer = parts["connector"].vision.config, parts["connector"].qformer.config
    assert (vision.num_attention_heads, vision.image_size, vision.layer_norm_eps) == (16, 224, 1e-6)
    assert (qformer.num_attention_heads, qformer.cross_attention_frequency) == (12, 2)


def small_tensors(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    draw = {key: 0.15 * torch.randn(shape, generator=generator) for key, shape in original_keys(SMALL).items()}
    return {key: 1 + value if "norm" in key and key.endswith("weight") else value for key, value in draw.items()}


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return small_tensors()


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_ice_text(tmp_path_factory.mktemp("glm")).read_bytes()


@pytest.fixture
def write(tmp_path: Path, vocabulary: bytes) -> Callable[..., Path]:
    """Write a checkpoint below the weights root `tmp_path`; returns its folder."""

    def write(tensors: dict[str, Tensor], shards: int = 1, **config: object) -> Path:
        folder = tmp_path / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "ice_text.model").write_bytes(vocabulary)
        (folder / "tokenizer_config.json").write_text(json.dumps({"num_image_tokens": 0}))
        (folder / "config.json").write_text(json.dumps({**CONFIG, **config}))
        names = [
            f"pytorch_model-{n + 1:05}-of-{shards:05}.bin" if shards > 1 else "pytorch_model.bin" for n in range(shards)
        ]
        place = {key: names[i % shards] for i, key in enumerate(tensors)}
        for name in names:
            torch.save({key: value for key, value in tensors.items() if place[key] == name}, folder / name)
        if shards > 1:
            (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": place}))
        return folder

    return write


def load_whole(folder: Path, **heads: int) -> tuple[nn.Module, nn.Module]:
    """(connector, llm) of a folder."""
    whole = plan_visualglm(folder, **heads).fill(torch.float32)
    return whole["connector"], whole["llm"]


def test_stacked_matrices_are_cut_and_norms_find_their_place(tensors: dict[str, Tensor], write: Callable) -> None:
    connector, llm = load_whole(write(tensors))
    layer = f"{QFORMER}transformer.layers."
    block = connector.qformer.encoder.layer
    wanted = {
        block[1].attention.attention.key.weight: tensors[f"{layer}1.attention.query_key_value.weight"][16:32],
        block[2].crossattention.attention.value.bias: tensors[f"{layer}2.cross_attention.key_value.bias"][16:],
        block[2].crossattention.output.LayerNorm.weight: tensors[f"{layer}2.post_cross_attention_layernorm.weight"],
        block[0].output_query.LayerNorm.bias: tensors[f"{layer}1.input_layernorm.bias"],
        block[3].output_query.LayerNorm.bias: tensors[f"{QFORMER}transformer.final_layernorm.bias"],
        connector.qformer.layernorm.weight: tensors[f"{layer}0.input_layernorm.weight"],
        connector.query_tokens: tensors[f"{QFORMER}transformer.word_embeddings.weight"][None],
        connector.vision.embeddings.class_embedding: tensors[f"{VIT}transformer.word_embeddings.weight"][None],
        connector.vision.post_layernorm.weight: tensors[f"{VIT}mixins.cls.ln_vision.weight"],
        llm.transformer.final_layernorm.weight: tensors["transformer.final_layernorm.weight"],
    }
    for ours, theirs in wanted.items():
        assert torch.equal(ours, theirs)
    assert [hasattr(each, "crossattention") for each in block] == [True, False, True, False]


def test_chatglms_matrices_pass_through_float16_and_the_head_is_the_embedding(
    tensors: dict[str, Tensor], write: Callable
) -> None:
    _, llm = load_whole(write(tensors))
    for name in ("layers.0.attention.query_key_value.weight", "layers.2.mlp.dense_4h_to_h.bias"):
        assert torch.equal(llm.transformer.get_parameter(name), tensors[f"transformer.{name}"].half().float())
    assert torch.equal(llm.lm_head.weight, tensors["lm_head.weight"].half().float())
    assert llm.transformer.word_embeddings.weight is llm.lm_head.weight


def test_untied_matrices_stay_apart_when_the_configuration_says_so(tensors: dict[str, Tensor], write: Callable) -> None:
    _, llm = load_whole(write(tensors, tie_word_embeddings=False))
    words = tensors["transformer.word_embeddings.weight"].half().float()
    assert torch.equal(llm.transformer.word_embeddings.weight, words)
    assert not torch.equal(llm.lm_head.weight, words)


def test_a_file_without_a_head_ties_it_to_the_embeddings(tensors: dict[str, Tensor], write: Callable) -> None:
    rest = {key: value for key, value in tensors.items() if key != "lm_head.weight"}
    _, llm = load_whole(write(rest))
    assert torch.equal(llm.lm_head.weight, tensors["transformer.word_embeddings.weight"].half().float())


def test_shards_give_what_one_file_gives(tensors: dict[str, Tensor], write: Callable, tmp_path: Path) -> None:
    write(tensors)
    whole = load_mllm("visualglm", weights=tmp_path)
    (tmp_path / FOLDER / "pytorch_model.bin").unlink()
    write(tensors, shards=5)
    parts = load_mllm("visualglm", weights=tmp_path)
    with torch.no_grad():
        one, other = (m.score(tiny_images(), QUESTIONS, CANDIDATES) for m in (whole, parts))
        assert torch.equal(one, other)
        nats, tokens = whole.answer_loss(tiny_images(), QUESTIONS, ANSWERS)
    assert nats.isfinite().all() and tokens.tolist() == [len(whole.text_ids(answer)) for answer in ANSWERS]
    assert whole.image_size == SMALL.grid * SMALL.patch


KEY = "transformer.layers.1.attention.dense.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(f"{QFORMER}{KEY}"), f"missing {QFORMER}{KEY}"),
        (lambda t: t.pop(f"{VIT}transformer.position_embeddings.weight"), f"missing {VIT}transformer.position_emb"),
        (lambda t: t.pop("image_encoder.glm_proj.bias"), "missing image_encoder.glm_proj.bias"),
        (lambda t: t.update({KEY: torch.zeros(32, 31)}), rf"misshaped {KEY}: \(32, 31\) instead of \(32, 32\)"),
        (
            lambda t: t.update(
                {f"{QFORMER}transformer.layers.2.cross_attention.key_value.weight": torch.zeros(16, 24)}
            ),
            r"key_value.weight: \(16, 24\) instead of \(32, 24\)",
        ),
        (lambda t: t.update({"transformer.prefix.weight": torch.zeros(1)}), "unexpected transformer.prefix.weight"),
        (
            lambda t: [t.pop(key) for key in list(t) if key.startswith("transformer.layers.2.")],
            r"missing transformer.layers.2.input_layernorm.weight",
        ),
    ],
    ids=["missing", "no_positions", "no_bias", "wrong_shape", "half_a_stack", "extra", "cut_short"],
)
def test_keys_that_do_not_fit_are_named(
    tensors: dict[str, Tensor], write: Callable, change: Callable, message: str
) -> None:
    broken = dict(tensors)
    change(broken)
    with pytest.raises(ValueError, match=message):
        load_whole(write(broken))


def test_a_missing_shard_is_named(tensors: dict[str, Tensor], write: Callable, tmp_path: Path) -> None:
    folder = write(tensors, shards=3)
    (folder / "pytorch_model-00002-of-00003.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"pytorch_model-00002-of-00003\.bin"):
        load_mllm("visualglm", weights=tmp_path)


def test_heads_of_an_unknown_width_are_asked_for(tensors: dict[str, Tensor], write: Callable) -> None:
    with pytest.raises(ValueError, match=r"from width 24.*Pass vision_heads="):
        load_whole(write(tensors, eva_config={}))
    connector, _ = load_whole(write(tensors, eva_config={}), vision_heads=6)
    assert connector.vision.config.num_attention_heads == 6
