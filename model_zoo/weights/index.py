"""Which shard files a Hugging Face folder consists of, and its JSON files; imports no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLE = ("model.safetensors", "pytorch_model.bin")


def shard_names(folder: Path) -> list[str]:
    """File names of the weight shards, from the index where there is one (whether or not the shards exist).

    Safetensors win over .bin where both are complete, or neither is: half a download beside a whole copy is ignored.
    Without any weights the answer is the name a single file would have.
    """
    choices = []
    for index, single in zip(INDEXES, SINGLE, strict=True):
        if (folder / index).is_file():
            choices.append(sorted(set(weight_map(folder / index).values())))
        elif (folder / single).is_file():
            choices.append([single])
    complete = [names for names in choices if all((folder / name).is_file() for name in names)]
    return [*complete, *choices, [SINGLE[1]]][0]


def shard_paths(folder: Path, *keys: str) -> list[Path]:
    """The existing shards, with `keys` only those the index names for them.

    Raises FileNotFoundError that names every missing one.
    """
    names = shard_names(folder)
    for path in [folder / index for index in INDEXES] if keys else []:
        where = weight_map(path) if path.is_file() else {}
        if set(where.values()) == set(names):
            names = sorted({where[key] for key in keys if key in where})
            break
    if absent := [name for name in names if not (folder / name).is_file()]:
        raise FileNotFoundError(f"Missing in {folder}: {', '.join(absent)}. See docs/models.md.")
    return [folder / name for name in names]


def weight_map(path: Path) -> dict[str, str]:
    """Tensor -> shard, as an index has it.

    Raises ValueError for another kind of file, and for an index that points out of its folder.
    """
    try:
        where = json.loads(path.read_text())["weight_map"]
        names = sorted(set(where.values()))
        outside = [name for name in names if Path(name).name != name or name in ("", "..")]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{path} is no index of weight shards. Expected JSON with a weight_map; get it again."
        ) from error
    if not names or outside:
        raise ValueError(
            f"{path} names {', '.join(outside) or 'no shards'}. Expected plain file names in the same folder; "
            "an index that points elsewhere is refused. Get it again."
        )
    return where


def read_json(path: Path, *, absent: dict[str, Any] | None = None) -> dict[str, Any]:
    """A JSON object; `absent` where there is no such file.

    Raises FileNotFoundError, IsADirectoryError, or ValueError that names the file and the place.
    """
    if absent is not None and not path.is_file():
        return absent
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder. Expected a JSON file; get the original again.")
    if not path.is_file():
        raise FileNotFoundError(
            f"No {path}. Expected the JSON file that is published with the model. See docs/models.md."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # also UnicodeDecodeError
        raise ValueError(f"{path} is not valid JSON ({error}). Expected the original file; get it again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}. Expected a JSON object; get the original again.")
    return content
