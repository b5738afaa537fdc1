"""Tiny random MLLMs of all five architectures for tests: 32-pixel images, seconds to build, nothing downloaded."""

from __future__ import annotations

import string
from typing import Any

import torch
from torch import Tensor, nn

from experiments.bench.models import MICRO, Size, random_chatglm, random_llama, random_model
from model_zoo.base import MLLM

TINY = ("minigpt4", "vpgtrans", "instructblip", "blip2", "blip2_opt", "bliva", "visualglm", "llava")
PUBLISHED_TINY = tuple(name for name in TINY if name != "llava")
IMAGE_SIZE, N_QUERY, WIDTH = MICRO.frame, MICRO.queries, MICRO.llm[0]
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


def tiny_size(vocab: int) -> Size:
    """The bench's smallest size with a tokenizer's vocabulary, few positions and narrow feed-forward layers."""
    return MICRO._replace(vocab=vocab, feed=48, positions=512, text_positions=160, residual_layers=2)


def tiny_chatglm(vocab: int) -> nn.Module:
    return random_chatglm(tiny_size(vocab))


class TinyTower(nn.Module):
    """A convolutional tower: normalised pixels (B, 3, S, S) to features (B, N, 24)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 16, 4, 4), nn.GELU(), nn.Conv2d(16, 24, 3, 2, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.net(pixels).flatten(2).transpose(1, 2)


def tiny_mllm(name: str, /, *, seed: int = 0, **kwargs: Any) -> MLLM:
    """A frozen random MLLM of one of the architectures in `TINY`."""
    tokenizer, bert = tiny_tokenizer(), tiny_tokenizer(bert=True)
    size = tiny_size(len(tokenizer))
    if name == "llava":
        from model_zoo.llava import LLaVA, build_projector

        options = {"image_size": IMAGE_SIZE, **kwargs}
        model = LLaVA(TinyTower(), build_projector(24, WIDTH), random_llama(size), tokenizer, **options)
    else:
        special = {"gmask_id": 4, "sop_id": 5} if name == "visualglm" else {}  # [CLS], [SEP] as [gMASK] and <sop>
        model = random_model(name, size, tokenizer, bert, **special, **kwargs)
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
