"""Tiny random MLLMs of all five architectures for tests: 32-pixel images, seconds to build, nothing downloaded."""

from __future__ import annotations

import string
from typing import Any

import torch
from torch import Tensor, nn

from model_zoo.base import MLLM

TINY = ("minigpt4", "vpgtrans", "instructblip", "blip2", "blip2_opt", "bliva", "visualglm", "llava")
PUBLISHED_TINY = tuple(name for name in TINY if name != "llava")
IMAGE_SIZE, PATCH, N_QUERY, WIDTH = 32, 8, 4, 32
CANDIDATES = ["cat", "car", "carpet", "dog", "do", "a red car", "cat"]
QUESTIONS = ["This is a photo of a", "what is it?", "photo"]
ANSWERS = ["cat", "a red car", "do"]


def tiny_tokenizer(bert: bool = False) -> Any:
    """A real `PreTrainedTokenizerFast` of characters and a few merges, with explicit special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>", "<unk>", "[CLS]", "[SEP]"]
    letters = sorted(set(string.printable) | {"Ġ", "Ċ"})
    merges = [("c", "a"), ("d", "o"), ("ca", "r"), ("Ġ", "a")]
    tokens = special + letters + ["".join(pair) for pair in merges]
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if bert:
        ids = [("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])]
        tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ids)
    names = dict(bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def reinitialise_(module: nn.Module, std: float = 0.15, seed: int = 0) -> nn.Module:
    """Redraw every weight matrix: the library's std of 0.02 leaves gradients around 1e-8 that test nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "norm" not in name.lower() or parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
    return module


def tiny_llama(vocab: int, width: int = WIDTH) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = dict(hidden_size=width, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocab, max_position_embeddings=512, **sizes))


def tiny_t5(vocab: int, width: int = WIDTH) -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = dict(d_model=width, d_kv=8, d_ff=48, num_layers=2, num_decoder_layers=2, num_heads=4, dropout_rate=0.0)
    special = dict(pad_token_id=0, eos_token_id=2, decoder_start_token_id=0, tie_word_embeddings=False)
    return T5ForConditionalGeneration(T5Config(vocab_size=vocab, feed_forward_proj="gated-gelu", **sizes, **special))


def tiny_opt(vocab: int, width: int = WIDTH) -> nn.Module:
    from transformers import OPTConfig, OPTForCausalLM

    sizes = dict(hidden_size=width, word_embed_proj_dim=width, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4)
    special = dict(pad_token_id=0, bos_token_id=2, eos_token_id=2, dropout=0.1)
    return OPTForCausalLM(OPTConfig(vocab_size=vocab, max_position_embeddings=512, **sizes, **special))


def tiny_chatglm(vocab: int, width: int = WIDTH) -> nn.Module:
    from model_zoo.chatglm import ChatGLMConfig, ChatGLMForCausalLM

    sizes = dict(hidden_size=width, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    return ChatGLMForCausalLM(ChatGLMConfig(vocab_size=vocab, residual_layers=2, **sizes))


class TinyTower(nn.Module):
    """A convolutional tower: normalised pixels (B, 3, S, S) to features (B, N, 24)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 16, 4, 4), nn.GELU(), nn.Conv2d(16, 24, 3, 2, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.net(pixels).flatten(2).transpose(1, 2)


def tiny_connector(vocab: int, *, reads_text: bool = False, with_patches: bool = False) -> nn.Module:
    from model_zoo.connectors import build_connector

    sizes = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=4, intermediate_size=40)
    vision = dict(image_size=IMAGE_SIZE, patch_size=PATCH, **sizes)
    qformer = dict(vocab_size=vocab, max_position_embeddings=160, **sizes)
    return build_connector(vision, qformer, N_QUERY, WIDTH, reads_text=reads_text, with_patches=with_patches)


def tiny_mllm(name: str, /, *, seed: int = 0, **kwargs: Any) -> MLLM:
    """A frozen random MLLM of one of the architectures in `TINY`."""
    tokenizer, bert = tiny_tokenizer(), tiny_tokenizer(bert=True)
    vocab, common = len(tokenizer), {"image_size": IMAGE_SIZE, **kwargs}
    if name in ("minigpt4", "vpgtrans"):
        from model_zoo.minigpt4 import MiniGPT4
        from model_zoo.vpgtrans import VPGTrans

        kind = {"minigpt4": MiniGPT4, "vpgtrans": VPGTrans}[name]
        model = kind(tiny_connector(vocab), tiny_llama(vocab), tokenizer, **common)
    elif name == "blip2_opt":
        from model_zoo.blip2_opt import Blip2OPT

        model = Blip2OPT(tiny_connector(vocab), tiny_opt(vocab), tokenizer, **common)
    elif name == "visualglm":
        from model_zoo.visualglm import VisualGLM

        special = {"gmask_id": 4, "sop_id": 5, **common}  # [CLS] and [SEP] serve as [gMASK] and <sop>
        model = VisualGLM(tiny_connector(vocab), tiny_chatglm(vocab), tokenizer, **special)
    elif name == "blip2":
        from model_zoo.blip2 import Blip2T5

        model = Blip2T5(tiny_connector(vocab), tiny_t5(vocab), tokenizer, **common)
    elif name == "llava":
        from model_zoo.llava import LLaVA, build_projector

        model = LLaVA(TinyTower(), build_projector(24, WIDTH), tiny_llama(vocab), tokenizer, **common)
    else:
        from model_zoo.bliva import BLIVA
        from model_zoo.instructblip import InstructBLIP

        kind = {"instructblip": InstructBLIP, "bliva": BLIVA}[name]
        connector = tiny_connector(vocab, reads_text=True, with_patches=name == "bliva")
        model = kind(connector, tiny_llama(vocab), tokenizer, bert, **common)
    return reinitialise_(model, seed=seed).freeze_()


def registered_mllm(name: str, **kwargs: Any) -> MLLM:
    """A registered MLLM: an embedded one as it ships, a published one with the tiny random parts of its adapter."""
    from model_zoo.registry import get_entry, load_mllm
    from model_zoo.weights.catalogue import PUBLISHED

    if get_entry(name).embedded:
        return load_mllm(name, **kwargs)
    tiny = {PUBLISHED[kind].adapter: kind for kind in PUBLISHED_TINY}[PUBLISHED[name].adapter]
    return tiny_mllm(tiny, name=name, **kwargs)


def tiny_images(batch: int = 3, size: int = IMAGE_SIZE, seed: int = 0) -> Tensor:
    """Random frames (B, 3, size, size) in [0, 1]."""
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))
