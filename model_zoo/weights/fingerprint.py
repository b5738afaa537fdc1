"""A fingerprint of weight files that does not depend on how they are sharded, cached on disk."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import torch

from model_zoo.weights.safe import load_tensors
from model_zoo.weights.writing import new_file


def cache_file() -> Path:
    """Where digests are remembered: below $XDG_CACHE_HOME, else ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tvp" / "fingerprints.json"


def tensor_lines(path: Path) -> list[str]:
    """One line `key shape dtype sha256(bytes)` per tensor of a file, read tensor by tensor."""
    lines = []
    for key, tensor in load_tensors(path).items():
        raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
        shape, dtype = "x".join(map(str, tensor.shape)), str(tensor.dtype).removeprefix("torch.")
        lines.append(f"{key} {shape} {dtype} {hashlib.sha256(raw.data).hexdigest()}")
    return lines


def fingerprint(files: Iterable[Path | str]) -> str:
    """sha256 over the sorted tensor lines of all files; a file is read again only if its size or time changed.

    Raises FileNotFoundError for an empty list: a model without weights has no fingerprint.
    """
    paths = sorted(Path(file).resolve() for file in files)
    if not paths:
        raise FileNotFoundError("No weight files to fingerprint. See docs/models.md.")
    known = _read_cache()
    lines: list[str] = []
    for path in paths:
        stat = path.stat()
        key = f"{path}|{stat.st_size}|{stat.st_mtime_ns}"
        if key not in known:
            known = {old: value for old, value in known.items() if not old.startswith(f"{path}|")}
            known[key] = tensor_lines(path)
            _write_cache(known)
        lines += known[key]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def _read_cache() -> dict[str, list[str]]:
    try:
        return dict(json.loads(cache_file().read_text()))
    except (OSError, ValueError):
        return {}


def _write_cache(known: dict[str, list[str]]) -> None:
    # Only a cache: a read-only home costs time, nothing else.
    with suppress(OSError), new_file(cache_file()) as scratch:
        scratch.write_text(json.dumps(known))
