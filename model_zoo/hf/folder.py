"""A Hugging Face folder before anything of it is loaded: where it lies, what is missing, why it cannot work.

Imports no torch.
"""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path

from model_zoo.hf.catalogue import HF_MODELS
from model_zoo.hf.families import family_of
from model_zoo.weights.index import read_json, shard_names
from model_zoo.weights.layouts import missing_error

PREFIX = "hf:"
IGNORED = ("model.safetensors.index.json", "fetched.json")  # the tensors have a digest of their own


def is_hf(name: str) -> bool:
    """Whether a name is one of this room: `hf:ORG/MODEL`, or a named entry."""
    return name.startswith(PREFIX) or name in HF_MODELS


def hub_id(name: str) -> str:
    """ORG/MODEL of `hf:ORG/MODEL` or of a named entry. Raises ValueError for anything else."""
    if name in HF_MODELS:
        return HF_MODELS[name].hub
    parts = name.removeprefix(PREFIX).split("/")
    plain = [part for part in parts if part and part not in (".", "..") and "\\" not in part]
    if not name.startswith(PREFIX) or len(parts) != 2 or plain != parts:
        raise ValueError(
            f"'{name}' names no model of the hub. Expected hf:ORG/MODEL, for example hf:Qwen/Qwen3-VL-2B-Instruct, "
            "whose folder lies below the weights root."
        )
    return "/".join(parts)


def folder_of(name: str, weights: Path | str) -> Path:
    """Where the folder of a name lies below the weights root."""
    return Path(weights).expanduser() / hub_id(name)


def model_type(folder: Path) -> str:
    """The model's type. Raises ValueError where config.json names none."""
    kind = read_json(folder / "config.json").get("model_type")
    if not isinstance(kind, str):
        raise ValueError(f"{folder}/config.json has no model_type. Expected the original file; get it again.")
    return kind


def missing_in_folder(name: str, weights: Path | str) -> list[str]:
    """One line per missing file; empty where the folder is complete."""
    folder, source = folder_of(name, weights), f"{hub_id(name)} (hub)"
    if not folder.is_dir():
        return [f"{folder}: the whole folder of {source}"]
    if _only(folder, "adapter_config.json") or _only(folder, "*.gguf"):
        return []  # `require_folder` says what it is
    lines = [] if (folder / "config.json").is_file() else [f"{folder}/config.json: {source}"]
    tokens = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "tekken.json")
    shards = [shard for shard in shard_names(folder) if not (folder / shard).is_file()]
    if shards == ["pytorch_model.bin"]:
        shards = ["model.safetensors"]
    lines += [f"{folder / shard}: weights of {source}" for shard in shards]
    if not any((folder / file).is_file() for file in tokens):
        lines.append(f"{folder}/tokenizer.json: tokenizer of {source}")
    if not any((folder / file).is_file() for file in ("processor_config.json", "preprocessor_config.json")):
        lines.append(f"{folder}/preprocessor_config.json: image processor of {source}")
    return lines


def shards_of(name: str, weights: Path | str) -> list[Path]:
    """The weight shards that exist."""
    folder = folder_of(name, weights)
    paths = [folder / shard for shard in shard_names(folder)] if folder.is_dir() else []
    return [path for path in paths if path.is_file()]


def text_digest(name: str, weights: Path | str) -> str:
    """sha256 over the small files that a model is read with: configuration, tokenizer, processor, chat template."""
    digest = hashlib.sha256()
    for path in sorted(folder_of(name, weights).iterdir()):
        if path.suffix in (".json", ".jinja", ".model", ".txt") and path.name not in IGNORED:
            digest.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def require_folder(name: str, weights: Path | str) -> Path:
    """The folder of a name, complete and of a kind that can work.

    Raises FileNotFoundError that lists every missing file, ValueError that says why the folder cannot be used.
    """
    if lines := missing_in_folder(name, weights):
        raise missing_error(name, lines, weights)
    refuse(name, weights)
    return folder_of(name, weights)


def refuse(name: str, weights: Path | str) -> None:
    """Raise ValueError that says why a folder that is there cannot be used."""
    if reason := why_not(folder_of(name, weights)):
        raise ValueError(f"{name} in {folder_of(name, weights)} cannot be used: {reason}")


def why_not(folder: Path) -> str:
    """Why a folder that is there cannot be used; empty where nothing speaks against it."""
    if _only(folder, "*.gguf"):
        return "it holds GGUF files, which llama.cpp reads. Expected the original folder with safetensors."
    if _only(folder, "adapter_config.json"):
        base = read_json(folder / "adapter_config.json").get("base_model_name_or_path", "its base model")
        return f"it holds an adapter only. Expected a whole model; merge it into {base} and save that."
    if not all(shard.endswith(".safetensors") for shard in shard_names(folder)):
        return "its weights are pickled (.bin). Expected safetensors; they are on the hub for today's models."
    config = read_json(folder / "config.json")
    kind = model_type(folder)
    if refused := family_of(kind).refused:
        return f"{kind} is not supported: {refused}."
    since, here = family_of(kind).since, version("transformers")
    if since and _release(here) < _release(since):
        return f"{kind} needs transformers {since} or later, this is {here}. `make install` brings the tested one."
    if not has_native_class(kind):
        remote = "auto_map" in config
        why = (
            "needs code from the hub, which is never run"
            if remote
            else "is unknown to this transformers, or reads no pictures"
        )
        return f"its type {kind!r} {why}. Expected an image-text-to-text model; look for a conversion named -hf."
    return ""


def _release(text: str) -> list[int]:
    return [int(part) for part in text.split(".")[:2]]


def has_native_class(kind: str) -> bool:
    """Whether the installed transformers has an image-text-to-text class for a model type."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    return kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES


def _only(folder: Path, pattern: str) -> bool:
    """Whether a folder holds such a file and no model."""
    whole = [*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")]
    whole = [path for path in whole if not path.name.startswith("adapter_")]
    return not whole and any(folder.glob(pattern))
