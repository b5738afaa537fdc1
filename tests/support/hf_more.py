"""Tiny configurations and processors of the other families."""

from __future__ import annotations

from typing import Any

import transformers as tf

from model_zoo.hf.tiny.families import qwen
from model_zoo.hf.tiny.parts import GEMMA, INSTRUCT, TURN, text_config, tokenizer, vision_config
from support.hf_parts import Family


def llava_next() -> tuple[Any, Any]:
    words = tokenizer("[INST]", "[/INST]", metaspace=True, image_token="<image>")
    pinpoints = [[28 * a, 28 * b] for a, b in ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))]
    config = tf.LlavaNextConfig(
        vision_config=tf.CLIPVisionConfig(**vision_config(projection_dim=16)),
        text_config=tf.MistralConfig(**text_config(words)),
        image_token_id=words.image_token_id,
        image_grid_pinpoints=pinpoints,
    )
    size = {"crop_size": {"height": 28, "width": 28}, "size": {"shortest_edge": 28}}
    images = tf.LlavaNextImageProcessor(**size, image_grid_pinpoints=pinpoints)
    template = INSTRUCT.replace("[IMG]", "<image>\n")
    return config, tf.LlavaNextProcessor(images, words, 7, "default", template, "<image>", 1)


def qwen2_vl() -> tuple[Any, Any]:
    vision = {"embed_dim": 32, "hidden_size": 32, "mlp_ratio": 1}
    return qwen("Qwen2VLConfig", "Qwen2VLProcessor", 7, vision, {}, 28 * 28 * 16)


def qwen3_vl_moe() -> tuple[Any, Any]:
    vision = {"out_hidden_size": 32, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]}
    text = {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
    return qwen("Qwen3VLMoeConfig", "Qwen3VLProcessor", 8, vision, text, 32 * 32 * 16)


def qwen3_5() -> tuple[Any, Any]:
    vision = {"out_hidden_size": 32, "num_position_embeddings": 16}
    linear = {f"linear_{kind}_head_dim": 8 for kind in ("key", "value")} | {"linear_num_key_heads": 2}
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1], "partial_rotary_factor": 0.5}
    text = {"head_dim": 16, **linear, "linear_num_value_heads": 2, "num_hidden_layers": 4, "rope_parameters": rope}
    return qwen("Qwen3_5Config", "Qwen3VLProcessor", 8, vision, text, 32 * 32 * 16)


def gemma4() -> tuple[Any, Any]:
    named = {"boi_token": "<|image>", "eoi_token": "<image|>", "image_token": "<|image|>"}
    audio = {"boa_token": "<|audio>", "eoa_token": "<audio|>", "audio_token": "<|audio|>"}
    words = tokenizer("<start_of_turn>", "<end_of_turn>", "<|video|>", **named, **audio)
    text = text_config(words, head_dim=8, sliding_window=6, num_hidden_layers=4, global_head_dim=16)
    layers = ["sliding_attention", "full_attention"] * 2
    per_layer = {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": len(words)}
    config = tf.Gemma4Config(
        text_config=tf.Gemma4TextConfig(**text, layer_types=layers, **per_layer, final_logit_softcapping=5.0),
        vision_config=tf.Gemma4VisionConfig(
            hidden_size=24,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=12,
            patch_size=4,
            position_embedding_size=256,
            pooling_kernel_size=3,
        ),
        audio_config=None,
        boi_token_id=words.boi_token_id,
        eoi_token_id=words.eoi_token_id,
        image_token_id=words.image_token_id,
        audio_token_id=words.audio_token_id,
        video_token_id=words.convert_tokens_to_ids("<|video|>"),
    )
    images = tf.Gemma4ImageProcessor(patch_size=4, max_soft_tokens=70, pooling_kernel_size=3)
    video = tf.Gemma4VideoProcessor(patch_size=4, max_soft_tokens=70, pooling_kernel_size=3)
    sound = tf.Gemma4AudioFeatureExtractor()
    return config, tf.Gemma4Processor(sound, images, words, video, GEMMA.replace("IMAGE", "<|image|>"), 70)


PIXTRAL = {"image_token": "[IMG]", "image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]"}


def _pixtral(merge: int) -> tuple[Any, Any, Any]:
    words = tokenizer("[INST]", "[/INST]", **PIXTRAL)
    tower = tf.PixtralVisionConfig(**vision_config(image_size=56, head_dim=12))
    images = tf.PixtralImageProcessor(size={"longest_edge": 56}, patch_size={"height": 7, "width": 7})
    processor = tf.PixtralProcessor(images, words, 7, merge, INSTRUCT)
    return words, tower, processor


def mistral3() -> tuple[Any, Any]:
    words, tower, processor = _pixtral(2)
    config = tf.Mistral3Config(
        vision_config=tower,
        text_config=tf.MistralConfig(**text_config(words, head_dim=8, sliding_window=None)),
        image_token_id=words.image_token_id,
    )
    return config, processor


def pixtral() -> tuple[Any, Any]:
    words, tower, processor = _pixtral(1)
    config = tf.LlavaConfig(
        vision_config=tower,
        text_config=tf.MistralConfig(**text_config(words, head_dim=8, sliding_window=None)),
        image_token_id=words.image_token_id,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    return config, processor


AYA = ("<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>", "TILE", "TILE_GLOBAL")


def _cohere_text(words: Any) -> Any:
    text = text_config(words, num_hidden_layers=4, sliding_window=6)
    return tf.Cohere2Config(**text, layer_types=["sliding_attention"] * 3 + ["full_attention"], logit_scale=0.5)


def aya_vision() -> tuple[Any, Any]:
    words = tokenizer("<|im_start|>", "<|im_end|>", *AYA, image_token="<image>")
    config = tf.AyaVisionConfig(
        vision_config=tf.SiglipVisionConfig(**vision_config(), vision_use_head=False),
        text_config=_cohere_text(words),
        image_token_id=words.convert_tokens_to_ids("<|IMG_PATCH|>"),
        downsample_factor=2,
    )
    images = tf.GotOcr2ImageProcessor(size={"height": 28, "width": 28}, crop_to_patches=True, max_patches=12)
    template = TURN.replace("IMAGE", "<image>")
    return config, tf.AyaVisionProcessor(images, words, 7, 28, downsample_factor=2, chat_template=template)


def cohere2_vision() -> tuple[Any, Any]:
    named = {"boi_token": AYA[0], "eoi_token": AYA[1], "image_token": AYA[2], "img_line_break_token": AYA[3]}
    words = tokenizer("<|im_start|>", "<|im_end|>", **named)
    config = tf.Cohere2VisionConfig(
        vision_config=tf.SiglipVisionConfig(**vision_config(), vision_use_head=False),
        text_config=_cohere_text(words),
        image_token_id=words.image_token_id,
        downsample_factor=2,
        alignment_intermediate_size=32,
    )
    images = tf.Cohere2VisionImageProcessor(size={"height": 28, "width": 28}, patch_size=7, max_patches=12)
    images.patch_size = 2  # what the processor takes as tokens a side
    return config, tf.Cohere2VisionProcessor(images, words, TURN.replace("IMAGE", AYA[2]))


def _glm(kind: str, processor: str) -> tuple[Any, Any]:
    marks = ("<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>")
    words = tokenizer("<|im_start|>", "<|im_end|>", *marks, image_token="<|image|>", video_token="<|video|>")
    ids = dict(zip(("image_start", "image_end", "video_start", "video_end"), marks, strict=True))
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
    config = getattr(tf, kind)(
        vision_config=tf.Glm4vVisionConfig(
            depth=2,
            hidden_size=32,
            num_heads=2,
            image_size=28,
            patch_size=7,
            out_hidden_size=32,
            intermediate_size=32,
        ),
        text_config=tf.Glm4vTextConfig(**text_config(words, rope_parameters=rope)),
        image_token_id=words.image_token_id,
        video_token_id=words.video_token_id,
        **{f"{key}_token_id": words.convert_tokens_to_ids(mark) for key, mark in ids.items()},
    )
    pieces = {"patch_size": 7, "size": {"shortest_edge": 14 * 14 * 2, "longest_edge": 28 * 28 * 16}}
    images = getattr(tf, f"{processor}ImageProcessor")(**pieces)
    video = getattr(tf, f"{processor}VideoProcessor")(**pieces)
    template = TURN.replace("IMAGE", "<|begin_of_image|><|image|><|end_of_image|>")
    return config, getattr(tf, f"{processor}Processor")(images, words, video, chat_template=template)


def glm4v() -> tuple[Any, Any]:
    return _glm("Glm4vConfig", "Glm4v")


def glm46v() -> tuple[Any, Any]:
    return _glm("Glm46VConfig", "Glm46V")


def ovis2() -> tuple[Any, Any]:
    marks = ("<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>")
    words = tokenizer("<|im_start|>", "<|im_end|>", "<image>", "<IMG_ATOM>", *marks)
    config = tf.Ovis2Config(
        vision_config=tf.Ovis2VisionConfig(**vision_config(), vocab_size=40, hidden_stride=2),
        text_config=tf.Qwen2Config(**text_config(words)),
        image_token_id=words.convert_tokens_to_ids("<IMG_ATOM>"),
        visual_indicator_token_ids=words.convert_tokens_to_ids(list(marks)),
        vocab_size=len(words),
        hidden_size=32,
    )
    images = tf.Ovis2ImageProcessor(size={"height": 28, "width": 28}, crop_to_patches=True, max_patches=9)
    return config, tf.Ovis2Processor(images, words, TURN.replace("IMAGE", "<image>\n"), image_seq_length=4)


def janus() -> tuple[Any, Any]:
    named = {"image_token": "<image_placeholder>", "boi_token": "<begin_of_image>", "eoi_token": "<end_of_image>"}
    words = tokenizer("<|im_start|>", "<|im_end|>", **named)
    tower = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 7}
    config = tf.JanusConfig(
        vision_config=tf.JanusVisionConfig(**tower, mlp_ratio=1.5, projection_dim=32, num_image_tokens=16),
        text_config=tf.LlamaConfig(**text_config(words)),
        vq_config=tf.JanusVQVAEConfig(
            embed_dim=4,
            num_embeddings=8,
            latent_channels=32,
            base_channels=32,
            channel_multiplier=[1, 1],
            num_res_blocks=1,
            projection_dim=32,
            image_token_embed_dim=32,
        ),
        image_token_id=words.image_token_id,
    )
    images = tf.JanusImageProcessor(size={"height": 28, "width": 28}, min_size=14)
    template = TURN.replace("IMAGE", "<image_placeholder>\n")
    return config, tf.JanusProcessor(images, words, template, num_image_tokens=16)


def deepseek_vl() -> tuple[Any, Any]:
    words = tokenizer("<|im_start|>", "<|im_end|>", image_token="<image_placeholder>")
    config = tf.DeepseekVLConfig(
        vision_config=tf.SiglipVisionConfig(**vision_config(), vision_use_head=False),
        text_config=tf.LlamaConfig(**text_config(words)),
        image_token_id=words.image_token_id,
    )
    images = tf.DeepseekVLImageProcessor(size={"height": 28, "width": 28}, min_size=14)
    template = TURN.replace("IMAGE", "<image_placeholder>")
    return config, tf.DeepseekVLProcessor(images, words, template, num_image_tokens=16)


def granite4_vision() -> tuple[Any, Any]:
    words = tokenizer("<|im_start|>", "<|im_end|>", image_token="<image>")
    pinpoints = [[28 * a, 28 * b] for a, b in ((1, 2), (2, 1), (2, 2))]
    config = tf.Granite4VisionConfig(
        vision_config=tf.SiglipVisionConfig(**vision_config(hidden_size=64), vision_use_head=False),
        text_config=tf.Granite4VisionTextConfig(**text_config(words, num_hidden_layers=4), logits_scaling=2.0),
        qformer_config=tf.Blip2QFormerConfig(
            num_hidden_layers=1,
            intermediate_size=32,
            cross_attention_frequency=1,
            use_qformer_text_input=False,
            max_position_embeddings=64,
        ),
        image_token_id=words.image_token_id,
        image_grid_pinpoints=pinpoints,
        image_seq_length=16,
        downsample_rate="1/2",
        deepstack_layer_map=[[-1, 0], [-2, 1]],
        spatial_target_layers=[2, 3],
        vision_feature_select_strategy="full",
    )
    size = {"crop_size": {"height": 28, "width": 28}, "size": {"height": 28, "width": 28}}
    images = tf.LlavaNextImageProcessor(**size, image_grid_pinpoints=pinpoints)
    template = TURN.replace("IMAGE", "<image>\n")
    processor = tf.Granite4VisionProcessor(images, words, 7, "full", template, "<image>", 0, "1/2")
    return config, processor


def minicpmv4_6() -> tuple[Any, Any]:
    marks = {f"{kind}_start_token": f"<{kind}>" for kind in ("image", "slice", "image_id")}
    marks |= {f"{kind}_end_token": f"</{kind}>" for kind in ("image", "slice", "image_id")}
    named = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
    words = tokenizer("<|im_start|>", "<|im_end|>", **marks, **named)
    config = tf.MiniCPMV4_6Config(
        vision_config=tf.MiniCPMV4_6VisionConfig(**vision_config(image_size=56), insert_layer_id=1),
        text_config=tf.Qwen2Config(**text_config(words)),
        image_token_id=words.image_token_id,
        video_token_id=words.video_token_id,
        insert_layer_id=1,
        image_size=56,
    )
    images = tf.MiniCPMV4_6ImageProcessor(scale_resolution=56, patch_size=7)
    video = tf.MiniCPMV4_6VideoProcessor(scale_resolution=56, patch_size=7)
    parts = {"image_processor": images, "tokenizer": words, "video_processor": video}
    return config, tf.MiniCPMV4_6Processor(**parts, chat_template=TURN.replace("IMAGE", "<|image_pad|>"))


def lfm2_vl() -> tuple[Any, Any]:
    marks = {"image_start_token": "<|image_start|>", "image_end_token": "<|image_end|>", "image_token": "<image>"}
    words = tokenizer("<|im_start|>", "<|im_end|>", **marks, image_thumbnail="<|img_thumbnail|>")
    tower = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = tf.Lfm2VlConfig(
        vision_config=tf.Siglip2VisionConfig(**tower, num_patches=16, patch_size=7, vision_use_head=False),
        text_config=tf.Lfm2Config(
            **text_config(words, num_hidden_layers=4), layer_types=["conv", "full_attention"] * 2, block_multiple_of=8
        ),
        image_token_id=words.image_token_id,
        projector_hidden_size=32,
        downsample_factor=2,
    )
    images = tf.Lfm2VlImageProcessor(
        tile_size=28, encoder_patch_size=7, min_image_tokens=4, max_image_tokens=16, max_num_patches=64
    )
    return config, tf.Lfm2VlProcessor(images, words, TURN.replace("IMAGE", "<image>"))


def mllama() -> tuple[Any, Any]:
    words = tokenizer("<|im_start|>", "<|im_end|>", image_token="<|image|>")
    text = text_config(words, num_hidden_layers=4, cross_attention_layers=[1, 3])
    text |= {"vocab_size": len(words), "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
    config = tf.MllamaConfig(
        vision_config=tf.MllamaVisionConfig(
            hidden_size=24,
            intermediate_size=32,
            num_hidden_layers=2,
            num_global_layers=1,
            attention_heads=2,
            vision_output_dim=72,
            image_size=28,
            patch_size=7,
            intermediate_layers_indices=[0, 1],
            supported_aspect_ratios=[[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]],
        ),
        text_config=tf.MllamaTextConfig(**text),
        image_token_id=words.image_token_id,
    )
    images = tf.MllamaImageProcessor(size={"height": 28, "width": 28}, max_image_tiles=4)
    return config, tf.MllamaProcessor(images, words, "{{ bos_token }}" + TURN.replace("IMAGE", "<|image|>"))


def molmo2() -> tuple[Any, Any]:
    marks = ("<im_patch>", "<im_col>", "<im_start>", "<low_res_im_start>", "<frame_start>", "<im_end>", "<frame_end>")
    named = {"image_token": "<|image|>", "video_token": "<|video|>"}
    words = tokenizer("<|im_start|>", "<|im_end|>", *marks, "<im_low>", **named)
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 12, "hidden_size": 24}
    ids = [words.convert_tokens_to_ids(mark) for mark in marks]
    names = ("image_patch_id", "image_start_token_id", "low_res_image_start_token_id", "image_end_token_id")
    text = text_config(words, head_dim=8, additional_vocab_size=8)
    config = tf.Molmo2Config(
        vision_config=tf.Molmo2VisionConfig(
            **heads, intermediate_size=32, num_hidden_layers=3, image_size=[28, 28], patch_size=7
        ),
        adapter_config=tf.models.molmo2.Molmo2AdapterConfig(
            **heads, vision_feature_layer=[-1, -3], intermediate_size=32, text_hidden_size=32
        ),
        text_config=tf.Molmo2TextConfig(**text),
        **dict(zip(names, (ids[0], ids[2], ids[3], ids[5]), strict=True)),
    )
    sizes = {"size": {"height": 28, "width": 28}, "patch_size": 7}
    images = tf.Molmo2ImageProcessor(**sizes, max_crops=4, overlap_margins=[1, 1])
    parts = {"image_processor": images, "video_processor": tf.Molmo2VideoProcessor(**sizes), "tokenizer": words}
    return config, tf.Molmo2Processor(**parts, chat_template=TURN.replace("IMAGE", "<|image|>"))


MORE: dict[str, Family] = {
    "llava_next": Family(llava_next, 28, 40),
    "qwen2_vl": Family(qwen2_vl, 56, 40),
    "qwen3_vl_moe": Family(qwen3_vl_moe, 64, 40),
    "qwen3_5": Family(qwen3_5, 64, 40),
    "gemma4": Family(gemma4, None, 40),
    "mistral3": Family(mistral3, 56, 40),
    "pixtral": Family(pixtral, 56, 40),
    "aya_vision": Family(aya_vision, 28, 40),
    "cohere2_vision": Family(cohere2_vision, 28, 40),
    "glm4v": Family(glm4v, 56, 40),
    "glm46v": Family(glm46v, 56, 40),
    "ovis2": Family(ovis2, 28, 40),
    "janus": Family(janus, 28, 40),
    "deepseek_vl": Family(deepseek_vl, 28, 40),
    "granite4_vision": Family(granite4_vision, 28, 40),
    "minicpmv4_6": Family(minicpmv4_6, 56, 40),
    "lfm2_vl": Family(lfm2_vl, 56, 40),
    "mllama": Family(mllama, 28, 40),
    "molmo2": Family(molmo2, 28, 40),
}
