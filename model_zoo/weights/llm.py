"""LLMs from Hugging Face folders with sharded .bin or .safetensors files, and their tokenizers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model_zoo.weights.index import shard_names
from model_zoo.weights.safe import assign_weights_, complain, load_tensors

UNUSED = re.compile(r"rotary_emb\.inv_freq$|EncDecAttention\.relative_attention_bias\.weight$")
"""Buffers that old checkpoints store and today's classes compute, or never use."""


def load_tokenizer(folder: Path) -> Any:
    """The folder's tokenizer. Raises ValueError when it came out empty (transformers does not complain by itself)."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    if len(tokenizer("a cat", add_special_tokens=False)["input_ids"]) == 0 or len(tokenizer) < 10:
        raise ValueError(f"The tokenizer in {folder} is empty. Expected its vocabulary file (tokenizer.model, ...).")
    return tokenizer


def read_shards(folder: Path) -> dict[str, Tensor]:
    """All tensors of the folder's shards. Raises FileNotFoundError that names every missing shard."""
    names = shard_names(folder)
    if absent := [name for name in names if not (folder / name).is_file()]:
        raise FileNotFoundError(f'Missing in {folder}: {", ".join(absent)}. See README, "Weights".')
    tensors: dict[str, Tensor] = {}
    for name in names:
        tensors |= load_tensors(folder / name)
    return {key: value for key, value in tensors.items() if not UNUSED.search(key)}


def load_llm(
    folder: Path, dtype: torch.dtype, *, extra_rows: tuple[Tensor, Tensor] | None = None, **config: Any
) -> nn.Module:
    """The folder's LLaMA, OPT or T5, built on the meta device and filled from its shards.

    Args:
        extra_rows: one more row (1, D) of the input embedding and of the output head, as a resized LLM has.
        config: overrides of the folder's config.json, e.g. dense_act_fn.
    """
    from transformers import AutoConfig

    settings = AutoConfig.from_pretrained(str(folder))
    for key, value in config.items():
        setattr(settings, key, value)
    tensors = read_shards(folder)
    if extra_rows is not None:
        tensors = add_rows(tensors, extra_rows)
        settings.vocab_size += 1
    with torch.device("meta"):
        llm = llm_class(settings, folder)(settings)
    tensors = complete_ties(llm, tensors, str(folder))
    assign_weights_(llm, tensors, dtype, str(folder))
    rebuild_buffers_(llm, settings)
    return llm


def llm_class(config: Any, folder: Path) -> type[nn.Module]:
    """The transformers class for a config, whatever name config.json gives it. Raises ValueError if there is none."""
    from transformers.models.auto import modeling_auto as auto

    mapping = auto.MODEL_FOR_CAUSAL_LM_MAPPING
    if config.is_encoder_decoder:
        mapping = auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING
    if type(config) not in mapping:
        raise ValueError(f"{folder}/config.json describes a {config.model_type}. Expected a causal or T5-like LLM.")
    return mapping[type(config)]


def add_rows(tensors: dict[str, Tensor], extra_rows: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Append one row to `model.embed_tokens` and `lm_head`."""
    names = ("model.embed_tokens.weight", "lm_head.weight")
    grown = {
        name: torch.cat([tensors[name], row.to(tensors[name])]) for name, row in zip(names, extra_rows, strict=True)
    }
    return tensors | grown


def complete_ties(llm: nn.Module, tensors: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """Fill names that a checkpoint leaves out because they are tied (T5's three embeddings, a tied head)."""
    ties = {key: name for key, name in (getattr(llm, "_tied_weights_keys", None) or {}).items() if key not in tensors}
    if absent := [name for name in ties.values() if name not in tensors]:
        complain(source, missing=absent)
    if (
        "lm_head.weight" in ties
        and getattr(llm.config, "scale_decoder_outputs", llm.config.tie_word_embeddings) is False
    ):
        complain(source, missing=["lm_head.weight"])
    return tensors | {key: tensors[name] for key, name in ties.items()}


def rebuild_buffers_(llm: nn.Module, config: Any) -> None:
    """Compute what is not in a checkpoint (rotary frequencies) on the CPU; it was built on the meta device."""
    for name, module in list(llm.named_modules()):
        if any(buffer.is_meta for buffer in module.buffers(recurse=False)):
            llm.set_submodule(name, type(module)(config))
