"""Turn the authors' released prompt into a prompt artefact.

The file is a torch checkpoint: a dict whose `perturbation` is a (3, 224, 224) tensor. It is read with weights_only, so
that a checkpoint carrying code is refused, never run.
"""

from __future__ import annotations

import hashlib
import pickle
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules.writable import require_writable
from experiments.cli import parse_options, run_command

if TYPE_CHECKING:
    from torch import Tensor

MAX_BYTES = 256 * 2**20
INSIDE_TOLERANCE = 1e-6


@dataclass
class Options:
    """
    python -m experiments.import_prompt from=FILE.pth out=DIR [key=value ...]
                              e.g. from=save/checkpoint_best.pth out=prompts/tvp_cifar10

    The prompt is imported as it is: unbounded. Pixels inside the border must be zero (up to 1e-6), else it is refused.
    """

    from_: Path
    """a torch checkpoint: a dict with `perturbation` (3, frame, frame)"""
    out: Path
    """the artefact to write (new, empty, or an older artefact)"""
    pad: int = 30
    """width of the border in pixels"""
    key: str = "perturbation"
    """the entry that holds the prompt"""
    source: str = ""
    """noted in the manifest, e.g. minigpt4"""
    task: str = ""
    """noted in the manifest, e.g. cifar10"""
    licence: str = ""
    """noted in the manifest (the authors' code is MIT)"""


def main(argv: Sequence[str]) -> int:
    options = parse_options(Options, argv)
    if options is None:
        return 0
    path = options.from_
    require_writable(options.out.absolute().parent, "the folder of the prompt", "out=DIR")
    tensor = read_perturbation(path, options.key)
    prompt = build_imported(tensor, options.pad)
    from lightning_modules.artefact import prompt_sha256, read_manifest
    from lightning_modules.prompts import Prompt

    noted = {key: text for key in ("source", "task", "licence") if (text := getattr(options, key))}
    origin = {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "key": options.key}
    folder = prompt.save(options.out, {"mode": "official", "imported_from": origin, **noted})
    Prompt.load(folder, reading="png")
    manifest = read_manifest(folder)
    if prompt_sha256(Prompt.load(folder).delta) != manifest["prompt"]:
        raise ValueError(f"'{folder}' does not read back as written. Check the disk and import again.")
    print(f"Imported '{path}' as '{folder}': frame {prompt.frame}, pad {prompt.pad}, unbounded.")
    print(f"prompt {manifest['prompt']}")
    border = prompt.delta.detach()[:, prompt.mask[0] > 0]
    outside = manifest["png_clamped_fraction"]
    print(f"Values from {border.min():.3f} to {border.max():.3f}; {outside:.1%} of the border lies outside [0, 1].")
    if outside:
        print("prompt.png clamps those: it is another prompt than the one with the published score (reading=float).")
    return 0


def read_perturbation(path: Path, key: str) -> Tensor:
    """The prompt tensor (3, F, F) float32 of a checkpoint, read without running anything in it.

    Raises:
        FileNotFoundError, ValueError: no such file, too large, not a checkpoint, carries code, no usable tensor.
    """
    import torch

    if not path.is_file():
        raise FileNotFoundError(f"No checkpoint '{path}'. Expected from=checkpoint_best.pth, see --help.")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"'{path}' has {path.stat().st_size >> 20} MiB. Expected a prompt of about 1 MiB.")
    _check_archive(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))  # torch's advice to try without weights_only is left out
        what = f"it asks for '{refused.group(1)}'" if refused else "its contents are no plain tensors"
        raise ValueError(
            f"'{path}' was refused: {what}. Expected a torch checkpoint of tensors only; nothing in it was run."
        ) from None
    except Exception as error:  # hostile bytes raise anything: RuntimeError, EOFError, KeyError...
        raise ValueError(
            f"'{path}' is damaged or no torch checkpoint ({type(error).__name__}). Get it again."
        ) from None
    tensor = content.get(key) if isinstance(content, dict) else None
    if not isinstance(tensor, torch.Tensor):
        found = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"'{path}' has no tensor '{key}'. Found: {found}. Choose another with key=NAME.")
    if tensor.ndim != 3 or tensor.shape[0] != 3 or tensor.shape[1] != tensor.shape[2] or not tensor.is_floating_point():
        raise ValueError(
            f"'{key}' is {tuple(tensor.shape)} {tensor.dtype}. Expected floats of shape (3, frame, frame)."
        )
    return tensor.detach().float().clone()


def build_imported(tensor: Tensor, pad: int) -> Any:
    """An unbounded PadPrompt holding `tensor`; the inside, zero up to rounding, becomes exactly zero.

    Raises:
        ValueError: the inside is not zero, so `pad` is not the border this prompt was trained with.
    """
    from lightning_modules.prompts import build_prompt

    prompt = build_prompt("pad", frame=tensor.shape[-1], pad=pad, bounds="unbounded")
    inside = (tensor * (1 - prompt.mask)).abs()
    if inside.max() > INSIDE_TOLERANCE:
        raise ValueError(
            f"{(inside > INSIDE_TOLERANCE).float().mean():.1%} of the values lie inside a border of {pad} px. Expected "
            f"zeros there. {_suggest_pad(tensor)}"
        )
    prompt.delta.data.copy_(tensor)
    prompt.project_()
    return prompt


def _suggest_pad(tensor: Tensor) -> str:
    frame = tensor.shape[-1]
    for pad in range(1, frame // 2):
        if tensor[:, pad : frame - pad, pad : frame - pad].abs().max() <= INSIDE_TOLERANCE:
            return f"This prompt fits pad={pad}."
    return "No border width fits: this is not a border prompt."


def _check_archive(path: Path) -> None:
    """Refuse a zip that unpacks to more than MAX_BYTES."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            total = sum(item.file_size for item in archive.infolist())
        if total > MAX_BYTES:
            raise ValueError(f"'{path}' unpacks to {total >> 20} MiB. Expected a prompt of about 1 MiB.")


if __name__ == "__main__":
    run_command(main)
