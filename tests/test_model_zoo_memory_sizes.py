"""All published checkpoints at their real sizes go through our converters as names and shapes; no memory is needed.

The figures people quote, and what they count:

* EVA ViT-g 985.95 M: 39 of the file's 40 blocks, and `ln_vision`.
* Q-Former 161.8 M: the question-reading one without its word and position embeddings (23.8 M), queries and projection.
* LLaMA-7B 6,738 M: 32,000 rows; Vicuna v0's `[PAD]` adds two rows of 4,096.
* InstructBLIP-7B 7,913.2 M: transformers' class with 32,000 rows, which is ours.
* blip2-flan-t5-xl 3,877 M: transformers 5 counts FlanT5's head as tied. It is not: with it the model has 3,942 M.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.real_keys import (
    LLAMA,
    LLMS,
    OPT,
    eva_keys,
    linear,
    llama_keys,
    norm,
    qformer_keys,
    write_hub,
    write_original,
)
from torch import nn

from model_zoo.memory.sizes import PUBLISHED_SIZES
from model_zoo.registry import get_entry
from model_zoo.weights.catalogue import PUBLISHED
from model_zoo.weights.eva import build_vision
from model_zoo.weights.hub import plan_hub
from model_zoo.weights.load import plan_parts
from model_zoo.weights.qformer import build_qformer

HEADS = {"vision_heads": None, "qformer_heads": None}  # the published numbers

EXPECTED = {
    "minigpt4": 7_832_688_128,
    "instructblip": 7_913_202_432,
    "blip2": 3_942_446_592,
    "blip2_t5_xxl": 12_229_596_672,
    "blip2_opt": 3_744_679_936,
    "blip2_opt_6_7b": 7_752_738_304,
    "vpgtrans": 7_832_688_128,
    "bliva": 7_918_981_888,
}
HUB_TEXT = {
    "blip2": LLMS["google/flan-t5-xl"] | {"dense_act_fn": "gelu"},
    "blip2_t5_xxl": LLMS["google/flan-t5-xxl"] | {"dense_act_fn": "gelu"},
    "blip2_opt": OPT | {"vocab_size": 50304},
    "blip2_opt_6_7b": LLMS["facebook/opt-6.7b"] | {"vocab_size": 50304},
    "instructblip": LLAMA | {"vocab_size": 32064},
}
"""text_config of the hub conversions; their later revisions have rows for an image token."""


def count(module: nn.Module) -> int:
    """Parameters, tied ones once."""
    return sum(parameter.numel() for parameter in module.parameters())


def meta(keys: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    return {key: torch.empty(shape, device="meta") for key, shape in keys.items()}


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_the_original_files_fit_at_their_real_sizes(name: str, tmp_path: Path) -> None:
    write_original(name, tmp_path)
    connector, llm = (plan.module for plan in plan_parts(PUBLISHED[name], tmp_path, HEADS))
    assert all(parameter.is_meta for part in (connector, llm) for parameter in part.parameters())
    assert count(connector) + count(llm) == EXPECTED[name] == get_entry(name).parameters
    assert PUBLISHED_SIZES[name].parameters == EXPECTED[name]  # the memory planner's formula
    config = connector.vision.config
    assert (config.num_hidden_layers, config.num_attention_heads, config.image_size) == (39, 16, 224)
    assert connector.qformer.config.cross_attention_frequency == 2


@pytest.mark.parametrize("name", sorted(HUB_TEXT))
def test_the_hub_conversions_fit_at_their_real_sizes(name: str, tmp_path: Path) -> None:
    write_hub(tmp_path / name, HUB_TEXT[name], PUBLISHED[name].bert is not None)
    tokenizer = SimpleNamespace(pad_token="[PAD]", pad_token_id=32000) if name == "instructblip" else None
    parts = plan_hub(tmp_path / name, tokenizer, llm_config=PUBLISHED[name].llm_config).module
    assert count(parts) == EXPECTED[name]
    assert parts["llm"].config.model_type != "t5" or parts["llm"].config.dense_act_fn == "gelu"


def test_eva_has_986_million_parameters_of_which_39_blocks_are_used() -> None:
    header = meta(eva_keys())
    tower = build_vision(header, {key: header[f"norm.{key}"] for key in ("weight", "bias")}, "eva")
    assert count(tower) == 985_952_256
    last = count_keys({key: shape for key, shape in eva_keys().items() if key.startswith("blocks.39.")})
    key_bias = 39 * 1408  # zeros that the file does not have
    assert count_keys(eva_keys()) == 985_952_256 + last - key_bias  # its final norm stands for ln_vision here


def count_keys(keys: dict[str, tuple[int, ...]]) -> int:
    return sum(torch.Size(shape).numel() for shape in keys.values())


@pytest.mark.parametrize(("reads_text", "parameters"), [(False, 105_137_664), (True, 185_660_160)])
def test_the_qformer_has_its_published_size(reads_text: bool, parameters: int) -> None:
    qformer = build_qformer(meta(qformer_keys(reads_text)), "file", reads_text=reads_text)
    assert count(qformer) == parameters
    if reads_text:
        embeddings = qformer.embeddings
        tables = count(embeddings.word_embeddings) + count(embeddings.position_embeddings)
        assert (tables, parameters - tables) == (23_834_880, 161_825_280)


def test_llama_7b_has_6738_million_parameters(tmp_path: Path) -> None:
    kept = {key: shape for key, shape in llama_keys(LLAMA).items() if "inv_freq" not in key}
    assert count_keys(kept) == 6_738_415_616
    write_original("instructblip", tmp_path)
    assert count(plan_parts(PUBLISHED["instructblip"], tmp_path, HEADS)[1].module) == 6_738_415_616


@pytest.mark.parametrize(
    ("name", "theirs", "head"), [("blip2", 3_876_648_448, 32128 * 2048), ("instructblip", 7_913_202_432, 0)]
)
def test_transformers_own_classes_count_the_same_but_for_flan_t5s_head(name: str, theirs: int, head: int) -> None:
    """3,877 M and 7,913.2 M are transformers' counts at the hub's config."""
    import transformers

    family = "InstructBlip" if PUBLISHED[name].bert else "Blip2"
    text = LLAMA if name == "instructblip" else HUB_TEXT[name]
    config = getattr(transformers, f"{family}Config")(text_config=text, qformer_config={"vocab_size": 30523})
    with torch.device("meta"):
        model = getattr(transformers, f"{family}ForConditionalGeneration")(config)
    assert count(model) == theirs == EXPECTED[name] - head


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda keys: keys | linear("blocks.0.attn.k", 1408, 1408), r"unexpected .*blocks|unexpected encoder"),
        (lambda keys: {key: shape for key, shape in keys.items() if "blocks.7.mlp" not in key}, "missing"),
        (lambda keys: keys | norm("blocks.3.norm1", 1024), "misshaped"),
    ],
)
def test_a_wrong_key_at_real_size_is_named_before_anything_is_read(change, message: str) -> None:
    header = meta(change(eva_keys()))
    with pytest.raises(ValueError, match=message):
        build_vision(header, {"weight": header["norm.weight"], "bias": header["norm.bias"]}, "eva_vit_g.pth")
