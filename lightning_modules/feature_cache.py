"""Visual tokens kept on disk: one memory-mapped file a picture, least recently used ones deleted at a size cap.

An entry is written beside its place and renamed, and holds a CRC-32 of its tokens: killed writers, full disks and
several processes leave it whole or absent. Nothing is ever changed in place. Delete the folder at any time.
"""

from __future__ import annotations

import mmap
import os
import struct
import warnings
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from datamodules.whole_files.disk import cache_root, is_full
from datamodules.writable import CACHES, say_unwritable, write_problem
from lightning_modules.atomic import replace_file

GIB = 2**30
MAGIC = b"TVPfeat1"
HEADER = struct.Struct("<8sIII12x")  # magic, tokens T, width D, CRC-32; 32 bytes, so that tokens stay aligned
DTYPES = {"float32": torch.float32, "float16": torch.float16}


def feature_folder() -> Path:
    """`cache/features`, or below TVP_CACHE."""
    return cache_root() / "features"


class FeatureCache:
    """Key (sha256 in hex) -> tokens (T, D), on disk.

    Args:
        folder: where entries are; made with the first one.
        dtype: `float32`, or `float16`: half the bytes, rounded to 5e-4 of a value.
        limit_gib: size cap of the folder in GiB. Of several processes that write at once each may be 1/16 of it over.
    """

    def __init__(self, folder: str | Path, *, dtype: str = "float32", limit_gib: float = 20.0) -> None:
        if dtype not in DTYPES:
            raise ValueError(f"Unknown feature cache dtype '{dtype}'. Available: {', '.join(DTYPES)}.")
        if not limit_gib > 0:
            raise ValueError(f"A feature cache of {limit_gib} GiB holds nothing. Expected more than 0.")
        self.folder, self.dtype, self.limit = Path(folder), DTYPES[dtype], int(limit_gib * GIB)
        self._used, self._new = self.limit, 0  # bytes at the last look (none yet), own bytes since
        self._said: set[str] = set()
        self._closed = False

    # ---- reading ---------------------------------------------------------------------------------------------------
    def get(self, keys: Sequence[str]) -> dict[str, Tensor]:
        """Those entries there are, (T, D) in the cache's dtype, mapped from disk; a damaged one counts as absent."""
        found = {key: self._load(self._path(key)) for key in dict.fromkeys(keys)}
        return {key: tokens for key, tokens in found.items() if tokens is not None}

    def _load(self, path: Path) -> Tensor | None:
        try:
            with open(path, "rb") as file:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            tokens = self._decode(data)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, struct.error) as error:  # ValueError: also what mmap says of an empty file
            self._say("damaged", f"The cached features '{path}' are damaged ({error}); such ones are computed again.")
            return None
        with suppress(OSError):  # a cache that may only be read is still of use
            os.utime(path)  # the most recently used
        return tokens

    def _decode(self, data: mmap.mmap) -> Tensor:
        magic, count, width, check = HEADER.unpack_from(data)
        size = count * width * self.dtype.itemsize
        if magic != MAGIC or len(data) != HEADER.size + size or not size:
            raise ValueError(f"{len(data)} bytes, expected {HEADER.size + size}")
        if zlib.crc32(memoryview(data)[HEADER.size :]) != check:
            raise ValueError("its checksum does not fit")
        return torch.frombuffer(data, dtype=self.dtype, offset=HEADER.size).view(count, width)

    # ---- writing ---------------------------------------------------------------------------------------------------
    def put(self, keys: Sequence[str], tokens: Tensor) -> Tensor:
        """Keep tokens (B, T, D) under B keys; returns them as `get` will, on the CPU in the cache's dtype.

        A full disk is said once; the run then goes on without keeping more.
        Raises: ValueError for tokens too large for float16.
        """
        stored = tokens.detach().to("cpu", self.dtype).contiguous()
        if torch.isfinite(tokens).all() and not torch.isfinite(stored).all():
            raise ValueError(
                f"Features up to {tokens.abs().max():.3g} do not fit {self.dtype}. Set train.feature_cache=float32."
            )
        for key, row in zip(keys, stored, strict=True):
            if not self._closed and torch.isfinite(row).all():
                self._save(self._path(key), row)
        return stored

    def _save(self, path: Path, row: Tensor) -> None:
        data = row.numpy().tobytes()
        data = HEADER.pack(MAGIC, *row.shape, zlib.crc32(data)) + data
        try:
            self._make_room(len(data))
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, data, sync=False)
        except OSError as error:
            self._closed = True
            problem = write_problem(self.folder)
            if problem is not None and not is_full(error):
                say_unwritable(self.folder.parent, problem, CACHES["features"])
                return
            self._say("full", f"Clean features are no longer kept in '{self.folder}': {error} The run goes on.")

    # ---- the size cap ----------------------------------------------------------------------------------------------
    def _make_room(self, size: int) -> None:
        """Make room for `size` more bytes; the folder is listed only when it may be full, also by others."""
        if size > self.limit:
            raise OSError(f"one picture's features take {size:,} bytes, the cap is {self.limit:,}.")
        if self._used + self._new + size > self.limit or self._new > self.limit / 16:
            self._used, self._new = self._evict(size), 0
        self._new += size

    def _evict(self, size: int) -> int:
        """Delete the least recently used entries down to 9/10 of the cap if `size` more do not fit; returns what is
        left. Half-written files of killed writers are entries like any other."""
        entries = sorted(_entries(self.folder))
        used = sum(length for _, length, _ in entries)
        goal = self.limit - size if used + size <= self.limit else min(self.limit - size, 0.9 * self.limit)
        for _, length, path in entries:
            if used <= goal:
                break
            with suppress(OSError):
                path.unlink(missing_ok=True)
            used -= length
        return used

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.{str(self.dtype).removeprefix('torch.')}"

    def _say(self, what: str, text: str) -> None:
        if what not in self._said:
            self._said.add(what)
            warnings.warn(text, stacklevel=2)


def _entries(folder: Path) -> list[tuple[int, int, Path]]:
    """(time of last use in ns, bytes, path) of every file; those another process deletes meanwhile are left out."""
    found = []
    for path in folder.glob("*/*"):
        with suppress(FileNotFoundError):
            stat = path.stat()
            found.append((stat.st_mtime_ns, stat.st_size, path))
    return found
