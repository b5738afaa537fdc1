"""The manifest of what `prepare` put on the disk, by which later losses and changes are found.

`<root>/.prepared/<name>.json` is
{"name", "parts": {target: {"source": {"file", "size", "digest", "stated", "from"}, "date", "listing", "files":
{path below target: [size, sha256]}}}}; "listing" is the sha256 over the sorted lines `sha256 size path`.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

from datamodules.prepare.catalogue_entry import Archive, Digest
from datamodules.prepare.disk import STATE
from datamodules.whole_files.disk import read_json, write_json

Files = dict[str, tuple[int, str]]  # path below the target ("" = the target itself) -> (bytes, sha256)


class Manifest:
    """The manifest of one data set. Raises: ValueError when it is damaged."""

    def __init__(self, root: Path, name: str) -> None:
        self.path, self.name = Path(root) / STATE / f"{name}.json", name
        repair = f"delete it and run `prepare {name}` again, which looks at the files anew"
        content: Any = read_json(self.path, f"the manifest of '{name}'", repair) or {"name": name, "parts": {}}
        self.parts: dict[str, dict[str, Any]] = content.get("parts")
        if not isinstance(self.parts, dict) or not all(_is_part(part) for part in self.parts.values()):
            raise ValueError(
                f"'{self.path}' is damaged. Expected the manifest of '{name}', with its listing; {repair}."
            )

    def add(self, target: str, source: dict[str, Any], files: Files) -> None:
        """Record a part and write the manifest."""
        listed = {path: list(entry) for path, entry in files.items()}
        today = date.today().isoformat()
        self.parts[target] = {"source": source, "date": today, "listing": listing(listed), "files": listed}
        write_json(self.path, {"name": self.name, "parts": self.parts})

    def remove(self, target: str) -> None:
        """Forget a part that is no longer there."""
        if self.parts.pop(target, None) is not None:
            write_json(self.path, {"name": self.name, "parts": self.parts})

    def damage(self, root: Path, target: str) -> list[str]:
        """One line per recorded file that is missing or another one; reads all of them."""
        lines = []
        for path, (size, sha256) in sorted(self.parts[target]["files"].items()):
            file = Path(root, target, path)
            if not file.is_file():
                lines.append(f"'{file}' is missing")
            elif file.stat().st_size != size:
                lines.append(f"'{file}' has {file.stat().st_size:,} bytes, expected {size:,}")
            elif hash_file(file) != sha256:
                lines.append(f"'{file}' has other content than when it was prepared")
        return lines


def listing(files: dict[str, Any]) -> str:
    """The digest of a listing of files: path -> (size, sha256)."""
    lines = "".join(f"{sha256} {size} {path}\n" for path, (size, sha256) in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _is_part(part: Any) -> bool:
    try:
        return part["listing"] == listing(part["files"]) and isinstance(part["source"], dict) and bool(part["date"])
    except (KeyError, TypeError, ValueError):
        return False


RECORD = "digests.json"
GUNZIP = "gunzip-"  # before an algorithm: of what a gzip file holds
FIRST = "nobody; recorded as the first copy"  # the source of a digest that was only computed
CHUNK = 1 << 20


def hash_file(path: Path, algorithm: str = "sha256", on_bytes: Callable[[int], None] | None = None) -> str:
    """The digest of a file in hexadecimal; `on_bytes` is called with the size of every piece read.

    "gunzip-md5" and the like are the digest of what a gzip file holds, which does not depend on who packed it; a file
    that cannot be unpacked has the digest "damaged".
    """
    if algorithm.startswith(GUNZIP):
        try:
            with gzip.open(path) as inner:
                data = inner.read()
        except (gzip.BadGzipFile, EOFError, zlib.error):
            return "damaged"
        return hashlib.new(algorithm.removeprefix(GUNZIP), data, usedforsecurity=False).hexdigest()
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

    def forget(self, key: str) -> None:
        """Remove what was recorded of a file, so that the next copy counts as the first."""
        if self._files.pop(key, None) is not None:
            write_json(self.path, {"files": self._files})

    def _read(self) -> dict[str, dict]:
        repair = "restore it from a backup, or delete it to accept the next copies as the first ones"
        what = 'a record {"files": {name: {"sha256", "size", "recorded"}}}'
        files = (read_json(self.path, what, repair) or {"files": {}}).get("files")
        if not isinstance(files, dict) or not all(_is_entry(entry) for entry in files.values()):
            raise ValueError(f"'{self.path}' is damaged. Expected {what} with 64 hexadecimal digits each; {repair}.")
        return files


def _is_entry(entry: Any) -> bool:
    value = entry.get("sha256") if isinstance(entry, dict) else None
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef") and "recorded" in entry


def mismatch(path: Path, value: str, known: Digest) -> str:
    """The sentence about a file that is not the expected one."""
    advice = "get it again from its publisher"
    if RECORD in known.source:
        advice += f". If this copy is the right one, remove its entry from {RECORD}"
    return (
        f"'{path}' has {known.algorithm} {value}. Expected {known.value} (stated by {known.source}): it is damaged or "
        f"another file, and was not used; {advice}."
    )
