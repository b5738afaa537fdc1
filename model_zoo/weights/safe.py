"""Reading checkpoints without running anything that is in them."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

Tensors = Mapping[str, Tensor]
"""The tensors of a checkpoint by name; on the meta device where only shapes are known."""

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}


def as_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """A torch dtype from its name. Raises ValueError for an unknown one."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise ValueError(f"Unknown dtype '{dtype}'. Expected one of {', '.join(DTYPES)}.")
    return DTYPES[dtype]


def load_tensors(path: Path | str) -> dict[str, Tensor]:
    """The tensors of a .pth, .bin or .safetensors file by name, memory-mapped where the format allows.

    A {"model": {...}} wrapper is opened. Raises FileNotFoundError, or ValueError for a damaged file and for one that
    asks to run code (it is refused, never executed).
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No weight file {path}. See docs/models.md.")
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    return read_pickled(path)


def read_pickled(path: Path, device: str = "cpu") -> dict[str, Tensor]:
    """The tensors of a .pth or .bin file, mapped where the format allows; on `meta` only their names and shapes.

    Raises as `load_tensors`, and PermissionError.
    """
    content = _read_pickle(path, device)
    content = content.get("model", content) if isinstance(content, Mapping) else content
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path} does not hold a flat dictionary of tensors. Expected the original checkpoint file.")
    return dict(content)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, mapped. Raises ValueError for a damaged file."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(damaged(path, error)) from error


def _read_pickle(path: Path, device: str) -> object:
    if _is_torchscript(path):
        raise ValueError(
            f"{path} is a TorchScript archive: it carries code and was refused. Expected the same weights as plain "
            "tensors, e.g. the .safetensors file of a hub copy."
        )
    try:
        return torch.load(path, map_location=device, weights_only=True, mmap=_is_zip(path))
    except PermissionError:
        raise
    except pickle.UnpicklingError as error:
        raise ValueError(_refused(path, str(error))) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError) as error:
        raise ValueError(damaged(path, error)) from error


def _refused(path: Path, error: str) -> str:
    """Why the restricted unpickler stopped. It runs nothing, so nothing ran."""
    if "Unsupported operand" in error:  # not even a checkpoint: an error page, a git-lfs pointer, another pickle
        with path.open("rb") as file:
            begins = file.read(24)
        return (
            f"{path} is no checkpoint file, so it was refused (it begins with {begins!r}). Expected plain tensors as "
            "torch.save writes them; a web page or a git-lfs pointer in its place means that the download failed."
        )
    if "global" in error.lower() or "Unsupported class" in error:
        return (
            f"{path} asks to run Python code while loading, so it was refused (nothing ran). Expected a file of "
            "plain tensors; download the original again, or convert it to safetensors in a sandbox."
        )
    return damaged(path, error.splitlines()[-1])


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"  # the older format cannot be memory-mapped


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def damaged(path: Path, error: object) -> str:
    """What to say of a file that breaks off, or is not what its name says."""
    size = path.stat().st_size
    return f"{path} ({size} bytes) is damaged or cut short: {error}. Download it again and compare its size or sha256."


def take_prefix(tensors: Tensors, prefix: str) -> dict[str, Tensor]:
    """The entries below `prefix`, without it."""
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}


def check_fit(module: nn.Module, tensors: Tensors, source: str, tied: Iterable[str] = ()) -> None:
    """Compare names and shapes (of tensors on any device) with a module's, `tied` names left out.

    Raises ValueError naming every missing, unexpected and mis-shaped key.
    """
    skip = set(tied)
    wanted = {key: value.shape for key, value in module.state_dict(keep_vars=True).items() if key not in skip}
    check_shapes(wanted, tensors, source)


def check_shapes(
    wanted: Mapping[str, Sequence[int]], tensors: Tensors, source: str, unread: Iterable[str] = ()
) -> None:
    """Raise ValueError naming every missing, unexpected and mis-shaped key; `unread` ones may be there."""
    wrong = [
        f"{key}: {tuple(tensors[key].shape)} instead of {tuple(shape)}"
        for key, shape in wanted.items()
        if key in tensors and tuple(tensors[key].shape) != tuple(shape)
    ]
    known = {*wanted, *unread}
    missing, extra = [key for key in wanted if key not in tensors], [key for key in tensors if key not in known]
    complain(source, missing=missing, unexpected=extra, misshaped=wrong)


def own(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A tensor of a file as `dtype` in memory of its own, so that the file need not stay mapped (or in memory).

    None keeps the dtype and the mapping: no memory is taken, but the file must stay. Integers keep their dtype.
    """
    if dtype is None:
        return value
    return value.to(dtype if value.is_floating_point() else value.dtype, copy=True)


def put_(module: nn.Module, key: str, value: Tensor) -> None:
    """Make `value` the frozen parameter (or the buffer) `key` of a module; what was there is dropped, not copied into.

    An `nn.Parameter` is shared, not wrapped: that is how tied weights are stored once.
    """
    path, _, name = key.rpartition(".")
    owner = module.get_submodule(path)
    if name in dict(owner.named_buffers(recurse=False)):
        owner.register_buffer(name, value)
    else:
        shared = value if isinstance(value, nn.Parameter) else nn.Parameter(value, requires_grad=False)
        owner.register_parameter(name, shared)


def complain(source: str, **problems: Iterable[str]) -> None:
    """Raise one ValueError that lists named problems with a checkpoint's keys; nothing if there are none."""
    parts = [f"{kind} {_short(list(keys))}" for kind, keys in problems.items() if list(keys)]
    if parts:
        raise ValueError(
            f"{source} does not fit the model: {'; '.join(parts)}. Expected the original checkpoint of this MLLM; "
            "another model's file, or a converted one, has other keys."
        )


def _short(keys: list[str], limit: int = 12) -> str:
    more = f" and {len(keys) - limit} more" if len(keys) > limit else ""
    return ", ".join(keys[:limit]) + more
