"""Write a converted folder: one MLLM as safetensors that load in one go (`converted.py` reads it)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from model_zoo.base import MLLM
from model_zoo.connectors import QFormerConnector
from model_zoo.weights.catalogue import PUBLISHED
from model_zoo.weights.filling import ModelParts
from model_zoo.weights.layouts import FORMAT, MANIFEST, find_layout
from model_zoo.weights.load import load_parts
from model_zoo.weights.writing import check_target, copy_tokenizer, new_folder, write_json, write_shards


def convert(name: str, weights: Path, to: Path) -> Path:
    """Write the converted folder `to` from whatever layout of `name` lies in `weights`; returns `to`.

    Every tensor keeps its dtype; the files' tensors are mapped, not read into memory.

    Raises FileNotFoundError for missing files, FileExistsError if `to` is not empty, OSError if the disk is too full.
    """
    check_target(to)
    layout = find_layout(name, weights)
    parts, tokenizers = load_parts(name, layout, None, official=True), tokenizer_folders(name, layout)
    source = {"layout": layout.kind, "files": [path.relative_to(layout.folder).as_posix() for path in layout.files]}
    return save_folder(parts, name, to, tokenizers=tokenizers, source=source)


def tokenizer_folders(name: str, layout: Any) -> dict[str, Path]:
    """Where the tokenizers of a layout lie, by the name of their folder in a converted one."""
    known, folder = PUBLISHED[name], layout.folder
    llm = {"converted": folder / "tokenizer", "hub": folder, "original": folder / known.llm.path}[layout.kind]
    if not known.bert:
        return {"tokenizer": llm}
    bert = (folder / known.bert.path).parent if layout.kind == "original" else folder / "qformer_tokenizer"
    return {"tokenizer": llm, "qformer_tokenizer": bert}


def save_folder(
    model: MLLM | ModelParts,
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
    parts = ModelParts(*(getattr(model, part, None) for part in ModelParts._fields))
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
    ties: dict[str, str] = {}
    names: dict[int, str] = {}
    for key, value in module.state_dict(keep_vars=True).items():
        if id(value) in names:
            ties[key] = names[id(value)]
        else:
            names[id(value)], tensors[key] = key, value
    return tensors, ties


def loaded_from(parts: ModelParts) -> dict[str, Path]:
    """The folders the tokenizers came from. Raises ValueError when one was not loaded from a folder."""
    found = {"tokenizer": parts.tokenizer, "qformer_tokenizer": parts.qformer_tokenizer}
    folders = {part: Path(getattr(each, "name_or_path", "") or "?") for part, each in found.items() if each is not None}
    for part, path in folders.items():
        if not path.is_dir():
            raise ValueError(f"Cannot tell where the {part} came from. Pass tokenizers={{'{part}': FOLDER, ...}}.")
    return folders


def describe(parts: ModelParts) -> dict[str, Any]:
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


def numbers(config: Any) -> dict[str, Any]:
    """A transformers config as JSON values: every number, defaults too, since a later version may have others."""
    content = json.loads(config.to_json_string(use_diff=False))
    return {key: value for key, value in content.items() if key not in NO_NUMBERS}
