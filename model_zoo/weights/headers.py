"""Names, shapes and dtypes of the tensors in checkpoint files; no tensor data is read and no code in a file runs."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from model_zoo.weights.index import INDEXES, shard_names
from model_zoo.weights.safe import damaged, read_pickled


def read_headers(path: Path | str) -> dict[str, Tensor]:
    """The tensors of a .pth, .bin or .safetensors file on the meta device; a {"model": {...}} wrapper is opened.

    Raises FileNotFoundError, IsADirectoryError, PermissionError, or ValueError for a damaged file and for one that
    asks to run code.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder. Expected a weight file; take the file itself out of the folder.")
    if not path.is_file():
        raise FileNotFoundError(f"No weight file {path}. See docs/models.md.")
    return _safetensors(path) if path.suffix == ".safetensors" else read_pickled(path, "meta")


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
            return {key: _meta(part.get_shape(), part.get_dtype()) for key, part in slices.items()}
    except SafetensorError as error:
        raise ValueError(damaged(path, error)) from error


SAFE_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


def _meta(shape: list[int], dtype: str) -> Tensor:
    return torch.empty(shape, dtype=SAFE_DTYPES.get(dtype, torch.uint8), device="meta")


def folder_headers(folder: Path, *keys: str) -> dict[str, Tensor]:
    """Headers of all shards of a folder, or with `keys` only of the shards its index names for them.

    Raises FileNotFoundError that names every missing shard.
    """
    names = _shards_of(folder, keys) if keys else shard_names(folder)
    if absent := [name for name in names if not (folder / name).is_file()]:
        raise FileNotFoundError(f"Missing in {folder}: {', '.join(absent)}. See docs/models.md.")
    found: dict[str, Tensor] = {}
    for name in names:
        found |= read_headers(folder / name)
    return found


def _shards_of(folder: Path, keys: tuple[str, ...]) -> list[str]:
    names = shard_names(folder)  # complains about an unreadable index
    for index in INDEXES:
        if (folder / index).is_file():
            where = json.loads((folder / index).read_text())["weight_map"]
            if set(where.values()) == set(names):
                return sorted({where[key] for key in keys if key in where})
    return names
