"""Frozen multimodal LLMs behind one interface. `load_mllm(name)` is the way in; nothing heavy is imported before it."""

from model_zoo.registry import get_entry, list_mllms, load_mllm, missing_files, model_fingerprint, weight_files

__all__ = [
    "MLLM",
    "Visual",
    "get_entry",
    "list_mllms",
    "load_mllm",
    "missing_files",
    "model_fingerprint",
    "weight_files",
]


def __getattr__(name: str) -> object:
    """`MLLM` and `Visual` on first use, so that importing the package does not import torch."""
    if name in ("MLLM", "Visual"):
        from model_zoo import base

        return getattr(base, name)
    raise AttributeError(f"module 'model_zoo' has no attribute {name!r}")
