"""Names, shapes and dtypes of the tensors in checkpoint files; no tensor data is read and no code in a file runs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from model_zoo.weights.safe import read_pickled, read_safetensors


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
    if path.suffix == ".safetensors":  # mapped, so that nothing but the header is read
        return {key: value.to("meta") for key, value in read_safetensors(path).items()}
    return read_pickled(path, "meta")


def merged_headers(paths: Iterable[Path]) -> dict[str, Tensor]:
    """The merged headers of several files, later ones winning (meta tensors)."""
    header: dict[str, Tensor] = {}
    for path in paths:
        header |= read_headers(path)
    return header
