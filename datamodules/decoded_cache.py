"""Decoded and resized pictures kept on disk, memory-mapped: the next run, worker or process does not decode again.

One sparse file per (contents, size): N pictures (3, S, S) uint8, then N CRC-32 of them. A picture is written when it
is first asked for, its checksum after it; it counts only when the checksum fits, so that a killed run, a full disk or
two processes writing at once leave a picture either whole or absent. Nothing is ever changed in place: other contents
have another name. Delete the folder at any time.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import warnings
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.images import reader_version
from datamodules.whole_files.disk import cache_root
from datamodules.writable import CACHES, say_unwritable, write_problem

VERSION = 1
GIB = 2**30
LIMIT_GIB = 20.0  # of the whole folder; TVP_CACHE_GIB changes it


def cache_folder() -> Path:
    """`cache/decoded`, or below TVP_CACHE."""
    return cache_root() / "decoded"


def content_key(settings: Any, rows: Iterable[tuple[str, bytes]]) -> str:
    """sha256 over the settings of the transform, the decoder's version, and (id, stored bytes) of every row in order.

    Of what is stored, not of what it decodes to (as `fingerprint` does): reading is fast, decoding is what is saved.
    """
    digest = hashlib.sha256(f"{VERSION} {reader_version()} {settings}\n".encode())
    for row_id, content in rows:
        digest.update(f"{row_id} {hashlib.sha256(content).hexdigest()}\n".encode())
    return digest.hexdigest()


class DecodedCache:
    """`n` pictures of `size` x `size` pixels in `cache_folder()/<name>.u8`. Safe to fork and to pickle."""

    def __init__(self, name: str, n: int, size: int) -> None:
        self.path, self.n, self.shape = cache_folder() / f"{name}.u8", n, (3, size, size)
        self._bytes = 3 * size * size
        self._full = False
        self._make_room()
        self._open()

    def get(self, slot: int, make: Callable[[], Tensor]) -> Tensor:
        """Picture `slot`, float in [0, 1]; `make()` when it is not there yet. Equal bit for bit either way."""
        stored = self._load(slot)
        if stored is not None:
            return _to_float(stored)
        image = make()
        pixels = (image * 255).round().to(torch.uint8)
        if torch.equal(_to_float(pixels), image):  # what did not come from 8 bits is not kept
            self._save(slot, pixels.numpy().tobytes())
        return image

    def _load(self, slot: int) -> Tensor | None:
        if not hasattr(self, "_map"):
            return None
        start, check = slot * self._bytes, self.n * self._bytes + 4 * slot
        expected = int.from_bytes(self._map[check : check + 4], "little")
        if expected == 0:
            return None
        data = self._map[start : start + self._bytes]
        if zlib.crc32(data) != expected:
            return None
        return torch.from_numpy(np.frombuffer(bytearray(data), dtype=np.uint8)).view(self.shape)

    def _save(self, slot: int, data: bytes) -> None:
        """Written through the file, not the map: a full disk is then an error here and not a killed process."""
        if self._full:
            return
        try:
            _write_all(self._file, data, slot * self._bytes)
            _write_all(self._file, zlib.crc32(data).to_bytes(4, "little"), self.n * self._bytes + 4 * slot)
        except OSError as error:
            self._full = True
            warnings.warn(f"Pictures are no longer kept in '{self.path}': {error}. The run goes on.", stacklevel=2)

    def _total(self) -> int:
        return self.n * (self._bytes + 4)

    def _make_room(self) -> None:
        """Raises: ValueError when the folder could grow over the limit."""
        limit = float(os.environ.get("TVP_CACHE_GIB", LIMIT_GIB)) * GIB
        others = [path for path in self.path.parent.glob("*.u8") if path != self.path]
        used = sum(path.stat().st_blocks * 512 for path in others)
        if used + self._total() > limit:
            raise ValueError(
                f"'{self.path}' needs up to {self._total() / GIB:.1f} GiB and '{self.path.parent}' holds "
                f"{used / GIB:.1f} GiB. Expected at most {limit / GIB:g} GiB together; delete old files there, raise "
                "TVP_CACHE_GIB, take fewer rows, or set data.cache=false."
            )

    def _open(self) -> None:
        """Growing a file with zeros loses nothing, so any number of processes may do it at once.

        Where it cannot be written it is only read, or not there at all: the run decodes what it lacks.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            if os.fstat(self._file).st_size < self._total():
                os.ftruncate(self._file, self._total())
        except OSError as error:
            if not self._full:  # in a worker it was said before
                say_unwritable(cache_root(), write_problem(self.path.parent) or error, CACHES["decoded"])
            self._full = True
            if not self._open_to_read():
                return
        self._map = mmap.mmap(self._file, self._total(), access=mmap.ACCESS_READ)

    def _open_to_read(self) -> bool:
        try:
            self._file = os.open(self.path, os.O_RDONLY)
        except OSError:
            return False
        return os.fstat(self._file).st_size == self._total()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_file", "_map")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __del__(self) -> None:
        if hasattr(self, "_map"):
            self._map.close()
        if hasattr(self, "_file"):
            os.close(self._file)


def _to_float(pixels: Tensor) -> Tensor:
    """Scale bytes to [0, 1] as torchvision's `to_tensor` does."""
    return pixels.to(torch.float32).div(255)


def _write_all(file: int, data: bytes, offset: int) -> None:
    while data:
        written = os.pwrite(file, data, offset)
        data, offset = data[written:], offset + written
