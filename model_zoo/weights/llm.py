"""LLMs from Hugging Face folders with sharded .bin or .safetensors files, and their tokenizers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.models.auto import modeling_auto as auto

from model_zoo.weights.filling import Blueprint, Convert, Feed
from model_zoo.weights.headers import merged_headers
from model_zoo.weights.index import read_json, shard_paths
from model_zoo.weights.safe import Tensors, check_fit

UNUSED = re.compile(r"rotary_emb\.inv_freq$|EncDecAttention\.relative_attention_bias\.weight$|(^|\.)decoder\.version$")
"""Buffers that old checkpoints store and today's classes compute, or never use."""

ExtraRows = tuple[Tensor, Tensor] | None
"""One more row (1, D) of the input embedding and of the output head, as a resized LLM has; None for no more."""

GROWN = ("model.embed_tokens.weight", "lm_head.weight")
"""What a resized LLaMA has more rows of."""

VOCABULARY = (*GROWN, "model.decoder.embed_tokens.weight")
"""One row a token: LLaMA and OPT."""


SPECIALS = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
PLAIN: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaTokenizer", {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}),
    "opt": ("GPT2Tokenizer", SPECIALS),
    "t5": ("T5Tokenizer", {}),
    "bert": ("BertTokenizer", {}),
}
"""config.json's model_type -> tokenizer class and special tokens, for folders whose tokenizer_config.json is missing.

transformers 5 does not guess them: LLaMA's ids come out wrong, OPT's end token is another, BERT's does not load."""


def load_tokenizer(folder: Path) -> Any:
    """The folder's tokenizer. Raises ValueError when it came out empty (transformers does not complain by itself)."""
    stated, config = (read_json(folder / name, absent={}) for name in ("tokenizer_config.json", "config.json"))
    kind = config.get("model_type") or ("bert" if (folder / "vocab.txt").is_file() else None)
    name, specials = PLAIN.get(str(kind), ("AutoTokenizer", {}))
    if stated.get("tokenizer_class"):
        empty = [key for key in specials if stated.get(key) == ""]  # as Vicuna v0's delta has them
        name, specials = "AutoTokenizer", {key: specials[key] for key in empty}
    tokenizer = getattr(transformers, name).from_pretrained(str(folder), **specials)
    if len(tokenizer("a cat", add_special_tokens=False)["input_ids"]) == 0 or len(tokenizer) < 10:
        raise ValueError(f"The tokenizer in {folder} is empty. Expected its vocabulary file (tokenizer.model, ...).")
    return tokenizer


def plan_llm(folder: Path, *, extra_rows: ExtraRows = None, **config: Any) -> Blueprint:
    """The folder's LLM on the meta device, checked against its shards' headers.

    Args:
        extra_rows: see `ExtraRows`.
        config: overrides of the folder's config.json, e.g. dense_act_fn.

    Raises FileNotFoundError naming every missing shard, ValueError naming every key that does not fit.
    """
    settings = transformers.AutoConfig.from_pretrained(str(folder))
    for key, value in config.items():
        setattr(settings, key, value)
    paths = shard_paths(folder)
    settings.vocab_size += 0 if extra_rows is None else 1
    llm = build_llm(settings, str(folder))
    header = merged_headers(paths)
    convert = llm_converter(llm, header, extra_rows)
    ties = tied_names(llm)
    check_fit(llm, convert(header), str(folder), ties)
    how = "" if extra_rows else f"{type(llm).__name__} {ties}"
    return Blueprint(llm, [Feed(path, convert, how) for path in paths], ties, rebuild_buffers_)


def build_llm(settings: Any, source: str) -> Any:
    """The LLM of a transformers config on the meta device, tied as `tied_names` says and no further.

    Raises ValueError if there is no class for the config, whatever name config.json gives it.
    """
    mapping: Any = auto.MODEL_FOR_CAUSAL_LM_MAPPING
    if settings.is_encoder_decoder:
        mapping = auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING
    if type(settings) not in mapping:
        raise ValueError(f"{source}/config.json describes a {settings.model_type}. Expected a causal or T5-like LLM.")
    with torch.device("meta"):
        llm: Any = mapping[type(settings)](settings)
        if "lm_head.weight" not in tied_names(llm):  # transformers 5 builds every T5 with a tied head
            llm.lm_head.weight = nn.Parameter(torch.empty_like(llm.lm_head.weight))
    llm.all_tied_weights_keys = llm._tied_weights_keys = tied_names(llm)  # whatever ties again later keeps to it
    return llm


def tied_names(llm: Any) -> dict[str, str]:
    """Names that share another's weight: the head where the config says so, T5's two embeddings always."""
    config = llm.config
    # transformers 5 forces tie_word_embeddings on for T5 and keeps what the file said in scale_decoder_outputs.
    head = getattr(config, "scale_decoder_outputs", config.tie_word_embeddings)
    ties = getattr(llm, "_tied_weights_keys", None) or {}
    return {key: name for key, name in ties.items() if head or key != "lm_head.weight"}


def llm_converter(
    llm: nn.Module, names: Iterable[str], extra_rows: ExtraRows = None, *, rows: int | None = None
) -> Convert:
    """From the names a checkpoint uses to the LLM's: base-model prefix added, one name per tied weight kept.

    `rows`: how many rows of the vocabulary to keep; `extra_rows` come after them.
    """
    target = llm_names(llm, names)

    def convert(tensors: Tensors) -> dict[str, Tensor]:
        found = {target[key]: value for key, value in tensors.items() if key in target}
        return resize_rows(found, rows, extra_rows)

    return convert


def resize_rows(
    tensors: dict[str, Tensor], rows: int | None, extra_rows: ExtraRows, prefix: str = ""
) -> dict[str, Tensor]:
    """Keep the first `rows` of the vocabulary's matrices and append the extra ones; other tensors are untouched."""
    if rows is not None:
        names = [prefix + name for name in VOCABULARY if prefix + name in tensors]
        tensors = tensors | {name: tensors[name][:rows] for name in names}
    for name, row in zip(GROWN, extra_rows or (), strict=extra_rows is not None):
        if prefix + name in tensors:
            kept = tensors[prefix + name]
            tensors = tensors | {prefix + name: torch.cat([kept, row.to(kept)])}
    return tensors


def llm_names(llm: Any, names: Iterable[str]) -> dict[str, str]:
    """The LLM's name for each of a checkpoint's names that is used; unknown names stay as they are."""
    wanted = set(llm.state_dict(keep_vars=True))
    target = {}
    for name in sorted(key for key in names if not UNUSED.search(key)):
        based = f"{llm.base_model_prefix}.{name}"  # OPT folders may hold the base model only
        target[name] = based if name not in wanted and based in wanted else name
    ties, present = tied_names(llm), set(target.values())
    for name, key in list(target.items()):
        if (source := ties.get(key)) is None:
            continue
        first = min(other for other in ties if ties[other] == source and other in present)
        if source in present or key != first:
            del target[name]
        else:
            target[name] = source  # safetensors may keep any one of the tied names
    return target


def rebuild_buffers_(whole: Any) -> None:
    """Compute what is not in a checkpoint (rotary frequencies) on the CPU; it was built on the meta device.

    whole: an LLM, or the parts of a model with it under `llm`.
    """
    llm = whole["llm"] if isinstance(whole, nn.ModuleDict) else whole
    for name, module in list(llm.named_modules()):
        if any(buffer.is_meta for buffer in module.buffers(recurse=False)):
            llm.set_submodule(name, type(module)(llm.config))
