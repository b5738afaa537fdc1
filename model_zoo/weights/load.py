"""From the files of a published MLLM, in whichever layout they are, to its adapter."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from model_zoo.base import MLLM
from model_zoo.chatglm_tokenizer import load_tokenizer as load_chatglm
from model_zoo.weights.catalogue import PUBLISHED, PublishedModel
from model_zoo.weights.converted import load_folder
from model_zoo.weights.filling import Blueprint, ModelParts
from model_zoo.weights.hub import plan_hub
from model_zoo.weights.layouts import WeightsLayout, find_layout
from model_zoo.weights.llm import ExtraRows, load_tokenizer, plan_llm
from model_zoo.weights.qformer import plan_connector
from model_zoo.weights.safe import as_dtype
from model_zoo.weights.sat import plan_visualglm
from model_zoo.weights.structure import check_structure


def load_published(
    name: str,
    weights: str | Path = "weights",
    dtype: str | torch.dtype = "float32",
    official: bool = False,
    *,
    vision_heads: int | None = None,
    qformer_heads: int | None = None,
    extra_rows: ExtraRows = None,
    **options: Any,
) -> MLLM:
    """A frozen published MLLM.

    Args:
        weights: the root that holds the files of `PUBLISHED[name]`, or a converted folder; see `layouts.py`.
        vision_heads, qformer_heads: what shapes do not tell; known for the published widths, else from a manifest.
        extra_rows: one more row (1, D) of the LLM's input embedding and of its head, as LAVIS's InstructBLIP adds at
            random for [PAD]; it enters every softmax. Absent by default (docs/method.md#deviations).
        options: go to the adapter (`scoring`, `max_nodes`, ...).

    Raises FileNotFoundError that lists every missing file, ValueError for files that do not fit.
    """
    heads = {"vision_heads": vision_heads, "qformer_heads": qformer_heads}
    layout, kind = find_layout(name, weights), as_dtype(dtype)
    parts = load_parts(name, layout, kind, official=official, heads=heads, extra_rows=extra_rows)
    return build_adapter(name, parts, official=official, **options)


def load_parts(
    name: str,
    layout: WeightsLayout,
    dtype: torch.dtype | None,
    *,
    official: bool = False,
    heads: dict[str, int | None] | None = None,
    extra_rows: ExtraRows = None,
) -> ModelParts:
    """The parts of a model from one layout of its files. dtype None keeps every tensor's own, mapped from its file.

    `official` keeps the LLM row of `[PAD]` that the hub conversion of InstructBLIP has. Raises as `load_published`.
    """
    known, folder = PUBLISHED[name], layout.folder
    if layout.kind == "converted":
        return load_folder(folder, dtype, name=name, padded=official, extra_rows=extra_rows)
    if layout.kind == "hub":
        tokenizer = load_tokenizer(folder)
        bert = load_tokenizer(folder / "qformer_tokenizer") if known.bert else None
        plan = plan_hub(folder, tokenizer, padded=official, extra_rows=extra_rows, llm_config=known.llm_config)
        parts = plan.fill(dtype)
        return ModelParts(parts["connector"], parts["llm"], tokenizer, bert)
    # The original files; every name and shape is checked before the first weight is read.
    check_structure(name, folder)
    counts = head_counts(folder, heads or {"vision_heads": None, "qformer_heads": None})
    if known.vision is None:  # VisualGLM: one folder holds every part
        plan, tokenizer = plan_visualglm(folder / known.llm.path, **counts), load_chatglm(folder / known.llm.path)
        parts = plan.fill(dtype)
        return ModelParts(parts["connector"], parts["llm"], tokenizer)
    connector, llm = plan_parts(known, folder, counts, extra_rows)
    bert = load_tokenizer((folder / known.bert.path).parent) if known.bert else None
    tokenizer = load_tokenizer(folder / known.llm.path)
    return ModelParts(connector.fill(dtype), llm.fill(dtype), tokenizer, bert)


def plan_parts(
    known: PublishedModel, root: Path, heads: dict[str, int | None], extra_rows: ExtraRows = None
) -> tuple[Blueprint, Blueprint]:
    """(connector, llm) on the meta device, checked against the headers of the original files; no data is read."""
    assert known.vision is not None
    connector = plan_connector(
        root / known.vision.path,
        [root / item.path for item in known.checkpoints],
        known.projection,
        reads_text=known.bert is not None,
        patch_projection=known.patch_projection,
        unused=known.unused,
        **heads,
    )
    return connector, plan_llm(root / known.llm.path, extra_rows=extra_rows, **known.llm_config)


def build_adapter(name: str, parts: ModelParts, /, **options: Any) -> MLLM:
    """The adapter class of `name` around its parts, frozen."""
    module, adapter = PUBLISHED[name].adapter.split(":")
    modules = [part for part in parts if part is not None]
    options = {"name": name, "image_size": parts.connector.vision.config.image_size, **options}
    return getattr(import_module(module), adapter)(*modules, **options).freeze_()


def head_counts(root: Path, given: dict[str, int | None]) -> dict[str, int | None]:
    """`given` head counts, completed from a manifest.

    A manifest is a config.json in the weights directory or beside it with vision.heads and
    qformer.num_attention_heads, as small test checkpoints have. None leaves the published numbers.
    """
    for path in (root / "config.json", root.resolve().parent / "config.json"):
        if path.is_file():
            manifest = json.loads(path.read_text())
            found = {
                "vision_heads": manifest.get("vision", {}).get("heads"),
                "qformer_heads": manifest.get("qformer", {}).get("num_attention_heads"),
            }
            return {key: given[key] or found[key] for key in given}
    return given
