"""Which of a published MLLM's layouts lies in a weights directory: converted, original or hub. Imports no torch.

They are tried in that order and the first complete one is used alone: files of two layouts are never mixed.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from model_zoo.fetch.record import unfinished
from model_zoo.hf.catalogue import HF_MODELS, TINY_PREFIX
from model_zoo.weights.catalogue import PUBLISHED, existing_files, missing_lines
from model_zoo.weights.index import shard_names

MANIFEST, FORMAT = "mllm.json", 1
"""The file that makes a folder a converted one, and its format number."""

VOCABULARIES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "ice_text.model")
"""Files a tokenizer can come from; a folder needs one of them."""


class WeightsLayout(NamedTuple):
    """A complete set of files.

    kind: `converted` (one folder written by `convert`), `original` (the published files) or `hub` (the Hugging Face
        conversion).
    folder: the converted or hub folder; the weights root of original files.
    files: those that hold tensors.
    """

    kind: str
    folder: Path
    files: tuple[Path, ...]


def find_layout(name: str, weights: str | Path) -> WeightsLayout:
    """The layout to load `name` from; a converted folder may be `weights` itself or lie in it under the name.

    Raises FileNotFoundError that lists the missing original files and names the hub folder that would do instead,
    ValueError for a converted folder of another model.
    """
    layout = complete_layout(name, Path(weights))
    if layout is None:
        raise missing_error(name, missing_in_layouts(name, weights), weights)
    return layout


def complete_layout(name: str, weights: Path) -> WeightsLayout | None:
    """The first complete layout, None if there is none. Raises ValueError for a converted folder of another model."""
    folder = converted_folder(name, weights)
    if folder and not folder_lines(folder):
        return WeightsLayout("converted", folder, _shards(folder))
    if not missing_lines(PUBLISHED[name].files, weights):
        return WeightsLayout("original", weights, tuple(existing_files(PUBLISHED[name].files, weights)))
    hub = PUBLISHED[name].hub
    if hub and not hub_lines(name, weights):
        return WeightsLayout("hub", weights / hub, _shards(weights / hub))
    return None


def missing_in_layouts(name: str, weights: str | Path) -> list[str]:
    """Empty if one layout is complete. Else one line per missing file, and one for the hub folder as another way."""
    weights = Path(weights)
    if complete_layout(name, weights):
        return []
    if folder := converted_folder(name, weights):
        return folder_lines(folder)
    lines = missing_lines(PUBLISHED[name].files, weights)
    if hub := PUBLISHED[name].hub:
        absent = hub_lines(name, weights) if (weights / hub).is_dir() else []
        detail = f" (it is there, without {', '.join(absent)})" if absent else ""
        lines += [f"{hub}/: INSTEAD of all of the above, the Hugging Face conversion{detail}. Published: {hub} (hub)"]
    return lines


def missing_error(name: str, lines: Sequence[str], weights: str | Path) -> FileNotFoundError:
    """The one error that lists every missing file, and names the command that gets them."""
    listing = "\n  ".join([*lines, *fetch_hint(name, Path(weights))])
    return FileNotFoundError(f"No complete {name} weights in '{weights}'. Expected:\n  {listing}\nSee docs/models.md.")


def fetch_hint(name: str, weights: Path) -> list[str]:
    """One line with the command that gets the published files of a model; none for what no command gets."""
    hub = name.startswith("hf:") or name in HF_MODELS
    if not hub and (name not in PUBLISHED or converted_folder(name, weights)):
        return []
    return [f"Get them with: {fetch_command(name, weights)}"]


def fetch_command(name: str, weights: Path) -> str:
    """The command that gets a model, a CLIP or hf:ORG/MODEL; that writes a tiny one."""
    what = f"tiny {name.removeprefix(TINY_PREFIX)}" if name.startswith(TINY_PREFIX) else f"fetch {name}"
    return f"python -m model_zoo {what} weights={shlex.quote(str(weights))}"


def layout_files(name: str, weights: str | Path) -> list[Path]:
    """The tensor files of the layout in use; without a complete one, those original files that exist."""
    layout = complete_layout(name, Path(weights))
    return list(layout.files) if layout else existing_files(PUBLISHED[name].files, weights)


def converted_folder(name: str, weights: Path) -> Path | None:
    """`weights` or `weights/<name>` if it holds a manifest. Raises as `read_manifest`."""
    for folder in (weights, weights / name):
        if (folder / MANIFEST).is_file():
            read_manifest(folder, name)
            return folder
    return None


def read_manifest(folder: Path, name: str | None = None) -> dict[str, Any]:
    """The manifest of a converted folder, of any model if no `name` is given.

    Raises ValueError when it is damaged, of a newer format, or of another model than `name`.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        found, version = manifest["name"], int(manifest["format"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}). Expected what `convert` wrote; convert again.") from error
    if version > FORMAT:
        raise ValueError(
            f"{path} has format {version}, this version reads up to {FORMAT}. Update the package, or convert again."
        )
    if found != (name or found):
        raise ValueError(
            f"{folder} holds a converted {found}, but {name} was asked for. Give the folder of {name}, or load {found}."
        )
    return manifest


def folder_lines(folder: Path) -> list[str]:
    """What a converted folder lacks."""
    absent = [name for name in shard_names(folder) if not (folder / name).is_file()]
    tokenizers = [part for part in ("tokenizer", "qformer_tokenizer") if (folder / part).is_dir()] or ["tokenizer"]
    absent += [f"{part}/{VOCABULARIES[0]}" for part in tokenizers if not has_vocabulary(folder / part)]
    return [f"{folder / name}: part of the converted folder. Convert again" for name in absent]


def hub_lines(name: str, weights: Path) -> list[str]:
    """What the hub folder of a model lacks."""
    known = PUBLISHED[name]
    assert known.hub is not None
    folder = weights / known.hub
    absent = [file for file in ("config.json", *shard_names(folder)) if not (folder / file).is_file()]
    if unfinished(folder):
        absent.append("the rest of an interrupted fetch")
    if not has_vocabulary(folder):
        absent.append(VOCABULARIES[0])
    if known.bert and not has_vocabulary(folder / "qformer_tokenizer"):
        absent.append(f"qformer_tokenizer/{VOCABULARIES[0]}")
    return absent


def has_vocabulary(folder: Path) -> bool:
    """Whether a tokenizer can be loaded from the folder."""
    return any((folder / name).is_file() for name in VOCABULARIES)


def _shards(folder: Path) -> tuple[Path, ...]:
    return tuple(folder / name for name in shard_names(folder))
