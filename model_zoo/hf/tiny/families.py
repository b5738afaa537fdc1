"""Tiny configurations and processors of the families that most people run: what each needs beside sizes and texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import transformers

from model_zoo.hf.tiny.parts import CAPITAL, GEMMA, TURN, USER_ASSISTANT, text_config, tokenizer, vision_config

tf: Any = transformers  # its annotations do not know all that its configurations take


def llava() -> tuple[Any, Any]:
    words = tokenizer(metaspace=True, image_token="<image>")
    config = tf.LlavaConfig(
        vision_config=tf.CLIPVisionConfig(**vision_config(projection_dim=16)),
        text_config=tf.LlamaConfig(**text_config(words)),
        image_token_id=words.image_token_id,
        image_seq_length=16,
    )
    images = tf.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    return config, tf.LlavaProcessor(
        images, words, 7, "default", USER_ASSISTANT, "<image>", num_additional_image_tokens=1
    )


def llava_onevision() -> tuple[Any, Any]:
    words = tokenizer("<|im_start|>", "<|im_end|>", image_token="<image>", video_token="<video>")
    pinpoints = [[28 * a, 28 * b] for a in (1, 2, 3) for b in (1, 2, 3)]
    config = tf.LlavaOnevisionConfig(
        vision_config=tf.SiglipVisionConfig(**vision_config(), vision_use_head=False),
        text_config=tf.Qwen2Config(**text_config(words)),
        image_token_id=words.image_token_id,
        video_token_id=words.video_token_id,
        image_grid_pinpoints=pinpoints,
        vision_aspect_ratio="anyres_max_9",
    )
    size = {"height": 28, "width": 28}
    images = tf.LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=pinpoints)
    video = tf.LlavaOnevisionVideoProcessor(size=size)
    template = TURN.replace("IMAGE", "<image>\n")
    processor = tf.LlavaOnevisionProcessor(images, words, video, 16, "full", template)
    return config, processor


QWEN: dict[str, Any] = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
QWEN_WORDS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")


def qwen(kind: str, processor: str, patch: int, vision: dict[str, Any], text: dict[str, Any], most: int) -> Any:
    words = tokenizer(*QWEN_WORDS, **QWEN)
    ids = {f"{name}_id": words.convert_tokens_to_ids(token) for name, token in QWEN.items()}
    ids |= {f"vision_{x}_token_id": words.convert_tokens_to_ids(f"<|vision_{x}|>") for x in ("start", "end")}
    tower = {"depth": 3, "hidden_size": 32, "num_heads": 2, "patch_size": patch, "temporal_patch_size": 2}
    sections = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
    config = getattr(tf, kind)(
        vision_config={**tower, "spatial_merge_size": 2, "intermediate_size": 32, **vision},
        text_config=text_config(words, **{"rope_parameters": sections, **text}),
        **ids,
    )
    size = {"shortest_edge": (2 * patch) ** 2, "longest_edge": most}
    images = tf.Qwen2VLImageProcessor(size=size, patch_size=patch, temporal_patch_size=2, merge_size=2)
    name = "Qwen3VLVideoProcessor" if processor.startswith("Qwen3") else "Qwen2VLVideoProcessor"
    video = getattr(tf, name)(patch_size=patch, temporal_patch_size=2, merge_size=2)
    template = TURN.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    return config, getattr(tf, processor)(images, words, video, chat_template=template)


def qwen2_5_vl() -> tuple[Any, Any]:
    vision = {"out_hidden_size": 32, "window_size": 28, "fullatt_block_indexes": [2]}
    return qwen("Qwen2_5_VLConfig", "Qwen2_5_VLProcessor", 7, vision, {}, 28 * 28 * 16)


def qwen3_vl() -> tuple[Any, Any]:
    vision = {"out_hidden_size": 32, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]}
    text = {"head_dim": 8}
    return qwen("Qwen3VLConfig", "Qwen3VLProcessor", 8, vision, text, 32 * 32 * 16)


def internvl() -> tuple[Any, Any]:
    named: dict[str, Any] = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
    }
    words = tokenizer("<|im_start|>", "<|im_end|>", **named, video_token="<video>")
    tower = vision_config(image_size=[28, 28], patch_size=[7, 7])
    config = tf.InternVLConfig(
        vision_config=tf.InternVLVisionConfig(**tower),
        text_config=tf.Qwen2Config(**text_config(words)),
        image_token_id=words.context_image_token_id,
        image_seq_length=4,
        downsample_ratio=0.5,
    )
    images = tf.GotOcr2ImageProcessor(size={"height": 28, "width": 28}, crop_to_patches=True, max_patches=12)
    video = tf.InternVLVideoProcessor(size={"height": 28, "width": 28})
    template = TURN.replace("IMAGE", "<IMG_CONTEXT>\n")
    return config, tf.InternVLProcessor(images, words, video, 4, template)


IDEFICS_WORDS = ("<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<global-img>")
ROWS = [f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)]


def idefics3() -> tuple[Any, Any]:
    words = tokenizer(*IDEFICS_WORDS, *ROWS, image_token="<image>")
    config = tf.Idefics3Config(
        vision_config=vision_config(),
        text_config=tf.LlamaConfig(**text_config(words)),
        image_token_id=words.image_token_id,
        scale_factor=2,
        pad_token_id=0,
    )
    images = tf.Idefics3ImageProcessor(size={"longest_edge": 56}, max_image_size={"longest_edge": 28})
    return config, tf.Idefics3Processor(images, words, 4, CAPITAL)


def smolvlm() -> tuple[Any, Any]:
    words = tokenizer(*IDEFICS_WORDS, *ROWS, image_token="<image>", video_token="<video>")
    config = tf.SmolVLMConfig(
        vision_config=vision_config(),
        text_config=tf.LlamaConfig(**text_config(words)),
        image_token_id=words.image_token_id,
        scale_factor=2,
        pad_token_id=0,
    )
    images = tf.SmolVLMImageProcessor(size={"longest_edge": 56}, max_image_size={"longest_edge": 28})
    video = tf.SmolVLMVideoProcessor(size={"longest_edge": 56}, max_image_size={"longest_edge": 28})
    return config, tf.SmolVLMProcessor(images, words, video, 4, CAPITAL)


def paligemma() -> tuple[Any, Any]:
    words = tokenizer(metaspace=True, image_token="<image>")
    images = tf.SiglipImageProcessor(size={"height": 28, "width": 28})
    images.image_seq_length = 16
    processor = tf.PaliGemmaProcessor(images, words)  # adds a thousand place tokens
    text = text_config(words, head_dim=8, sliding_window=6, query_pre_attn_scalar=8, vocab_size=len(words))
    config = tf.PaliGemmaConfig(
        vision_config=tf.SiglipVisionConfig(**vision_config(), vision_use_head=False),
        text_config=tf.Gemma2Config(**text, attn_logit_softcapping=50.0, final_logit_softcapping=5.0),
        image_token_id=words.image_token_id,
        projection_dim=32,
        hidden_size=32,
    )
    return config, processor


def gemma3() -> tuple[Any, Any]:
    named: dict[str, Any] = {
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
    }
    words = tokenizer("<start_of_turn>", "<end_of_turn>", **named)
    text = text_config(words, head_dim=8, sliding_window=6, num_hidden_layers=4, query_pre_attn_scalar=8)
    layers = ["sliding_attention", "full_attention"] * 2
    config = tf.Gemma3Config(
        vision_config=tf.SiglipVisionConfig(**vision_config(), vision_use_head=False),
        text_config=tf.Gemma3TextConfig(**text, layer_types=layers, use_bidirectional_attention=False),
        mm_tokens_per_image=4,
        boi_token_index=words.boi_token_id,
        eoi_token_index=words.eoi_token_id,
        image_token_index=words.image_token_id,
        image_token_id=words.image_token_id,
    )
    images = tf.Gemma3ImageProcessor(size={"height": 28, "width": 28})
    return config, tf.Gemma3Processor(images, words, GEMMA.replace("IMAGE", "<start_of_image>"), 4)


TINY: dict[str, Callable[[], tuple[Any, Any]]] = {
    build.__name__: build
    for build in (
        llava,
        llava_onevision,
        qwen2_5_vl,
        qwen3_vl,
        internvl,
        idefics3,
        smolvlm,
        paligemma,
        gemma3,
    )
}
"""Family -> () -> (configuration, processor)."""
