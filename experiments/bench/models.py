"""Random models of the seven architectures at one size, and what they are given: for timing, so nothing is learned."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from model_zoo.base import MLLM

ARCHITECTURES = ("minigpt4", "instructblip", "blip2_t5", "blip2_opt", "vpgtrans", "bliva", "visualglm")
QUESTION = "This is a photo of a"
SPECIAL = 16  # ids below it are special tokens


class Size(NamedTuple):
    """Numbers of a model. vision, qformer, llm: (width, layers, heads, feed-forward width); clip: the same, no last.

    frame, pad: of the prompt, in pixels. The T5 has `llm` layers in the encoder and as many in the decoder.
    """

    frame: int
    pad: int
    patch: int
    vision: tuple[int, int, int, int]
    qformer: tuple[int, int, int, int]
    queries: int
    llm: tuple[int, int, int, int]
    vocab: int
    clip_patch: int
    clip: tuple[int, int, int]


MEDIUM = Size(224, 30, 14, (384, 12, 6, 1676), (384, 6, 6, 1536), 32, (512, 8, 8, 1376), 8000, 32, (256, 6, 4))
"""Issue 5: EVA-like depth 12 width 384 (feed-forward 4.3637 times that), Q-Former 6 layers, LLM 8 layers width 512.
CLIP is cut down like the vision tower, from ViT-B/32."""
MICRO = Size(32, 4, 8, (24, 2, 4, 40), (24, 2, 4, 40), 4, (32, 2, 4, 48), 300, 16, (16, 1, 2))
"""For tests: every architecture in milliseconds."""


class PieceTokenizer:
    """Words cut into pieces of four characters, each with the id its hash gives: 1.5 tokens a CIFAR-10 name, as LLaMA.

    bert: called as the Q-Former's tokenizer, with [CLS] and [SEP] around the text.
    """

    pad_token_id, bos_token_id, eos_token_id, unk_token_id, gmask_token_id = 0, 1, 2, 3, 4

    def __init__(self, vocab: int, *, bert: bool = False) -> None:
        self.vocab, self.bert = vocab, bert

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        pieces = re.findall(r"\n|[^\s]{1,4}", text)
        ids = [SPECIAL + zlib.crc32(piece.encode()) % (self.vocab - SPECIAL) for piece in pieces]
        return {"input_ids": [5, *ids, 6] if self.bert and add_special_tokens else ids}


def build_bench_model(
    architecture: str,
    size: Size = MEDIUM,
    *,
    seed: int = 0,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> MLLM:
    """A frozen random MLLM, named after its architecture, its weights made on `device` in `dtype`.

    Raises KeyError for a name that is not in `ARCHITECTURES`.
    """
    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = _ADAPTERS[architecture](architecture, size)
    finally:
        torch.set_default_dtype(before)
    return _redraw_(model).freeze_()


def _wrapped(name: str, size: Size) -> MLLM:
    from model_zoo.minigpt4 import MiniGPT4
    from model_zoo.vpgtrans import VPGTrans

    kind = {"minigpt4": MiniGPT4, "vpgtrans": VPGTrans}[name]
    return kind(_connector(size), _llama(size), PieceTokenizer(size.vocab), image_size=size.frame)


def _text_reading(name: str, size: Size) -> MLLM:
    from model_zoo.bliva import BLIVA
    from model_zoo.instructblip import InstructBLIP

    kind = {"instructblip": InstructBLIP, "bliva": BLIVA}[name]
    connector = _connector(size, reads_text=True, with_patches=name == "bliva")
    bert = PieceTokenizer(size.vocab, bert=True)
    return kind(connector, _llama(size), PieceTokenizer(size.vocab), bert, image_size=size.frame)


def _blip2_t5(name: str, size: Size) -> MLLM:
    from transformers import T5Config, T5ForConditionalGeneration

    from model_zoo.blip2 import Blip2T5

    width, layers, heads, mlp = size.llm
    shape = dict(d_model=width, d_kv=width // heads, num_heads=heads, num_layers=layers, num_decoder_layers=layers)
    special = dict(pad_token_id=0, eos_token_id=2, decoder_start_token_id=0, tie_word_embeddings=False)
    config = T5Config(
        vocab_size=size.vocab, d_ff=mlp, dropout_rate=0.0, feed_forward_proj="gated-gelu", **shape, **special
    )
    llm = T5ForConditionalGeneration(config)
    return Blip2T5(_connector(size), llm, PieceTokenizer(size.vocab), name=name, image_size=size.frame)


def _blip2_opt(name: str, size: Size) -> MLLM:
    from transformers import OPTConfig, OPTForCausalLM

    from model_zoo.blip2_opt import Blip2OPT

    width, layers, heads, mlp = size.llm
    shape = dict(hidden_size=width, word_embed_proj_dim=width, num_hidden_layers=layers, num_attention_heads=heads)
    config = OPTConfig(
        vocab_size=size.vocab, ffn_dim=3 * mlp // 2, dropout=0.0, **shape
    )  # two matrices where LLaMA has three
    return Blip2OPT(_connector(size), OPTForCausalLM(config), PieceTokenizer(size.vocab), image_size=size.frame)


def _visualglm(name: str, size: Size) -> MLLM:
    from model_zoo.chatglm import ChatGLMConfig, ChatGLMForCausalLM
    from model_zoo.visualglm import VisualGLM

    width, layers, heads, mlp = size.llm
    shape = dict(hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads)
    config = ChatGLMConfig(vocab_size=size.vocab, intermediate_size=3 * mlp // 2, **shape)
    return VisualGLM(_connector(size), ChatGLMForCausalLM(config), PieceTokenizer(size.vocab), image_size=size.frame)


_ADAPTERS = {
    "minigpt4": _wrapped,
    "vpgtrans": _wrapped,
    "instructblip": _text_reading,
    "bliva": _text_reading,
    "blip2_t5": _blip2_t5,
    "blip2_opt": _blip2_opt,
    "visualglm": _visualglm,
}


def _llama(size: Size) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    width, layers, heads, mlp = size.llm
    shape = dict(hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=mlp)
    return LlamaForCausalLM(LlamaConfig(vocab_size=size.vocab, **shape))


def _connector(size: Size, *, reads_text: bool = False, with_patches: bool = False) -> nn.Module:
    from model_zoo.connectors import build_connector

    keys = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    vision = dict(zip(keys, size.vision, strict=True), image_size=size.frame, patch_size=size.patch)
    qformer = dict(zip(keys, size.qformer, strict=True), vocab_size=size.vocab)
    options = dict(reads_text=reads_text, with_patches=with_patches)
    return build_connector(vision, qformer, size.queries, size.llm[0], **options)


@torch.no_grad()
def _redraw_(model: MLLM) -> MLLM:
    """Every matrix at a deviation of 1/sqrt(its inputs): with the libraries' 0.02 a picture hardly moves a feature."""
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            weight.normal_(std=weight[0].numel() ** -0.5)
        if name.endswith("Attention.q.weight"):  # T5 does not divide by the square root of the head's width
            weight.mul_(model.llm.config.d_kv**-0.5)
    return model


def build_bench_clip(size: Size = MEDIUM, *, seed: int = 0) -> Any:
    """A random `ClipScorer` of the size's frame, its text tower as deep and wide as its vision tower."""
    from open_clip import SimpleTokenizer
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    from model_zoo.clip import ClipScorer

    torch.manual_seed(seed)
    width, layers, heads = size.clip
    vision = CLIPVisionCfg(layers, width, width // heads, patch_size=size.clip_patch, image_size=size.frame)
    text = CLIPTextCfg(width=width, heads=heads, layers=layers)
    return ClipScorer(CLIP(width, vision, text, quick_gelu=True), SimpleTokenizer(), size.frame)


def bench_names(n: int) -> list[str]:
    """`n` of the candidate answers: yes and no, CIFAR-10's names, or the first of CIFAR-100's."""
    from datamodules.class_names import class_names

    return {2: ["no", "yes"], 10: class_names("cifar10")}.get(n) or class_names("cifar100")[:n]


class Inputs(NamedTuple):
    """One batch of random pictures (B, 3, S, S), S = frame - 2 pad, and an answer for each."""

    images: Tensor
    answers: Sequence[str]

    @property
    def questions(self) -> list[str]:
        return [QUESTION] * len(self.images)

    @property
    def captions(self) -> list[str]:
        return [f"this is a photo of a {answer}" for answer in self.answers]


def bench_inputs(batch: int, size: Size = MEDIUM) -> Inputs:
    """A batch for training and ranking; the answers are names of CIFAR-10 in turn."""
    side, names = size.frame - 2 * size.pad, bench_names(10)
    images = torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(1))
    return Inputs(images, [names[i % len(names)] for i in range(batch)])
