"""Writing a folder of weights, or a file, so that it is there whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from model_zoo.weights.index import INDEXES
from model_zoo.weights.safe import Tensors

SHARD_BYTES = 4 * 10**9
"""Most bytes of tensors in one shard."""

WEIGHTS = (
    ".bin",
    ".safetensors",
    ".pt",
    ".pth",
    ".h5",
    ".msgpack",
    ".onnx",
    ".ot",
    ".index.json",
    ".py",
    ".md",
    "fetched.json",
)
"""What a tokenizer's folder may also hold and a copy leaves out: weights, their indexes, code, cards, records."""


def check_target(target: Path) -> None:
    """Raises FileExistsError or OSError where `target` cannot be made, before anything is read for it."""
    refuse_existing(target)
    place = target.absolute().parent
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        what = "is read-only for this user" if place.is_dir() else "is no folder"
        raise OSError(
            errno.EACCES,
            f"Cannot write '{target}': '{place}' {what}. Nothing was read yet. Choose another to=DIR, or make "
            "this one writable",
        )


@contextmanager
def new_folder(target: Path, need: int) -> Iterator[Path]:
    """A scratch folder beside `target` that becomes `target` when the block ends well, and is removed otherwise.

    Everything is flushed to disk before the rename. A killed process leaves at most the scratch folder
    `.NAME.PID.partial`, never a part of `target`.

    Args:
        need: bytes about to be written.

    Raises FileExistsError when the target is there and not an empty folder, OSError (ENOSPC) when the disk has less
    room than `need`; nothing is written then.
    """
    target = Path(target)
    refuse_existing(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target.parent).free
    if free < need:
        raise OSError(
            errno.ENOSPC, f"{need / 1e9:.2f} GB to write and {free / 1e9:.2f} GB free. Make room or write elsewhere"
        )
    scratch = target.parent / f".{target.name}.{os.getpid()}.partial"
    shutil.rmtree(scratch, ignore_errors=True)  # of a killed process that had this number
    scratch.mkdir()
    try:
        yield scratch
        for path in [*scratch.rglob("*"), scratch]:
            _flush(path)
        refuse_existing(target)
        scratch.rename(target)
        _flush(target.parent)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


@contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """A scratch file beside `target` that replaces it when the block ends well, and is removed otherwise."""
    scratch = target.with_name(f".{target.name}.{os.getpid()}.partial")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield scratch
        _flush(scratch)
        scratch.replace(target)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def refuse_existing(target: Path) -> None:
    """Raise FileExistsError unless the target is absent or an empty folder."""
    if target.is_symlink() or target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise FileExistsError(f"{target} exists and is not an empty folder. Nothing was written; give a new folder.")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Indented JSON with a newline at its end."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_shards(
    folder: Path, tensors: Tensors, read: Callable[[str], Tensor] | None = None, limit: int | None = None
) -> None:
    """Safetensors shards of at most `limit` bytes (SHARD_BYTES) and their index; one shard at a time is in memory.

    read: gives a tensor when its shard is written; `tensors` may then be on the meta device.
    """
    read = read or tensors.__getitem__
    shards = plan_shards(tensors, limit or SHARD_BYTES)
    names = [f"model-{n:05d}-of-{len(shards):05d}.safetensors" for n in range(1, len(shards) + 1)]
    total = sum(value.nbytes for value in tensors.values())
    with tqdm(total=total, unit="B", unit_scale=True, desc=folder.name, disable=None) as bar:
        for name, keys in zip(names, shards, strict=True):
            # A copy each: safetensors refuses slices and tensors that are not contiguous.
            save_file({key: read(key).detach().cpu().clone().contiguous() for key in keys}, folder / name)
            bar.update(sum(tensors[key].nbytes for key in keys))
    where = {key: name for name, keys in zip(names, shards, strict=True) for key in keys}
    write_json(folder / INDEXES[0], {"metadata": {"total_size": total}, "weight_map": where})


def plan_shards(tensors: Tensors, limit: int) -> list[list[str]]:
    """Names in order, cut where the next tensor would exceed `limit` bytes; a larger tensor is a shard of its own.

    >>> import torch
    >>> plan_shards({"a": torch.zeros(2), "b": torch.zeros(2), "c": torch.zeros(9)}, 16)
    [['a', 'b'], ['c']]
    """
    shards: list[list[str]] = []
    room = 0
    for key, value in tensors.items():
        if not shards or value.nbytes > room:
            shards.append([])
            room = limit
        shards[-1].append(key)
        room -= value.nbytes
    return shards


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the files of a tokenizer's folder, weights, code and sub-folders left out."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        if path.is_file() and not path.name.endswith(WEIGHTS) and not path.name.startswith("."):
            shutil.copyfile(path, target / path.name)


def _flush(path: Path) -> None:
    """Make sure a file, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
