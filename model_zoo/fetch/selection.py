"""Which files of a hub repository a model needs: configuration, tokenizer, processor, templates, one set of weights."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import PurePosixPath

from model_zoo.weights.index import INDEXES, SINGLE

TEXTS = (".json", ".jinja", ".model", ".tiktoken", ".txt")
LICENCES = ("LICENSE", "LICENCE", "NOTICE", "USE_POLICY")
FOLDERS = ("additional_chat_templates", "qformer_tokenizer")
"""Sub-folders that belong to a processor; any other holds the same weights in another form."""
UNREAD = (".index.json", "trainer_state.json")
OTHER_FORMS = (".gguf", ".onnx", ".msgpack", ".h5", ".ot", ".npz", ".pt", ".pth", ".ckpt")


def text_files(names: Collection[str]) -> list[str]:
    """Everything but weights, sorted; never code."""
    return sorted(name for name in names if _is_text(PurePosixPath(name)))


def _is_text(path: PurePosixPath) -> bool:
    if path.name.endswith(UNREAD) or path.is_absolute() or ".." in path.parts:
        return False
    if len(path.parts) > 1 and path.parts[:-1] not in [(folder,) for folder in FOLDERS]:
        return False
    return path.suffix in TEXTS or path.name.upper().startswith(LICENCES)


def weights_entry(names: Collection[str], repo: str) -> str:
    """The index of the weight shards, or the one file that is all weights: safetensors before .bin.

    Raises ValueError where there are none in a form that is read.
    """
    for index, single in zip(INDEXES, SINGLE, strict=True):
        for name in (index, single):
            if name in names:
                return name
    there = sorted({PurePosixPath(name).suffix for name in names} & {*OTHER_FORMS, ".safetensors", ".bin"})
    adapter = "; it is an adapter to another model" if "adapter_config.json" in names else ""
    raise ValueError(
        f"'{repo}' has no weights in a form that is read{adapter} (it has {', '.join(there) or 'no weight files'}). "
        f"Expected {' or '.join((*SINGLE, *INDEXES))}; take the repository of the original model."
    )
