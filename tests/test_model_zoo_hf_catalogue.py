"""The named entries: counted on the meta device at real sizes, shown by the commands, told apart by what they share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as tf

from model_zoo.hf.catalogue import HF_MODELS, named_entry, parameters_said

SMALL = ("smolvlm_256m", "qwen3_vl_2b")


def vision(name: str, **more: Any) -> dict[str, Any]:
    t = HF_MODELS[name].vision
    sizes = {"hidden_size": t.width, "intermediate_size": t.mlp, "num_hidden_layers": t.layers}
    return {**sizes, "num_attention_heads": t.heads, "image_size": t.pixels, "patch_size": t.patch, **more}


def text(name: str, **more: Any) -> dict[str, Any]:
    m = HF_MODELS[name].language
    sizes = {"hidden_size": m.width, "intermediate_size": m.mlp, "num_hidden_layers": m.layers, "vocab_size": m.vocab}
    heads = {"num_attention_heads": m.heads, "num_key_value_heads": m.heads * m.keys // m.inner}
    return {**sizes, **heads, "pad_token_id": 0, "tie_word_embeddings": m.tied, **more}


def siglip(name: str, **more: Any) -> Any:
    return tf.SiglipVisionConfig(**vision(name, **more), vision_use_head=False)


def llava(name: str) -> Any:
    return tf.LlavaConfig(
        vision_config=tf.CLIPVisionConfig(**vision(name, projection_dim=768)),
        text_config=tf.LlamaConfig(**text(name)),
    )


def llava_next(name: str) -> Any:
    return tf.LlavaNextConfig(
        vision_config=tf.CLIPVisionConfig(**vision(name, projection_dim=768)),
        text_config=tf.MistralConfig(**text(name)),
    )


def onevision(name: str) -> Any:
    tied = {"tie_word_embeddings": HF_MODELS[name].language.tied}
    return tf.LlavaOnevisionConfig(vision_config=siglip(name), text_config=tf.Qwen2Config(**text(name)), **tied)


def qwen(kind: str) -> Callable[[str], Any]:
    def build(name: str) -> Any:
        known = HF_MODELS[name]
        tower = vision(name, out_hidden_size=known.language.width)
        tower["depth"], tower["num_heads"] = tower.pop("num_hidden_layers"), tower.pop("num_attention_heads")
        tower.pop("image_size")
        more = {} if kind == "Qwen2_5_VL" else {"head_dim": 128}
        tied = {"tie_word_embeddings": known.language.tied}
        return getattr(tf, f"{kind}Config")(vision_config=tower, text_config=text(name, **more), **tied)

    return build


def qwen3_5(name: str) -> Any:
    config = qwen("Qwen3VL")(name)
    heads = {"num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 256}  # 4,096 wide; see the catalogue
    kept = {key: getattr(config.text_config, key) for key in ("hidden_size", "intermediate_size", "num_hidden_layers")}
    tower = config.vision_config.to_dict() | {"model_type": "qwen3_5_vision"}
    tower.pop("deepstack_visual_indexes")
    text = {**kept, **heads, "vocab_size": config.text_config.vocab_size, "tie_word_embeddings": True}
    return tf.Qwen3_5Config(vision_config=tower, text_config=text, tie_word_embeddings=True)


def internvl(name: str) -> Any:
    side, patch = (HF_MODELS[name].vision.pixels,) * 2, (14, 14)
    tower = vision(name, image_size=list(side), patch_size=list(patch), attention_bias=True)
    tied = {"tie_word_embeddings": False}
    return tf.InternVLConfig(
        vision_config=tf.InternVLVisionConfig(**tower), text_config=tf.Qwen2Config(**text(name)), **tied
    )


def smolvlm(name: str) -> Any:
    scale = 3 if name == "smolvlm2_2_2b" else 4
    return tf.SmolVLMConfig(
        vision_config=vision(name), text_config=tf.LlamaConfig(**text(name)), scale_factor=scale, pad_token_id=0,
        tie_word_embeddings=False,
    )  # fmt: skip


def paligemma(name: str) -> Any:
    width = HF_MODELS[name].language.width
    return tf.PaliGemmaConfig(
        vision_config=siglip(name),
        text_config=tf.Gemma2Config(**text(name, head_dim=256)),
        projection_dim=width,
        hidden_size=width,
    )


def gemma3(name: str) -> Any:
    return tf.Gemma3Config(vision_config=siglip(name), text_config=tf.Gemma3TextConfig(**text(name, head_dim=256)))


BUILD: dict[str, Callable[[str], Any]] = {
    "llava_1_5_7b": llava,
    "llava_next_7b": llava_next,
    "llava_onevision_7b": onevision,
    "llava_onevision_0_5b": onevision,
    "qwen2_5_vl_7b": qwen("Qwen2_5_VL"),
    "qwen3_vl_8b": qwen("Qwen3VL"),
    "qwen3_vl_2b": lambda name: qwen("Qwen3VL")(name),
    "qwen3_5_4b": qwen3_5,
    "internvl3_8b": internvl,
    "internvl3_1b": internvl,
    "smolvlm2_2_2b": smolvlm,
    "smolvlm_256m": smolvlm,
    "paligemma2_3b": paligemma,
    "gemma3_4b": gemma3,
}


@pytest.mark.parametrize(
    "name", [name if name in SMALL else pytest.param(name, marks=pytest.mark.slow) for name in HF_MODELS]
)
def test_parameters_are_those_of_the_real_sizes(name: str) -> None:
    config = BUILD[name](name)
    if name == "qwen3_vl_2b":
        config.vision_config.deepstack_visual_indexes = [5, 11, 17]
    with torch.device("meta"):
        model = tf.AutoModelForImageTextToText.from_config(config)
    model.tie_weights()
    assert sum(parameter.numel() for parameter in model.parameters()) == HF_MODELS[name].parameters
    assert HF_MODELS[name].sizes("one").parameters == pytest.approx(HF_MODELS[name].parameters, rel=0.05)


def test_a_name_says_how_many_parameters_it_has() -> None:
    assert parameters_said("hf:Qwen/Qwen2.5-VL-7B-Instruct") == 7_000_000_000
    assert parameters_said("hf:HuggingFaceTB/SmolVLM-256M-Instruct") == 256_000_000
    assert parameters_said("hf:llava-hf/llava-onevision-qwen2-0.5b-ov-hf") == 500_000_000
    assert parameters_said("hf:my/model") == 0


def test_a_hub_folder_is_its_named_entry() -> None:
    assert named_entry("hf:Qwen/Qwen3-VL-2B-Instruct") is HF_MODELS["qwen3_vl_2b"]
    assert named_entry("hf:my/model") is None
