"""The four ways to make models better at a task, and which weights of a model each of them learns. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

WAYS = {"prompt": "prompt", "lora": "LoRA", "connector": "connector", "full": "full fine-tuning"}
"""Ways with their names for people. A prompt is learned once for all models; the others once for each."""

TUNED = tuple(way for way in WAYS if way != "prompt")
"""The ways that change a model's weights."""

HEAD = "lm_head"


def require_peft() -> None:
    """Raises ValueError that says what to install where LoRA cannot be had."""
    if find_spec("peft") is None:
        raise ValueError(
            'LoRA is put on by the library peft, which is not installed. Install it (pip install -e ".[cost]"), or '
            "leave LoRA out: ways=prompt,connector,full."
        )


def lora_layers(mllm: Any) -> Iterator[tuple[str, Any]]:
    """Names and modules of the language model's linear layers, found by their type; the vocabulary head is left out."""
    from torch import nn

    parts = mllm.language_parts()
    inside = {id(module) for part in parts for module in part.modules()} - {id(part) for part in parts}
    for name, module in mllm.named_modules():
        if isinstance(module, nn.Linear) and id(module) in inside and HEAD not in name.split("."):
            yield name, module


def learned_shapes(mllm: Any, way: str, rank: int) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every weight that a way learns of a model, without memory where the model has none.

    Raises ValueError for a model that names no vision tower, whose connector cannot be told from it.
    """
    if way == "lora":
        shapes: dict[str, tuple[int, ...]] = {}
        for name, layer in lora_layers(mllm):
            shapes[f"{name}.lora_A.default.weight"] = (rank, layer.in_features)
            shapes[f"{name}.lora_B.default.weight"] = (layer.out_features, rank)
        return shapes
    left_out: set[int] = set()
    if way == "connector":
        if not mllm.tower_parts():
            raise ValueError(
                f"'{mllm.name}' does not say where its vision tower ends. Leave that out: ways=prompt,lora,full."
            )
        left_out = {id(p) for part in (*mllm.tower_parts(), *mllm.language_parts()) for p in part.parameters()}
    return {name: tuple(p.shape) for name, p in mllm.named_parameters() if id(p) not in left_out}


def count(shapes: Mapping[str, Sequence[int]]) -> int:
    """How many numbers tensors of these shapes hold."""
    from math import prod

    return sum(map(prod, shapes.values()))


SAFETENSORS = {"float64": "F64", "float32": "F32", "bfloat16": "BF16", "float16": "F16"}


def stored_bytes(shapes: Mapping[str, Sequence[int]], dtype: str, size: int) -> int:
    """Bytes of the safetensors file that holds tensors of these shapes, of `size` bytes a number.

    The format: eight bytes, a header in JSON filled with spaces to a multiple of eight, then the numbers. Its writer
    puts tensors of one dtype in the order of their names.
    """
    from json import dumps
    from math import prod

    entries, end = {}, 0
    for name in sorted(shapes):
        start, end = end, end + size * prod(shapes[name])
        entries[name] = {"dtype": SAFETENSORS[dtype], "shape": list(shapes[name]), "data_offsets": [start, end]}
    header = len(dumps(entries, separators=(",", ":")).encode())
    return 8 + -(-header // 8) * 8 + end
