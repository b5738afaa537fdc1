"""Reading pickled arrays without running what is in them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np


def load_plain_pickle(path: str | Path) -> Any:
    """Dicts, lists, tuples, numbers, text, bytes and numpy arrays from a pickle; Python 2 strings become latin-1 text.

    Raises: ValueError naming the file, when it asks for anything else (which is not run) or is damaged.
    """
    with open(path, "rb") as file:
        return _load(file, str(path))


def _load(file: BinaryIO, name: str) -> Any:
    try:
        return _PlainUnpickler(file, encoding="latin1").load()
    except _ForbiddenError as error:
        raise ValueError(
            f"'{name}' is a pickle that asks for '{error}', which was not run. Expected only numbers, text, lists, "
            "dicts and numpy arrays; do not use this file, get it from its publisher."
        ) from None
    except Exception as error:  # a damaged pickle can raise almost anything
        raise ValueError(
            f"'{name}' is not a readable pickle: {error or type(error).__name__}. Expected a complete file of plain "
            "data; get it again from its publisher."
        ) from error


class _ForbiddenError(Exception):
    pass


def _empty_array(*_: Any) -> np.ndarray:
    """Stands in for numpy's `_reconstruct`: always the empty array whose state the pickle then sets."""
    return np.ndarray((0,), dtype=np.uint8)


def _latin1_bytes(text: str, encoding: str = "latin1") -> bytes:
    """Undo how Python 3 writes bytes into old pickle protocols; no other codec is allowed."""
    if encoding != "latin1":
        raise _ForbiddenError(f"_codecs.encode with {encoding!r}")
    return text.encode("latin1")


def _plain_dtype(kind: str, *_: Any) -> np.dtype:
    """A number type; never 'O', whose elements would be Python objects."""
    if not isinstance(kind, str) or kind[:1] not in "biuf?":
        raise _ForbiddenError(f"numpy.dtype of {kind!r}")
    return np.dtype(kind)


_ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _plain_dtype,
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy._core.multiarray", "_reconstruct"): _empty_array,
    ("_codecs", "encode"): _latin1_bytes,
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise _ForbiddenError(f"{module}.{name}") from None

    def persistent_load(self, pid: Any) -> Any:
        raise _ForbiddenError(f"persistent object {pid!r}")
