"""The catalogue's form of a published data set: archives, mirrors, digests and counts. Imports nothing heavy."""

from __future__ import annotations

from typing import NamedTuple

TORCHVISION = "torchvision 0.29 datasets/"  # the beginning of a source
MB, GB = 10**6, 10**9


class Digest(NamedTuple):
    """A published hash. algorithm: a name hashlib knows, or one with "gunzip-" before it for what the file holds.

    source: who states it, and where.
    """

    algorithm: str
    value: str
    source: str


class Count(NamedTuple):
    """How many files match `pattern` below an archive's target or, with `lines`, how many lines they have in all.

    more: n is the least.
    """

    pattern: str
    n: int
    lines: bool = False
    more: bool = False


class Listed(NamedTuple):
    """Every picture under `key` in the rows (JSON) of the files that match `pattern` is below the target."""

    pattern: str
    key: str


class Archive(NamedTuple):
    """One file to get, and what it becomes below the root.

    file: its name at the publisher. target: the folder it unpacks to or, for a file that is no archive, its place.
    urls: mirrors in order; none = only `from=`. unpacked: bytes below target, about. top: the folder inside the archive
    that becomes target, the first that is there ("" = all of it); empty = target's own name. only: paths below top that
    are wanted; empty = all. files: digests readers or `verify` check, by path below target. max_entries, max_bytes,
    max_ratio (unpacked/packed size): what the extractor refuses to go beyond. part: archives of one part are choices.
    """

    file: str
    target: str
    urls: tuple[str, ...] = ()
    size: int | None = None
    digest: Digest | None = None
    unpacked: int = 0
    top: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    files: dict[str, Digest] = {}
    counts: tuple[Count, ...] = ()
    listed: tuple[Listed, ...] = ()
    max_entries: int = 500_000
    max_bytes: int = 50 * GB
    max_ratio: float = 100
    part: str = ""

    @property
    def packed(self) -> bool:
        return self.file.endswith((".zip", ".tar", ".tar.gz", ".tgz"))


class PublishedData(NamedTuple):
    """A data set. how: what to do where nothing may be downloaded. coco_images: also POPE's single COCO pictures."""

    task: str
    what: str
    licence: str
    homepage: str
    archives: tuple[Archive, ...]
    how: str = ""
    coco_images: bool = False

    def parts(self) -> list[list[Archive]]:
        """The archives that are all needed; where one has several forms (Imagenette's sizes), those together."""
        parts: dict[str, list[Archive]] = {}
        for archive in self.archives:
            parts.setdefault(archive.part or archive.target, []).append(archive)
        return list(parts.values())
