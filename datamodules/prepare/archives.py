"""Unpacking archives that nobody vouches for: .zip, .tar, .tar.gz, .tgz.

Only plain files and folders below the target come out, with the system's default permissions. Everything else (absolute
paths, `..`, drive letters, links, devices, names that collide, too many entries or bytes, bombs, truncated or damaged
archives) is refused with the entry's name; the caller unpacks into a scratch folder, so nothing stays behind.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

CHUNK = 1 << 20
SMALL = 100 << 20  # below this many bytes no ratio is a bomb
TRAILER = 64 << 20  # a tar may be padded, but not with more than this


class Limits(NamedTuple):
    """The most an archive may unpack to. max_ratio: unpacked bytes per byte of the archive, once beyond 100 MiB."""

    max_entries: int = 500_000
    max_bytes: int = 50 * 10**9
    max_ratio: float = 100

    def exceeded(self, size: int, packed: int) -> bool:
        """Say whether `size` bytes are too many to come out of an archive of `packed`."""
        return size > self.max_bytes or (size > SMALL and size > self.max_ratio * max(1, packed))


class Entry(NamedTuple):
    """A file (or folder) in an archive. size: as declared. kind: "file", "folder", or what it is instead."""

    name: str
    size: int
    kind: str
    open: Callable[[], IO[bytes]]


def unpack(
    archive: Path,
    into: Path,
    limits: Limits,
    keep: Callable[[str], bool] = lambda name: True,
    packed: int | None = None,
) -> dict[str, tuple[int, str]]:
    """Unpack into the empty folder `into` those files whose path `keep` accepts; all entries are checked.

    packed: the bytes that `max_ratio` is about, where the archive itself came out of one; None: its own size.
    Returns path -> (size, sha256) of what was written. Raises: ValueError for an archive that is refused or damaged;
    `into` may then hold some files.
    """
    names, budget, written = _Names(archive, limits), _Budget(archive, limits, packed), {}
    try:
        for entry in _entries(archive):
            path = names.accept(entry)
            budget.declare(entry)
            if entry.kind == "file" and keep(path):
                written[path] = _write(entry, into / path, budget)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(
            f"'{archive}' is damaged or cut short: {error}. Expected a complete archive; nothing of it was kept, get "
            "it again."
        ) from error
    return written


def declared_size(archive: Path, limits: Limits, only: tuple[str, ...] = ()) -> int | None:
    """Bytes that a .zip says it unpacks to, a .tar's own; None for others, or where `unpack` will refuse it.

    only: the names of the files that are wanted; empty: all. A .tar is not looked into.
    """
    packed = archive.stat().st_size
    if archive.suffix.lower() == ".tar":
        return packed
    try:
        with zipfile.ZipFile(archive) as file:
            sizes = [(Path(info.filename).name, info.file_size) for info in file.infolist()]
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return None
    if limits.exceeded(sum(size for _, size in sizes), packed):
        return None
    return sum(size for name, size in sizes if not only or name in only)


def _write(entry: Entry, path: Path, budget: _Budget) -> tuple[int, str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with entry.open() as source, open(path, "xb") as target:
        while piece := source.read(CHUNK):
            budget.spend(entry, len(piece))
            digest.update(piece)
            target.write(piece)
            size += len(piece)
    return size, digest.hexdigest()


class _Names:
    """Decides which entries may come out, and under which path."""

    def __init__(self, archive: Path, limits: Limits) -> None:
        self.archive, self.limits, self.count = archive, limits, 0
        self._spelling: dict[str, str] = {}
        self._kinds: dict[str, str] = {}

    def accept(self, entry: Entry) -> str:
        """The entry's path with "/" ("" for the top folder itself). Raises: ValueError."""
        self.count += 1
        if self.count > self.limits.max_entries:
            raise self._refusal(entry, f"is entry {self.count:,}", f"at most {self.limits.max_entries:,} entries")
        if entry.kind not in ("file", "folder"):
            if "password" in entry.kind:
                raise self._refusal(entry, f"is a {entry.kind}", "one without: unpack it yourself and give the folder")
            raise self._refusal(entry, f"is a {entry.kind}", "only plain files and folders")
        if (problem := unsafe(entry.name)) is not None:
            raise self._refusal(entry, problem, "paths that stay below the target folder")
        parts = [part for part in entry.name.split("/") if part not in ("", ".")]
        if not parts and entry.kind == "file":
            raise self._refusal(entry, "has no name", "a name for every file")
        for end in range(1, len(parts) + 1):
            self._add(entry, "/".join(parts[:end]), entry.kind if end == len(parts) else "folder")
        return "/".join(parts)

    def _add(self, entry: Entry, path: str, kind: str) -> None:
        spelling = self._spelling.setdefault(path.casefold(), path)
        if spelling != path:
            raise self._refusal(entry, f"differs from '{spelling}' only in case", "names distinct on every system")
        before = self._kinds.setdefault(path, kind) if kind == "folder" or path in self._kinds else None
        self._kinds[path] = kind
        if before == "file" and kind == "file":
            raise self._refusal(entry, "occurs twice", "every file once")
        if before is not None and before != kind:
            raise self._refusal(entry, f"makes '{path}' both a file and a folder", "one of them")

    def _refusal(self, entry: Entry, problem: str, expected: str) -> ValueError:
        return ValueError(
            f"'{self.archive}' was refused: its entry {entry.name!r} {problem}. Expected {expected}; nothing of it was "
            "kept. Get the archive from its publisher."
        )


def unsafe(name: str) -> str | None:
    """Why a path in an archive must not be used, or None."""
    if name.startswith(("/", "\\")):
        return "is an absolute path"
    if re.match(r"[A-Za-z]:", name):
        return "starts with a drive letter"
    if "\\" in name or any(ord(letter) < 32 for letter in name):
        return "has a backslash or control character in its name"
    if ".." in name.split("/"):
        return "climbs out with '..'"
    return None


class _Budget:
    """Counts the bytes that come out and refuses too many."""

    def __init__(self, archive: Path, limits: Limits, packed: int | None) -> None:
        self.archive, self.limits, self.packed = archive, limits, packed or archive.stat().st_size
        self.declared = self.spent = 0

    def declare(self, entry: Entry) -> None:
        """Refuse on what the archive says of itself, before a byte of the entry is unpacked."""
        self.declared += entry.size
        self._check(entry, self.declared)

    def spend(self, entry: Entry, size: int) -> None:
        """Refuse on what really comes out."""
        self.spent += size
        self._check(entry, self.spent)

    def _check(self, entry: Entry, size: int) -> None:
        if self.limits.exceeded(size, self.packed):
            ratio = size / max(1, self.packed)
            raise ValueError(
                f"'{self.archive}' was refused: with {entry.name!r} it unpacks to {size:,} bytes, {ratio:.0f} times "
                f"its size. Expected at most {self.limits.max_bytes:,} bytes and {self.limits.max_ratio:g} times; it "
                "may be a bomb, and nothing of it was kept. Get the archive from its publisher."
            )


def _entries(archive: Path) -> Iterator[Entry]:
    """Yield the entries in the archive's order; each must be read before the next one is asked for."""
    if archive.stat().st_size == 0:
        raise ValueError(f"'{archive}' is empty (0 bytes). Expected an archive; get it again.")
    with open(archive, "rb") as file:
        head = file.read(4)
    if head[:2] == b"PK":
        return _zip_entries(archive)
    return _tar_entries(archive, packed=head[:2] == b"\x1f\x8b")


def _zip_entries(archive: Path) -> Iterator[Entry]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            yield Entry(info.orig_filename, info.file_size, _zip_kind(info), partial(file.open, info))


def _zip_kind(info: zipfile.ZipInfo) -> str:
    form = stat.S_IFMT(info.external_attr >> 16)  # 0 where the writer was no Unix
    if form not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "symbolic link" if form == stat.S_IFLNK else "device or other special file"
    if info.flag_bits & 1:
        return "file encrypted with a password"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"file compressed with method {info.compress_type}, which is not read here"
    return "folder" if info.is_dir() else "file"


class _StrictTarInfo(tarfile.TarInfo):
    """tarfile takes a damaged or missing header for the end; here only the end marker is one."""

    @classmethod
    def fromtarfile(cls, file: Any) -> Self:
        try:
            return super().fromtarfile(file)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"no end marker after {len(file.members)} entries ({error})") from None


def _tar_entries(archive: Path, packed: bool) -> Iterator[Entry]:
    with gzip.open(archive) if packed else open(archive, "rb") as stream:
        with tarfile.open(fileobj=stream, mode="r|", tarinfo=_StrictTarInfo) as file:
            for info in file:
                opened: Any = partial(file.extractfile, info)  # None only for what is no file, which nobody opens
                yield Entry(info.name, info.size, _tar_kind(info), opened)
        _check_trailer(stream)


def _tar_kind(info: tarfile.TarInfo) -> str:
    if info.isdir():
        return "folder"
    if info.isfile() and not info.issparse():
        filtered = getattr(tarfile, "data_filter", None)  # a second opinion, where Python has it (3.11.4)
        return "file" if filtered is None or _passes(filtered, info) else "file that Python's data filter refuses"
    kinds = [(info.issym(), "symbolic link"), (info.islnk(), "hard link"), (info.issparse(), "sparse file")]
    return next((kind for is_it, kind in kinds if is_it), "device or other special file")


def _passes(filtered: Callable, info: tarfile.TarInfo) -> bool:
    try:
        return filtered(info, "/nowhere") is not None
    except tarfile.FilterError:
        return unsafe(info.name) is not None  # said better by `unsafe`


def _check_trailer(stream: gzip.GzipFile | IO[bytes]) -> None:
    """Read on to the end, so that gzip's own checksum is compared too."""
    left = TRAILER
    while piece := stream.read(CHUNK):
        left -= len(piece)
        if left < 0:
            raise tarfile.ReadError("more than 64 MiB follow after its end marker")
