"""Files that are there completely or not at all, and room on the disk."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import Any


def megabytes(size: float) -> str:
    """1234567 -> "1.2 MB"; thousands of megabytes as GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def is_full(error: BaseException) -> bool:
    """Does an error say that the disk or the user's quota is used up?"""
    return isinstance(error, OSError) and error.errno in (ENOSPC, EDQUOT)


def cache_root() -> Path:
    """`cache`, or the folder TVP_CACHE names; what is in it can be made again."""
    return Path(os.environ.get("TVP_CACHE") or "cache").expanduser()


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power cut (POSIX; elsewhere folders cannot be opened)."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_file(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Write beside `path`, then rename over it: whoever reads `path`, at any moment, has the old file or the new one.

    sync: wait until it is on the disk; False is quicker for many files that can be made again.
    Raises: OSError (full disk, no permission); `path` is as it was before.
    """
    staging = path.with_name(f".{path.name}.new-{os.getpid()}")
    try:
        write_bytes(staging, data, sync=sync)
        os.replace(staging, path)
    except BaseException:
        staging.unlink(missing_ok=True)
        raise
    if sync:
        sync_folder(path.parent)


def write_bytes(path: Path, data: bytes, *, append: bool = False, sync: bool = True) -> None:
    """Write or append in place and wait until it is on the disk; a killed writer leaves a part of `data`."""
    with open(path, "ab" if append else "wb") as file:
        file.write(data)
        if sync:
            file.flush()
            os.fsync(file.fileno())


def write_json(path: Path, value: Any) -> bytes:
    """`write_file` of a value with sorted keys, in a folder made for it; returns the bytes."""
    data = (json.dumps(value, indent=0, sort_keys=True, ensure_ascii=False) + "\n").encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, data)
    return data


def read_json(path: Path, what: str, repair: str) -> Any:
    """A JSON object, or None where there is no file. Raises: ValueError naming file, `what` it should be, `repair`."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"'{path}' is damaged: {error}. Expected {what}, as JSON; {repair}.") from None
    if not isinstance(value, dict):
        raise ValueError(f"'{path}' holds a {type(value).__name__}. Expected {what}, a JSON object; {repair}.")
    return value


def check_room(folder: Path, needed: int, what: str, setting: str = "root=DIR") -> None:
    """Raises: OSError with both numbers when `needed` bytes are not free where `folder` is or will be.

    setting: what chooses the folder.
    """
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            ENOSPC,
            f"Not enough room for {what}: about {megabytes(needed)} are needed and {megabytes(free)} are free at "
            f"'{folder}'. Nothing was written; free some space or choose another {setting}.",
        )


@contextmanager
def locked(path: Path, command: str, place: Path, setting: str) -> Iterator[None]:
    """One holder of the lock file `path` at a time. The lock is the system's: gone with its process, however that ends.

    command, place, setting: for the refusal: what is at work, in which folder, what chooses that.
    Raises: BlockingIOError with the process that holds the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as file:
        if not _try_lock(file.fileno()):
            file.seek(0)
            raise BlockingIOError(
                f"Another `{command}` (process {file.read().strip() or 'unknown'}) is at work in '{place}'. Expected "
                f"one at a time; wait for it or choose another {setting}."
            )
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _try_lock(handle: int) -> bool:
    try:
        import fcntl
    except ImportError:  # no such locks on Windows: two at once are then the user's to avoid
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
