"""Names and shapes of the published checkpoints, written out by hand; files of them hold no data (meta tensors)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from model_zoo.weights.catalogue import PUBLISHED

Keys = dict[str, tuple[int, ...]]

LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "intermediate_size": 11008,
    "num_hidden_layers": 32, "num_attention_heads": 32, "max_position_embeddings": 2048, "vocab_size": 32000,
    "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
}  # fmt: skip
T5 = {
    "model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "d_ff": 5120, "d_kv": 64, "d_model": 2048,
    "num_layers": 24, "num_decoder_layers": 24, "num_heads": 32, "feed_forward_proj": "gated-gelu",
    "vocab_size": 32128, "tie_word_embeddings": False, "is_encoder_decoder": True, "decoder_start_token_id": 0,
}  # fmt: skip
OPT = {
    "model_type": "opt", "architectures": ["OPTForCausalLM"], "hidden_size": 2560, "ffn_dim": 10240,
    "num_hidden_layers": 32, "num_attention_heads": 32, "word_embed_proj_dim": 2560, "vocab_size": 50272,
    "max_position_embeddings": 2048, "do_layer_norm_before": True,
}  # fmt: skip
LLMS = {
    "model_weights/vicuna-7b-v0": LLAMA | {"vocab_size": 32001},
    "lmsys/vicuna-7b-v1.1": LLAMA,
    "google/flan-t5-xl": T5,
    "google/flan-t5-xxl": T5 | {"d_ff": 10240, "d_model": 4096, "num_heads": 64},
    "facebook/opt-2.7b": OPT,
    "facebook/opt-6.7b": OPT | {"hidden_size": 4096, "ffn_dim": 16384, "word_embed_proj_dim": 4096},
}
"""config.json of each LLM's hub folder."""


def linear(name: str, out: int, into: int, bias: bool = True) -> Keys:
    return {f"{name}.weight": (out, into)} | ({f"{name}.bias": (out,)} if bias else {})


def norm(name: str, width: int) -> Keys:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def eva_keys(width: int = 1408, hidden: int = 6144, blocks: int = 40) -> Keys:
    """`eva_vit_g.pth`: one block more than is used, and a final norm that is not."""
    keys = {"cls_token": (1, 1, width), "pos_embed": (1, 257, width)}
    keys |= {"patch_embed.proj.weight": (width, 3, 14, 14), "patch_embed.proj.bias": (width,)} | norm("norm", width)
    for n in range(blocks):
        block = f"blocks.{n}"
        keys |= norm(f"{block}.norm1", width) | norm(f"{block}.norm2", width)
        keys |= {f"{block}.attn.q_bias": (width,), f"{block}.attn.v_bias": (width,)}
        keys |= linear(f"{block}.attn.qkv", 3 * width, width, bias=False) | linear(f"{block}.attn.proj", width, width)
        keys |= linear(f"{block}.mlp.fc1", hidden, width) | linear(f"{block}.mlp.fc2", width, hidden)
    return keys


def qformer_keys(reads_text: bool, width: int = 768, tower: int = 1408) -> Keys:
    """What LAVIS saves of Q-Former, queries and ln_vision; [DEC] makes the vocabulary 30,523."""
    keys = {"query_tokens": (1, 32, width)} | norm("ln_vision", tower)
    bert = norm("embeddings.LayerNorm", width) | {"embeddings.position_ids": (1, 512)}
    if reads_text:
        bert |= {"embeddings.word_embeddings.weight": (30523, width)}
        bert |= {"embeddings.position_embeddings.weight": (512, width)}
    for n in range(12):
        layer = f"encoder.layer.{n}"
        for kind, source in (("attention", width), *((("crossattention", tower),) if n % 2 == 0 else ())):
            bert |= linear(f"{layer}.{kind}.self.query", width, width)
            bert |= linear(f"{layer}.{kind}.self.key", width, source)
            bert |= linear(f"{layer}.{kind}.self.value", width, source)
            bert |= linear(f"{layer}.{kind}.output.dense", width, width)
            bert |= norm(f"{layer}.{kind}.output.LayerNorm", width)
        for end in ("_query", *(("",) if reads_text else ())):
            bert |= linear(f"{layer}.intermediate{end}.dense", 3072, width)
            bert |= linear(f"{layer}.output{end}.dense", width, 3072) | norm(f"{layer}.output{end}.LayerNorm", width)
    return keys | {f"Qformer.bert.{key}": shape for key, shape in bert.items()}


def llama_keys(config: dict[str, Any]) -> Keys:
    """As transformers 4 saved them, rotary buffers included."""
    width, hidden, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    keys = {"model.embed_tokens.weight": (vocab, width), "lm_head.weight": (vocab, width)}
    keys |= {"model.norm.weight": (width,)}
    for n in range(config["num_hidden_layers"]):
        layer = f"model.layers.{n}"
        for name in "qkvo":
            keys |= linear(f"{layer}.self_attn.{name}_proj", width, width, bias=False)
        keys |= {f"{layer}.self_attn.rotary_emb.inv_freq": (width // config["num_attention_heads"] // 2,)}
        for name in ("gate", "up"):
            keys |= linear(f"{layer}.mlp.{name}_proj", hidden, width, bias=False)
        keys |= linear(f"{layer}.mlp.down_proj", width, hidden, bias=False)
        keys |= {f"{layer}.{name}_layernorm.weight": (width,) for name in ("input", "post_attention")}
    return keys


def opt_keys(config: dict[str, Any]) -> Keys:
    """The base model only, without the tied head, as OPT's hub folders have it."""
    width, hidden = config["hidden_size"], config["ffn_dim"]
    keys = {"decoder.embed_tokens.weight": (config["vocab_size"], width)}
    keys |= {"decoder.embed_positions.weight": (config["max_position_embeddings"] + 2, width)}
    keys |= norm("decoder.final_layer_norm", width)
    for n in range(config["num_hidden_layers"]):
        layer = f"decoder.layers.{n}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            keys |= linear(f"{layer}.self_attn.{name}", width, width)
        keys |= norm(f"{layer}.self_attn_layer_norm", width) | norm(f"{layer}.final_layer_norm", width)
        keys |= linear(f"{layer}.fc1", hidden, width) | linear(f"{layer}.fc2", width, hidden)
    return keys


def t5_keys(config: dict[str, Any]) -> Keys:
    """FlanT5 (v1.1: gated, head of its own), its shared embedding under three names."""
    width, vocab = config["d_model"], config["vocab_size"]
    keys = {f"{name}.weight": (vocab, width) for name in ("shared", "lm_head")}
    for stack in ("encoder", "decoder"):
        keys |= {f"{stack}.embed_tokens.weight": (vocab, width), f"{stack}.final_layer_norm.weight": (width,)}
        for n in range(config["num_layers"]):
            keys |= t5_block(f"{stack}.block.{n}.layer", config, decoder=stack == "decoder")
        bias = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        keys |= {bias: (32, config["num_heads"])}
    return keys


def t5_block(layer: str, config: dict[str, Any], *, decoder: bool) -> Keys:
    width, inner, hidden = config["d_model"], config["num_heads"] * config["d_kv"], config["d_ff"]
    kinds = ["SelfAttention", *(["EncDecAttention"] if decoder else [])]
    keys = {f"{layer}.{n}.layer_norm.weight": (width,) for n in range(len(kinds) + 1)}
    for n, kind in enumerate(kinds):
        for name in "qkv":
            keys |= linear(f"{layer}.{n}.{kind}.{name}", inner, width, bias=False)
        keys |= linear(f"{layer}.{n}.{kind}.o", width, inner, bias=False)
    last = f"{layer}.{len(kinds)}.DenseReluDense"
    for name in ("wi_0", "wi_1"):
        keys |= linear(f"{last}.{name}", hidden, width, bias=False)
    return keys | linear(f"{last}.wo", width, hidden, bias=False)


def llm_keys(config: dict[str, Any]) -> Keys:
    return {"llama": llama_keys, "t5": t5_keys, "opt": opt_keys}[config["model_type"]](config)


def save_meta(keys: Keys, path: Path, *, wrap: bool = False) -> None:
    """A checkpoint file of those names and shapes that holds no data: it can be planned, not loaded."""
    tensors = {key: torch.empty(shape, device="meta") for key, shape in keys.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": tensors} if wrap else tensors, path)


def write_original(name: str, root: Path) -> None:
    """All original files of a published MLLM but its tokenizers, without data."""
    known, config = PUBLISHED[name], LLMS[PUBLISHED[name].llm.path]
    width = config.get("hidden_size", config.get("d_model"))
    save_meta(eva_keys(), root / known.vision.path)
    first, *rest = known.checkpoints
    ends = linear(known.projection, width, 768)
    if known.patch_projection:
        ends |= linear(known.patch_projection, width, 1408)
    if rest:  # MiniGPT-4: the projection is a file of its own, the other one holds a projection that is not used
        save_meta(ends, root / rest[0].path, wrap=True)
        ends = linear("t5_proj", 4096, 768)
    save_meta(qformer_keys(known.bert is not None) | ends, root / first.path, wrap=True)
    write_llm(root / known.llm.path, config)


def write_llm(folder: Path, config: dict[str, Any]) -> None:
    """An LLM folder in two shards with an index."""
    keys = llm_keys(config)
    names = [f"pytorch_model-0000{n}-of-00002.bin" for n in (1, 2)]
    where = {key: names[n * 2 // len(keys)] for n, key in enumerate(keys)}
    for name in names:
        save_meta({key: shape for key, shape in keys.items() if where[key] == name}, folder / name)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))
    (folder / "config.json").write_text(json.dumps(config))


def hub_keys(config: dict[str, Any], reads_text: bool) -> Keys:
    """A Hugging Face conversion of EVA ViT-g, Q-Former and an LLM."""
    width = config.get("hidden_size", config.get("d_model"))
    keys = {"vision_model.embeddings.class_embedding": (1, 1, 1408)} | norm("vision_model.post_layernorm", 1408)
    keys |= {"vision_model.embeddings.position_embedding": (1, 257, 1408)}
    keys |= {"vision_model.embeddings.patch_embedding.weight": (1408, 3, 14, 14)}
    keys |= {"vision_model.embeddings.patch_embedding.bias": (1408,)}
    for n in range(39):
        layer = f"vision_model.encoder.layers.{n}"
        keys |= norm(f"{layer}.layer_norm1", 1408) | norm(f"{layer}.layer_norm2", 1408)
        keys |= linear(f"{layer}.self_attn.qkv", 4224, 1408) | linear(f"{layer}.self_attn.projection", 1408, 1408)
        keys |= linear(f"{layer}.mlp.fc1", 6144, 1408) | linear(f"{layer}.mlp.fc2", 1408, 6144)
    norms = "qformer.embeddings.layernorm." if reads_text else "qformer.layernorm."
    for key, shape in qformer_keys(reads_text).items():
        if key == "query_tokens" or (key.startswith("Qformer.") and (reads_text or "position_ids" not in key)):
            key = key.replace("Qformer.bert.", "qformer.").replace("qformer.embeddings.LayerNorm.", norms)
            keys[key.replace("attention.self.", "attention.attention.")] = shape
    llm = llm_keys(config)
    if config["model_type"] == "opt":
        llm = {f"model.{key}": shape for key, shape in llm.items()}
        llm["lm_head.weight"] = llm["model.decoder.embed_tokens.weight"]
    keys |= linear("language_projection", width, 768)
    return keys | {f"language_model.{key}": shape for key, shape in llm.items()}


def write_hub(folder: Path, text: dict[str, Any], reads_text: bool) -> None:
    """A hub folder with config.json as found there: sub-configs state only what differs from their defaults."""
    config = {
        "model_type": "instructblip" if reads_text else "blip-2", "num_query_tokens": 32, "text_config": text,
        "qformer_config": {"vocab_size": 30523} if reads_text else {"model_type": "blip_2_qformer"},
        "vision_config": {"num_channels": 3, "projection_dim": 512, "dropout": 0.0},
    }  # fmt: skip
    save_meta(hub_keys(text, reads_text), folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(config))
