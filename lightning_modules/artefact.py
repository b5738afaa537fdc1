"""The prompt artefact: a finished prompt as one folder that needs no code of ours to be understood.

    prompt.safetensors   `delta` (3, frame, frame) float32, exactly what was learned
    prompt.png           the same as an 8-bit RGB picture
    manifest.json        what it is, how to put it on a picture, where it comes from, and the hashes of the other two

Safetensors, PNG and JSON only: reading an artefact never executes anything.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from lightning_modules.artefact_png import (
    LEAST_SCALE,
    PromptTensors,
    check_geometry,
    decode_pixels,
    encode_delta,
    png_bytes,
    read_png,
)
from lightning_modules.atomic import replace_file, replace_folder, settled_folder
from lightning_modules.prompt_kinds import prompt_kind

FORMAT, FORMAT_VERSION = "tvp-prompt", 1
FLOAT_FILE, PNG_FILE, MANIFEST_FILE = "prompt.safetensors", "prompt.png", "manifest.json"
CARD_FILE = "README.md"  # only of what `save_pretrained` writes
RUN_PROMPT, RUN_CONFIG = "prompt", "config.yaml"  # of a run's folder
READINGS = {"float": FLOAT_FILE, "png": PNG_FILE}
MAX_FRAME = 4096
# What save_artefact itself writes into the manifest; everything else is the caller's.
OWN_ENTRIES = {"format", "format_version", "kind", "frame", "pad", "bounds", "image_size", "preprocessing"}
OWN_ENTRIES |= {"png_encoding", "png_max_error", "png_clamped_fraction", "prompt", "prompt_png", "files"}
KIND_ENTRIES = {"scaled": "scale", "lowrank": "rank"}
"""Kind -> the one number more that its manifest holds."""


def prompt_sha256(delta: Tensor) -> str:
    """The name of a prompt in results: sha256 of delta's float32 bytes (C order, little endian)."""
    values = delta.detach().to("cpu", torch.float32).contiguous().numpy()
    return hashlib.sha256(values.astype("<f4", copy=False).tobytes()).hexdigest()


def save_artefact(
    prompt: PromptTensors,
    folder: str | Path,
    manifest: Mapping[str, Any],
    *,
    card: Callable[[Mapping[str, Any]], str] | None = None,
) -> Path:
    """Write `prompt` as an artefact; all three files or none, and an older artefact is replaced only when complete.

    Args:
        prompt: `prompt.tensors` of a finished prompt, after `project_()`.
        folder: new, empty, or an older artefact.
        manifest: JSON-able entries of the caller: mode, task, source, training data fingerprint, scores, licence...
        card: makes the README.md of the whole manifest; without it there is none.

    Returns:
        The absolute folder.

    Raises:
        ValueError: delta is not finite, not zero outside its mask or out of bounds; an entry is not JSON or is ours.
        FileExistsError: the folder holds something else.
        OSError: full disk or no permission; what was there before is untouched.
    """
    delta = prompt.delta
    _check_delta(delta, prompt, where="This prompt")
    pixels = encode_delta(delta, prompt_kind(prompt.kind).encoding)
    files = {FLOAT_FILE: save({"delta": delta}, metadata={"format": "pt"}), PNG_FILE: png_bytes(pixels)}
    own = _own_entries(prompt, delta, decode_pixels(pixels, prompt), files)
    clash = sorted({*OWN_ENTRIES, *KIND_ENTRIES.values()} & manifest.keys())
    if clash:
        raise ValueError(f"The manifest entries {', '.join(clash)} are written by save_artefact. Expected others.")
    whole = {**own, **manifest}
    texts = {MANIFEST_FILE: _json_bytes(whole)} | ({CARD_FILE: card(whole).encode()} if card else {})
    return replace_folder(folder, {**files, **texts})


def update_manifest(folder: str | Path, entries: Mapping[str, Any]) -> dict[str, Any]:
    """Add or replace the caller's entries (e.g. scores re-measured from the PNG); the whole new manifest is returned.

    Raises:
        ValueError: an entry is not JSON, or is one that describes the files.
    """
    manifest = read_manifest(folder)
    clash = sorted({*OWN_ENTRIES, *KIND_ENTRIES.values()} & entries.keys())
    if clash:
        raise ValueError(f"The manifest entries {', '.join(clash)} describe the files. Save a new artefact instead.")
    manifest.update(entries)
    replace_file(find_artefact(folder) / MANIFEST_FILE, _json_bytes(manifest))
    return manifest


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of an artefact, its format and the entries needed to read the prompt checked."""
    try:
        manifest = json.loads(_read(folder, MANIFEST_FILE))
    except ValueError as error:
        raise ValueError(f"'{folder}/{MANIFEST_FILE}' is not JSON ({error}). Export the prompt again.") from None
    found = (manifest.get("format"), manifest.get("format_version")) if isinstance(manifest, dict) else None
    if found != (FORMAT, FORMAT_VERSION):
        raise ValueError(
            f"'{folder}' has format {found}. Expected {(FORMAT, FORMAT_VERSION)}: read it with the release that wrote "
            "it, or export it again."
        )
    needed = {"kind": str, "frame": int, "pad": int, "bounds": str, "prompt": str, "files": dict}
    wrong = [key for key, kind in needed.items() if not isinstance(manifest.get(key), kind)]
    if wrong or not 2 < manifest["frame"] <= MAX_FRAME:
        raise ValueError(f"'{folder}/{MANIFEST_FILE}' has no usable {', '.join(wrong) or 'frame'}. Export it again.")
    return manifest


def load_artefact(folder: str | Path, *, reading: str = "float") -> PromptTensors:
    """Read a prompt back, bit for bit what the file says; `Prompt.load` makes a prompt of it.

    Args:
        reading: `float` reads prompt.safetensors, `png` the 8-bit picture. Only that file and the manifest are needed.
            Inside their range the two differ by at most 0.5/255, or by 1/255 where the PNG spans [-1, 1] because values
            are added to pixels.

    Raises:
        ValueError: unknown reading or format; damaged file (hash, shape, dtype, size, mode, values).
        FileNotFoundError: no such folder or file.
    """
    if reading not in READINGS:
        raise ValueError(f"Unknown reading '{reading}'. Available: {', '.join(READINGS)}.")
    manifest = read_manifest(folder)
    kind, frame, pad, bounds = (manifest[key] for key in ("kind", "frame", "pad", "bounds"))
    check_geometry(frame, pad, bounds, kind)
    if bounds == "sigmoid":
        raise ValueError(f"'{folder}/{MANIFEST_FILE}' has bounds sigmoid. Expected image: on disk they are pixels.")
    numbers = _numbers(manifest, where=f"'{folder}/{MANIFEST_FILE}'")
    prompt = PromptTensors(kind, frame, pad, bounds, torch.zeros(3, frame, frame), **numbers)  # its pixels come next
    name, where = READINGS[reading], f"'{folder}/{READINGS[reading]}'"
    data = _read(folder, name)
    delta = (_read_float if reading == "float" else read_png)(data, prompt, where=where)
    if hashlib.sha256(data).hexdigest() != manifest["files"].get(name):
        raise ValueError(f"{where} is not the file its manifest describes (sha256 differs). Copy it again.")
    if reading == "float" and prompt_sha256(delta) != manifest["prompt"]:
        raise ValueError(f"'{folder}' holds another prompt than its manifest names (sha256 of delta). Copy it again.")
    _check_delta(delta, prompt, where=where)
    return prompt._replace(delta=delta)


def _numbers(manifest: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """The further number of the manifest's kind, checked."""
    name = KIND_ENTRIES.get(manifest["kind"])
    if name is None:
        return {}
    number = manifest.get(name)
    usable = {
        "scale": isinstance(number, float) and LEAST_SCALE <= number <= 1,
        "rank": isinstance(number, int) and number >= 1,
    }
    if not usable[name]:
        raise ValueError(f"{where} has no usable {name}. Export it again.")
    return {name: number}


def _own_entries(prompt: PromptTensors, delta: Tensor, decoded: Tensor, files: Mapping[str, bytes]) -> dict[str, Any]:
    border, kind = delta[:, prompt.mask[0] > 0], prompt_kind(prompt.kind)
    low = -1.0 if kind.is_added else 0.0
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "kind": prompt.kind,
        "frame": prompt.frame,
        "pad": prompt.pad,
        "bounds": prompt.bounds,
        **prompt.numbers,
        "image_size": prompt.image_size,
        "png_encoding": kind.encoding,
        "png_clamped_fraction": ((border < low) | (border > 1)).float().mean().item(),
        "png_max_error": (decoded - delta).abs().max().item(),
        "preprocessing": _preprocessing(prompt),
        "prompt": prompt_sha256(delta),
        "prompt_png": prompt_sha256(decoded),
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }


def _preprocessing(prompt: PromptTensors) -> dict[str, Any]:
    """The contract of `lightning_modules.apply_prompt.apply_prompt`, for readers without this code."""
    size, frame, pad = prompt.image_size, prompt.frame, prompt.pad
    put = prompt_kind(prompt.kind).put.format(frame=frame, pad=pad, **prompt.numbers)
    return {
        "words": f"Turn the picture upright (EXIF), convert to RGB, crop the centre square, resize to {size} x {size} "
        f"(bicubic, antialiased). {put} Give the {frame} x {frame} result to any model as if it were the photograph; "
        "the model's own preprocessing resizes and normalises it.",
        "exif_orientation": True,
        "colour": "RGB",
        "crop": "centre square",
        "resize": {"size": size, "filter": "bicubic", "antialias": True},
        "value_range": [0.0, 1.0],
        "place": {"pad": [pad, pad], "random_patch": "by the picture", "scaled": "centre"}.get(prompt.kind, [0, 0]),
        "combine": {"pad": "paste", "scaled": "blend"}.get(prompt.kind, "add"),
        "clamp": prompt.bounds == "image",
        "normalise": "by each model, after the prompt is on",
    }


def _check_delta(delta: Tensor, prompt: PromptTensors, *, where: str) -> None:
    low = -1.0 if prompt_kind(prompt.kind).is_added else 0.0
    if not torch.isfinite(delta).all():
        raise ValueError(f"{where} holds NaN or infinite values. Expected finite pixels; train or export it again.")
    if (delta * (1 - prompt.mask)).any():
        bordered = prompt.kind in ("pad", "overlay")
        place = f"inside its border of {prompt.pad} px" if bordered else f"where kind {prompt.kind} holds nothing"
        raise ValueError(f"{where} is not zero {place}. Expected prompt.project_() first.")
    if prompt.bounds == "image" and (delta.min() < low or delta.max() > 1):
        raise ValueError(f"{where} leaves [{low:g}, 1], but its bounds are `image`. Expected prompt.project_() first.")


def find_artefact(path: str | Path) -> Path:
    """The artefact's folder: `path`, the `prompt` folder of the run `path`, or the folder of its file `path`.

    Raises: FileNotFoundError, ValueError saying what to give instead.
    """
    path, place = Path(path), settled_folder(path)
    if place.is_dir():
        inner = settled_folder(place / RUN_PROMPT)
        return place if (place / MANIFEST_FILE).is_file() or not inner.is_dir() else inner
    if (place.name in READINGS.values() or place.name == MANIFEST_FILE) and place.is_file():
        return place.parent
    if not path.exists():
        raise FileNotFoundError(f"No prompt folder '{path}'. Expected a folder with {FLOAT_FILE} and {MANIFEST_FILE}.")
    raise ValueError(f"'{path}' is a file. Expected a prompt's folder ({FLOAT_FILE}, {MANIFEST_FILE}). {_advice(path)}")


def _advice(path: Path) -> str:
    """What to do with a file that is none of an artefact's."""
    if path.suffix in (".ckpt", ".pth", ".pt") or path.parent.name == "checkpoints":
        run = next((folder for folder in path.parents if (folder / RUN_PROMPT / MANIFEST_FILE).is_file()), None)
        if run is not None:
            return f"That is a checkpoint; the run's finished prompt is '{run / RUN_PROMPT}'."
        return (
            "That is a checkpoint: end its run with `make train resume=RUN`, which writes RUN/prompt, or turn the "
            "authors' file into a prompt with `python -m experiments.import_prompt`."
        )
    if path.suffix in (".zip", ".tar", ".gz", ".tgz"):
        return "Unpack it, then give the folder."
    return "Give the folder that `make train` wrote: RUN/prompt."


def _missing_file(folder: Path, name: str) -> str:
    """Why an existing folder holds no `name`, and what to do."""
    places = (f"*/{MANIFEST_FILE}", *(f"{deeper}{RUN_PROMPT}/{MANIFEST_FILE}" for deeper in ("*/", "*/*/")))
    inner = sorted({manifest.parent for place in places for manifest in folder.glob(place)})
    if name == MANIFEST_FILE and inner:
        return f"It holds {len(inner)} prompt folder(s), for example '{inner[0]}': give one of them."
    if (folder / RUN_CONFIG).is_file():
        return f"That run has not written its prompt yet: end it with `make train resume={folder}`."
    return "Expected a prompt artefact; copy the whole folder."


def _read(folder: str | Path, name: str) -> bytes:
    place = find_artefact(folder)
    if not (place / name).is_file():
        raise FileNotFoundError(f"No {name} in '{place}'. {_missing_file(place, name)}")
    return (place / name).read_bytes()


def _read_float(data: bytes, prompt: PromptTensors, *, where: str) -> Tensor:
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise ValueError(f"{where} is damaged or cut short ({error}). Copy it again.") from None
    delta, shape = tensors.get("delta"), tuple(prompt.delta.shape)
    if delta is None or tuple(delta.shape) != shape or delta.dtype != torch.float32:
        found = {key: (tuple(value.shape), str(value.dtype)) for key, value in tensors.items()}
        raise ValueError(f"{where} holds {found}. Expected delta {shape} float32. Export it again.")
    return delta


def _json_bytes(manifest: Mapping[str, Any]) -> bytes:
    try:
        return (json.dumps(manifest, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"A manifest entry is not JSON ({error}). Expected text, finite numbers, lists, dicts."
        ) from None
