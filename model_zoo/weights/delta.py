"""Vicuna from its published difference and LLaMA, as FastChat's `apply_delta` adds them, a shard at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from model_zoo.weights.catalogue import VICUNA_V0, VICUNA_V11
from model_zoo.weights.headers import read_headers
from model_zoo.weights.index import read_json, shard_paths
from model_zoo.weights.safe import check_shapes, load_tensors
from model_zoo.weights.vicuna import EMBEDDINGS, HEAD, read_llm_fingerprint, vicuna_version
from model_zoo.weights.writing import check_target, copy_tokenizer, new_folder, write_shards

VICUNAS = {"v0": VICUNA_V0, "v1.1": VICUNA_V11}
ROWS = (EMBEDDINGS["llama"][0], HEAD)
"""What has a row per token: the difference of v0 has one more than LLaMA, for [PAD]."""

NORM = "model.norm.weight"
COMPUTED = re.compile(r"rotary_emb\.inv_freq$")
"""What old files hold and every model computes by itself."""

SHARD = 10**9
"""Bytes of one shard that is written: with its two summands, what is in memory at a time."""


def apply_delta(version: str, llama: Path, delta: Path, to: Path) -> Path:
    """Write the folder `to` with Vicuna `version` (`v0` or `v1.1`); returns `to`.

    Tensors are added in float16, as FastChat adds them; a row that LLaMA lacks is that of the difference. The tokenizer
    and config.json are those of the difference.

    Raises FileNotFoundError for missing files, ValueError for folders that are not LLaMA and a difference to it,
    FileExistsError if `to` is not empty, OSError if the disk is too full; nothing is left of `to` then.
    """
    check_target(to)
    config = read_json(delta / "config.json")
    if config.get("model_type") != "llama":
        kind = config.get("model_type")
        raise ValueError(f"{delta}/config.json describes a {kind}. Expected the published difference to LLaMA.")
    found, how = vicuna_version(read_llm_fingerprint(delta))
    if found != version:
        raise ValueError(
            f"'{delta}' is the difference of Vicuna {found} ({how}), not of {version}. Nothing was written."
        )
    bases, deltas = _places(llama), _places(delta)
    headers = {key: header.to(torch.float16) for key, (_, header) in deltas.items()}
    _check_fit(bases, headers, llama, delta)
    read_base, read_delta = _reader(bases), _reader(deltas)
    _check_roles(read_base(NORM), read_delta(NORM), llama, delta)

    def total(key: str) -> Tensor:
        result = read_delta(key).to(torch.float16)
        base = read_base(key).to(torch.float16)
        if len(base) == len(result):
            return result + base
        result = result.clone()  # the file's own pages are never written to
        result[: len(base)] += base
        return result

    need = sum(header.nbytes for header in headers.values())
    with new_folder(to, need) as folder:
        copy_tokenizer(delta, folder)
        write_shards(folder, headers, total, SHARD)
    return to


def _places(folder: Path) -> dict[str, tuple[Path, Tensor]]:
    """Tensor -> (its shard, its header)."""
    return {
        key: (path, header)
        for path in shard_paths(folder)
        for key, header in read_headers(path).items()
        if not COMPUTED.search(key)
    }


def _reader(places: Mapping[str, tuple[Path, Tensor]]) -> Callable[[str], Tensor]:
    """Reads a tensor from its shard; the shard last used stays open (a .bin of the old format is read whole)."""
    open_shard = lru_cache(maxsize=1)(load_tensors)
    return lambda key: open_shard(places[key][0])[key]


def _check_fit(
    bases: Mapping[str, tuple[Path, Tensor]], headers: Mapping[str, Tensor], llama: Path, delta: Path
) -> None:
    rows = {key: header.shape[0] for key, header in headers.items() if key in ROWS}
    wanted = {key: tuple(header.shape) for key, header in headers.items()}
    found = {}
    for key, (_, header) in bases.items():
        if key in rows and 0 <= rows[key] - header.shape[0] <= 1 and header.shape[1:] == headers[key].shape[1:]:
            header = headers[key]  # LLaMA may lack the row of [PAD]
        found[key] = header
    check_shapes(wanted, found, f"{llama} (LLaMA, for the difference {delta})")


def _check_roles(base: Tensor, delta: Tensor, llama: Path, place: Path) -> None:
    """A norm's weights are about 1, their differences far smaller: the two folders are not mixed up."""
    if delta.float().abs().mean() >= base.float().abs().mean():
        raise ValueError(
            f"'{place}' does not look like a difference to '{llama}': its {NORM} is not the smaller one. Expected "
            "llama=LLaMA's folder and delta=the published difference; are the two swapped, or was it added already?"
        )
