"""A converted folder: one MLLM as safetensors that load in one go, with every number its parts are built from.

mllm.json                               format, name, architecture, where it came from
model-0000n-of-0000m.safetensors, index tensors named connector.* and llm.*, each in its own dtype
tokenizer/, qformer_tokenizer/          the published files
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CONFIG_MAPPING

from model_zoo.chatglm import ChatGLMConfig
from model_zoo.chatglm_tokenizer import load_tokenizer as load_chatglm_tokenizer
from model_zoo.weights.catalogue import PUBLISHED
from model_zoo.weights.filling import Blueprint, Feed, ModelParts
from model_zoo.weights.headers import merged_headers
from model_zoo.weights.hub import own_rows
from model_zoo.weights.index import shard_paths
from model_zoo.weights.layouts import MANIFEST, read_manifest
from model_zoo.weights.llm import ExtraRows, build_llm, load_tokenizer, rebuild_buffers_, resize_rows
from model_zoo.weights.qformer import meta_connector
from model_zoo.weights.safe import Tensors, check_fit


def load_folder(
    folder: Path,
    dtype: torch.dtype | None,
    *,
    name: str | None = None,
    padded: bool = False,
    extra_rows: ExtraRows = None,
) -> ModelParts:
    """The parts of a model from its converted folder, filled shard by shard.

    Args:
        dtype: None keeps every tensor's own, mapped from its shard.
        name: the model it must be of; any by default.
        padded, extra_rows: what to do about LAVIS's row of `[PAD]`, see `weights.hub.plan_hub`.

    Raises FileNotFoundError naming missing shards, ValueError for another model's folder and keys that do not fit.
    """
    manifest = read_manifest(folder, name)
    chatglm = manifest["llm"]["model_type"] == ChatGLMConfig.model_type
    tokenizer = (load_chatglm_tokenizer if chatglm else load_tokenizer)(folder / "tokenizer")
    config = llm_settings(manifest["llm"])
    rows = config.vocab_size
    if PUBLISHED[manifest["name"]].hub:  # only hub conversions come with rows of their own
        rows = own_rows(config.model_type, rows, tokenizer, padded=padded and extra_rows is None)
    config.vocab_size = rows + (0 if extra_rows is None else 1)
    connector = meta_connector(**manifest["connector"])
    parts = nn.ModuleDict({"connector": connector, "llm": build_llm(config, f"{folder}/{MANIFEST}")})
    paths = shard_paths(folder)

    def convert(tensors: Tensors) -> dict[str, Tensor]:
        return resize_rows(dict(tensors), rows, extra_rows, "llm.")

    check_fit(parts, convert(merged_headers(paths)), str(folder), manifest["ties"])
    bert = folder / "qformer_tokenizer"
    filled = Blueprint(parts, [Feed(path, convert) for path in paths], manifest["ties"], rebuild_buffers_).fill(dtype)
    return ModelParts(filled["connector"], filled["llm"], tokenizer, load_tokenizer(bert) if bert.is_dir() else None)


def llm_settings(saved: Mapping[str, Any]) -> Any:
    """The LLM's config from its saved values, each of them set: some classes derive a few from others (T5)."""
    kind = saved["model_type"]
    if kind not in CONFIG_MAPPING:
        raise ValueError(f"Unknown LLM '{kind}' in {MANIFEST}. Expected a model_type of transformers; convert again.")
    config: Any = CONFIG_MAPPING[kind].from_dict(dict(saved))
    for key, value in saved.items():
        if key != "model_type" and getattr(config, key, None) != value:
            setattr(config, key, value)
    return config
