"""`fetched.json`: what `fetch` put into a folder, so that it can tell later whether all of it is still there.

A folder that holds one model of the hub has `repo`, `revision` (the commit) and `complete` beside `files`; each file
has its size, its SHA-256 and its source. It holds no date: the same files give the same record.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.whole_files.disk import read_json, write_json

RECORD = "fetched.json"


class FetchedFile(NamedTuple):
    """One file as it was when it arrived. source: its address, or `hf:ORG/MODEL@COMMIT`."""

    size: int
    sha256: str
    source: str

    def matches(self, path: Path) -> bool:
        """Whether the file is still that one; reads all of it."""
        return path.is_file() and path.stat().st_size == self.size and sha256_of(path) == self.sha256


class FetchRecord:
    """The record of one folder; empty where there is none. Raises ValueError for a damaged one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        repair = "delete it and fetch again, which compares the files that are there with the published ones"
        content: dict[str, Any] = read_json(folder / RECORD, "the record of fetched files", repair) or {}
        self.repo: str | None = content.get("repo")
        self.revision: str | None = content.get("revision")
        self.complete: bool = content.get("complete", False) is True
        try:
            self.files = {name: FetchedFile(**entry) for name, entry in content.get("files", {}).items()}
        except (AttributeError, TypeError):
            raise ValueError(
                f"'{folder / RECORD}' is damaged. Expected the size, sha256 and source of each file; {repair}."
            ) from None

    def add(self, name: str, source: str, sha256: str) -> None:
        """Record a file that is there."""
        self.files[name] = FetchedFile((self.folder / name).stat().st_size, sha256, source)
        self.write()

    def write(self) -> None:
        """Write it whole, or leave the old one."""
        of_repo = {"repo": self.repo, "revision": self.revision, "complete": self.complete} if self.repo else {}
        write_json(self.folder / RECORD, {**of_repo, "files": {k: v._asdict() for k, v in self.files.items()}})

    def intact(self, name: str) -> bool:
        """Whether a recorded file is there unchanged."""
        return name in self.files and self.files[name].matches(self.folder / name)


def unfinished(folder: Path) -> bool:
    """Whether a fetch into the folder was interrupted: its files may then be of two revisions."""
    record = FetchRecord(folder)
    return record.repo is not None and not record.complete


def sha256_of(path: Path) -> str:
    """Of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
