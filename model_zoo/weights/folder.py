"""A converted folder: one MLLM as safetensors that load in one go, with every number its parts are built from.

mllm.json                               format, name, architecture, where it came from
model-0000n-of-0000m.safetensors, index tensors named connector.* and llm.*, each in its own dtype
tokenizer/, qformer_tokenizer/          the published files
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model_zoo.base import MLLM
from model_zoo.connectors import QFormerConnector
from model_zoo.layouts import FORMAT, MANIFEST, find_layout, read_manifest
from model_zoo.loaders import Parts, load_parts
from model_zoo.published import PUBLISHED
from model_zoo.weights.eva import meta_vision
from model_zoo.weights.filling import Blueprint, Feed, merged_headers
from model_zoo.weights.hub import own_rows
from model_zoo.weights.index import shard_paths
from model_zoo.weights.llm import build_llm, finish_llm, load_tokenizer, resize_rows
from model_zoo.weights.qformer import meta_linear, meta_qformer
from model_zoo.weights.safe import check_fit
from model_zoo.weights.writing import copy_tokenizer, new_folder, write_json, write_shards

CHATGLM = "chatglm_v1"
"""model_type of the one LLM whose classes are ours."""


def convert(name: str, weights: Path, to: Path) -> Path:
    """Write the converted folder `to` from whatever layout of `name` lies in `weights`; returns `to`.

    Every tensor keeps its dtype; the files' tensors are mapped, not read into memory.

    Raises FileNotFoundError for missing files, FileExistsError if `to` is not empty, OSError if the disk is too full.
    """
    layout = find_layout(name, weights)
    parts, tokenizers = load_parts(name, layout, None, official=True), tokenizer_folders(name, layout)
    source = {"layout": layout.kind, "files": [path.relative_to(layout.folder).as_posix() for path in layout.files]}
    return save_folder(parts, name, to, tokenizers=tokenizers, source=source)


def tokenizer_folders(name: str, layout: Any) -> dict[str, Path]:
    """Where the tokenizers of a layout lie, by the name of their folder in a converted one."""
    if layout.kind == "converted":
        found = {part: layout.folder / part for part in ("tokenizer", "qformer_tokenizer")}
        return {part: path for part, path in found.items() if path.is_dir()}
    known = PUBLISHED[name]
    if layout.kind == "hub":
        bert = layout.folder / "qformer_tokenizer"
        return {"tokenizer": layout.folder} | ({"qformer_tokenizer": bert} if known.bert else {})
    bert = {"qformer_tokenizer": (layout.folder / known.bert.path).parent} if known.bert else {}
    return {"tokenizer": layout.folder / known.llm.path} | bert


def save_folder(
    model: MLLM | Parts,
    name: str,
    target: Path,
    *,
    tokenizers: Mapping[str, Path] | None = None,
    source: Mapping[str, Any] | None = None,
) -> Path:
    """Write a model, or its parts, as a converted folder; returns `target`. Tied weights are stored once.

    Args:
        tokenizers: folders to copy as `tokenizer` and `qformer_tokenizer`; by default those they were loaded from.
        source: what the manifest says about where the weights came from.

    Raises FileExistsError if `target` is not empty, OSError if the disk is too full; nothing is left of it then.
    """
    parts = model if isinstance(model, Parts) else Parts(*(getattr(model, part, None) for part in Parts._fields))
    tensors, ties = distinct(nn.ModuleDict({"connector": parts.connector, "llm": parts.llm}))
    tokenizers = tokenizers or loaded_from(parts)
    need = sum(value.nbytes for value in tensors.values())
    manifest = {"format": FORMAT, "name": name, **describe(parts), "ties": ties, "bytes": need, "source": source or {}}
    with new_folder(target, need) as folder:
        write_json(folder / MANIFEST, manifest)
        for part, path in tokenizers.items():
            copy_tokenizer(path, folder / part)
        write_shards(folder, tensors)
    return Path(target)


def distinct(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors to store, {name: the name it shares its parameter with})."""
    tensors: dict[str, Tensor] = {}
    ties, names = {}, {}
    for key, value in module.state_dict(keep_vars=True).items():
        if id(value) in names:
            ties[key] = names[id(value)]
        else:
            names[id(value)], tensors[key] = key, value
    return tensors, ties


def loaded_from(parts: Parts) -> dict[str, Path]:
    """The folders the tokenizers came from. Raises ValueError when one was not loaded from a folder."""
    found = {"tokenizer": parts.tokenizer, "qformer_tokenizer": parts.qformer_tokenizer}
    folders = {part: Path(getattr(each, "name_or_path", "") or "?") for part, each in found.items() if each is not None}
    for part, path in folders.items():
        if not path.is_dir():
            raise ValueError(f"Cannot tell where the {part} came from. Pass tokenizers={{'{part}': FOLDER, ...}}.")
    return folders


def describe(parts: Parts) -> dict[str, Any]:
    """The architecture numbers that rebuild the parts. Raises ValueError for a connector without a Q-Former."""
    connector = parts.connector
    if not isinstance(connector, QFormerConnector):
        raise ValueError(f"Cannot convert a {type(connector).__name__}. Expected a QFormerConnector.")
    return {
        "connector": {
            "vision": numbers(connector.vision.config),
            "qformer": numbers(connector.qformer.config),
            "n_query": connector.n_query,
            "reads_text": connector.reads_text,
            "patches": connector.patch_projection is not None,
            "llm_width": connector.projection.out_features,
        },
        "llm": numbers(parts.llm.config),
    }


NO_NUMBERS = (
    "_name_or_path", "name_or_path", "transformers_version", "dtype", "torch_dtype", "id2label", "label2id",
    "problem_type", "output_attentions", "output_hidden_states", "return_dict", "chunk_size_feed_forward",
)  # fmt: skip
"""Entries of a transformers config that say nothing about the architecture."""


def numbers(config: Any) -> dict[str, Any]:
    """A transformers config as JSON values: every number, defaults too, since a later version may have others."""
    content = json.loads(config.to_json_string(use_diff=False))
    return {key: value for key, value in content.items() if key not in NO_NUMBERS}


def load_folder(
    folder: Path,
    dtype: torch.dtype | None,
    *,
    name: str | None = None,
    padded: bool = False,
    extra_rows: tuple[Tensor, Tensor] | None = None,
) -> Parts:
    """The parts of a model from its converted folder, filled shard by shard.

    Args:
        dtype: None keeps every tensor's own, mapped from its shard.
        name: the model it must be of; any by default.
        padded, extra_rows: what to do about LAVIS's row of `[PAD]`, see `weights.hub.plan_hub`.

    Raises FileNotFoundError naming missing shards, ValueError for another model's folder and keys that do not fit.
    """
    manifest = read_manifest(folder, name)
    tokenizer = tokenizer_loader(manifest["llm"])(folder / "tokenizer")
    bert = folder / "qformer_tokenizer"
    parts = plan_folder(folder, manifest, tokenizer, padded=padded, extra_rows=extra_rows).fill(dtype)
    return Parts(parts["connector"], parts["llm"], tokenizer, load_tokenizer(bert) if bert.is_dir() else None)


def plan_folder(
    folder: Path,
    manifest: Mapping[str, Any],
    tokenizer: Any,
    *,
    padded: bool,
    extra_rows: tuple[Tensor, Tensor] | None,
) -> Blueprint:
    """{connector, llm} of a converted folder on the meta device, checked against its shards' headers."""
    config = llm_settings(manifest["llm"])
    rows = config.vocab_size
    if PUBLISHED[manifest["name"]].hub:  # only hub conversions come with rows of their own
        rows = own_rows(config.model_type, rows, tokenizer, padded=padded and extra_rows is None)
    config.vocab_size = rows + (0 if extra_rows is None else 1)
    parts = nn.ModuleDict(
        {"connector": meta_connector(manifest["connector"]), "llm": meta_llm(config, f"{folder}/{MANIFEST}")}
    )
    paths = shard_paths(folder)

    def convert(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return resize_rows(dict(tensors), rows, extra_rows, "llm.")

    check_fit(parts, convert(merged_headers(paths)), str(folder), manifest["ties"])
    return Blueprint(parts, [Feed(path, convert) for path in paths], manifest["ties"], finish_llm)


def meta_connector(numbers: Mapping[str, Any]) -> QFormerConnector:
    """The connector of a manifest on the meta device."""
    from transformers import Blip2VisionConfig

    tower = meta_vision(Blip2VisionConfig.from_dict(dict(numbers["vision"])))
    qformer = meta_qformer(numbers["qformer"], reads_text=numbers["reads_text"])
    width, llm_width = qformer.config.hidden_size, numbers["llm_width"]
    return QFormerConnector(
        tower,
        qformer,
        torch.empty(1, numbers["n_query"], width, device="meta"),
        meta_linear(width, llm_width),
        meta_linear(tower.config.hidden_size, llm_width) if numbers["patches"] else None,
        reads_text=numbers["reads_text"],
    )


def llm_settings(saved: Mapping[str, Any]) -> Any:
    """The LLM's config from its saved values, each of them set: some classes derive a few from others (T5)."""
    from transformers import CONFIG_MAPPING

    kind = saved["model_type"]
    if kind == CHATGLM:
        from model_zoo.chatglm import ChatGLMConfig as config_class
    elif kind in CONFIG_MAPPING:
        config_class = CONFIG_MAPPING[kind]
    else:
        raise ValueError(f"Unknown LLM '{kind}' in {MANIFEST}. Expected a model_type of transformers; convert again.")
    config = config_class.from_dict(dict(saved))
    for key, value in saved.items():
        if key != "model_type" and getattr(config, key, None) != value:
            setattr(config, key, value)
    return config


def meta_llm(config: Any, source: str) -> nn.Module:
    """The LLM of a config on the meta device."""
    if config.model_type != CHATGLM:
        return build_llm(config, source)
    from model_zoo.chatglm import ChatGLMForCausalLM

    with torch.device("meta"):
        return ChatGLMForCausalLM(config)


def tokenizer_loader(llm: Mapping[str, Any]) -> Callable[[Path], Any]:
    """What loads the tokenizer of an LLM: transformers, or our own for ChatGLM."""
    if llm["model_type"] != CHATGLM:
        return load_tokenizer
    from model_zoo.chatglm_tokenizer import load_tokenizer as load_chatglm_tokenizer

    return load_chatglm_tokenizer
