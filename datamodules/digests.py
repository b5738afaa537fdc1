"""Is a file the published one? Against its publisher's digest or, where there is none, against the first copy seen."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import date
from pathlib import Path

from datamodules.disk import read_json, write_json
from datamodules.publication import Archive, Digest

RECORD = "digests.json"
FIRST = "nobody; recorded as the first copy"  # the source of a digest that was only computed
CHUNK = 1 << 20


def hash_file(path: Path, algorithm: str = "sha256", on_bytes: Callable[[int], None] | None = None) -> str:
    """The digest of a file in hexadecimal; `on_bytes` is called with the size of every piece read."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with open(path, "rb") as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
            if on_bytes is not None:
                on_bytes(len(piece))
    return digest.hexdigest()


class Digests:
    """Published digests, and `<root>/digests.json` for files without one.

    The record is {"files": {key: {"sha256", "size", "recorded"}}}: the first complete copy of each file, and every
    later copy must be the same. Raises: ValueError when the record is damaged.
    """

    def __init__(self, root: Path) -> None:
        self.path = Path(root) / RECORD
        self._files: dict[str, dict] = self._read()

    def expected(self, archive: Archive) -> Digest | None:
        """The published digest, else the recorded one, else None."""
        return archive.digest or self.recorded(archive.file)

    def recorded(self, key: str) -> Digest | None:
        entry = self._files.get(key)
        if entry is None:
            return None
        return Digest("sha256", entry["sha256"], f"the first copy, of {entry['recorded']}, in {self.path}")

    def check(self, archive: Archive, path: Path) -> Digest:
        """The digest of `path`, checked where one is known. Raises: ValueError for another file."""
        known = self.expected(archive)
        value = hash_file(path, known.algorithm if known else "sha256")
        if known is None:
            return Digest("sha256", value, FIRST)
        if value != known.value:
            raise ValueError(mismatch(path, value, known))
        return known

    def record(self, new: dict[str, tuple[str, int]]) -> None:
        """Add key -> (sha256, size) of first copies, in one write."""
        today = date.today().isoformat()
        self._files |= {k: {"sha256": value, "size": size, "recorded": today} for k, (value, size) in new.items()}
        write_json(self.path, {"files": self._files})

    def _read(self) -> dict[str, dict]:
        repair = "restore it from a backup, or delete it to accept the next copies as the first ones"
        what = 'a record {"files": {name: {"sha256", "size", "recorded"}}}'
        files = (read_json(self.path, what, repair) or {"files": {}}).get("files")
        if not isinstance(files, dict) or not all(_is_entry(entry) for entry in files.values()):
            raise ValueError(f"'{self.path}' is damaged. Expected {what} with 64 hexadecimal digits each; {repair}.")
        return files


def _is_entry(entry: object) -> bool:
    value = entry.get("sha256") if isinstance(entry, dict) else None
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef") and "recorded" in entry


def mismatch(path: Path, value: str, known: Digest) -> str:
    """The sentence about a file that is not the expected one."""
    return (
        f"'{path}' has {known.algorithm} {value}. Expected {known.value} (stated by {known.source}): it is damaged or "
        "another file, and was not used; get it again from its publisher."
    )
