"""Random models of the seven architectures, for the bench and for the tests, and what the bench gives them."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from datamodules.class_names import class_names
from model_zoo.base import MLLM
from model_zoo.clip import ClipScorer
from model_zoo.connectors import QFormerConnector, build_connector
from model_zoo.registry import canonical
from model_zoo.weights.catalogue import PUBLISHED
from model_zoo.weights.filling import ModelParts
from model_zoo.weights.load import build_adapter
from model_zoo.weights.structure import TYPES

ARCHITECTURES = ("minigpt4", "instructblip", "blip2_t5", "blip2_opt", "vpgtrans", "bliva", "visualglm")
TOWERS = {name: "eva" for name in ("minigpt4", "instructblip", "blip2_t5", "vpgtrans", "bliva")} | {"visualglm": "own"}
"""The paper's six models and their towers."""
VICUNA_V0 = dict.fromkeys(("minigpt4", "vpgtrans", "bliva"), "vicuna_v0")
TOWER = ("connector.vision.embeddings.", "connector.vision.encoder.")
QUESTION = "This is a photo of a"
SPECIAL = 16  # ids below it are special tokens


class Size(NamedTuple):
    """Numbers of a model. vision, qformer, llm: (width, layers, heads, feed-forward width); clip: the same, no last.

    frame, pad: of the prompt, in pixels. The T5 has `llm` layers in the encoder and as many in the decoder.
    feed: feed-forward width of OPT and ChatGLM, which have two matrices where LLaMA and T5 have three.
    positions, text_positions: most positions of the LLM and of a Q-Former that reads text.
    residual_layers: see `ChatGLMConfig`.
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
    feed: int
    positions: int = 2048
    text_positions: int = 512
    residual_layers: int = 28


MEDIUM = Size(224, 30, 14, (384, 12, 6, 1676), (384, 6, 6, 1536), 32, (512, 8, 8, 1376), 8000, 32, (256, 6, 4), 2064)
"""Issue 5: EVA-like depth 12 width 384 (feed-forward 4.3637 times that), Q-Former 6 layers, LLM 8 layers width 512.
CLIP is cut down like the vision tower, from ViT-B/32."""
MICRO = Size(32, 4, 8, (24, 2, 4, 40), (24, 2, 4, 40), 4, (32, 2, 4, 48), 300, 16, (16, 1, 2), 72)
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
            tokenizers = PieceTokenizer(size.vocab), PieceTokenizer(size.vocab, bert=True)
            return _redraw_(random_model(architecture, size, *tokenizers))
    finally:
        torch.set_default_dtype(before)


def random_model(name: str, size: Size, tokenizer: Any, bert: Any, /, **options: Any) -> MLLM:
    """A frozen MLLM of a published architecture at `size`, its weights as the libraries draw them.

    bert: the tokenizer of a Q-Former that reads text. options: of the adapter.
    """
    known = PUBLISHED[canonical(name)]
    connector = random_connector(size, reads_text=known.bert is not None, with_patches=bool(known.patch_projection))
    llm = LLMS[TYPES.get(known.adapter.split(":")[1], "llama")](size)
    parts = ModelParts(connector, llm, tokenizer, bert if known.bert else None)
    return build_adapter(canonical(name), parts, **{"name": name, **options})


def random_connector(size: Size, **options: bool) -> QFormerConnector:
    """Vision tower and Q-Former of a size; options: `reads_text`, `with_patches`."""
    keys = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    vision = dict(zip(keys, size.vision, strict=True), image_size=size.frame, patch_size=size.patch)
    qformer = dict(zip(keys, size.qformer, strict=True), vocab_size=size.vocab)
    qformer["max_position_embeddings"] = size.text_positions
    return build_connector(vision, qformer, size.queries, size.llm[0], **options)


def random_llama(size: Size) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = _shape(size) | {"intermediate_size": size.llm[3], "max_position_embeddings": size.positions}
    return LlamaForCausalLM(LlamaConfig(**shape))


def random_t5(size: Size) -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    width, layers, heads, mlp = size.llm
    shape: dict[str, Any] = {"d_model": width, "d_kv": width // heads, "d_ff": mlp, "num_heads": heads}
    shape |= {"num_layers": layers, "num_decoder_layers": layers, "feed_forward_proj": "gated-gelu"}
    special: dict[str, Any] = {"pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0}
    special["tie_word_embeddings"] = False
    config = T5Config(vocab_size=size.vocab, dropout_rate=0.0, **shape, **special)
    return T5ForConditionalGeneration(config)


def random_opt(size: Size) -> nn.Module:
    from transformers import OPTConfig, OPTForCausalLM

    shape = _shape(size) | {"ffn_dim": size.feed, "max_position_embeddings": size.positions}
    special: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 2, "dropout": 0.0}
    return OPTForCausalLM(OPTConfig(word_embed_proj_dim=size.llm[0], **shape, **special))


def random_chatglm(size: Size) -> nn.Module:
    from model_zoo.chatglm import ChatGLMConfig, ChatGLMForCausalLM

    shape = _shape(size) | {"intermediate_size": size.feed, "residual_layers": size.residual_layers}
    return ChatGLMForCausalLM(ChatGLMConfig(**shape))


def _shape(size: Size) -> dict[str, Any]:
    width, layers, heads, _ = size.llm
    return {
        "vocab_size": size.vocab, "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads,
    }  # fmt: skip


LLMS: dict[str, Callable[[Size], nn.Module]] = {
    "llama": random_llama,
    "t5": random_t5,
    "opt": random_opt,
    "chatglm": random_chatglm,
}


@torch.no_grad()
def _redraw_(model: Any) -> MLLM:
    """Every matrix at a deviation of 1/sqrt(its inputs): with the libraries' 0.02 a picture hardly moves a feature."""
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            weight.normal_(std=weight[0].numel() ** -0.5)
        if name.endswith("Attention.q.weight"):  # T5 does not divide by the square root of the head's width
            weight.mul_(model.llm.config.d_kv**-0.5)
    return model


def part_of(name: str, key: str) -> str:
    """The part of the paper's models, published in one file, that a parameter of `name` belongs to."""
    if key.startswith("llm."):
        return f"llm_{VICUNA_V0.get(name, name)}"
    return f"tower_{TOWERS[name]}" if key.startswith(TOWER) else name


def build_bench_clip(size: Size = MEDIUM, *, seed: int = 0) -> Any:
    """A random `ClipScorer` of the size's frame, its text tower as deep and wide as its vision tower."""
    from open_clip import SimpleTokenizer
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    torch.manual_seed(seed)
    width, layers, heads = size.clip
    vision = CLIPVisionCfg(layers, width, width // heads, patch_size=size.clip_patch, image_size=size.frame)
    text = CLIPTextCfg(width=width, heads=heads, layers=layers)
    return ClipScorer(CLIP(width, vision, text, quick_gelu=True), SimpleTokenizer(), size.frame)


def bench_names(n: int) -> list[str]:
    """`n` of the candidate answers: yes and no, CIFAR-10's names, or the first of CIFAR-100's."""
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
