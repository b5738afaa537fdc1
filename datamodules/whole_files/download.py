"""Getting a published file: mirrors in order, retries, resuming, and a check before anything may use it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from datamodules.whole_files.disk import is_full, megabytes, sync_folder
from datamodules.whole_files.http import BrokenError, PartialFile, RefusedError, transfer

ATTEMPTS = 5  # in a row without a byte of progress, per mirror
BACKOFF = 1.0  # seconds before the second attempt, doubling
LONGEST_WAIT = 60.0
MAGIC = {".zip": b"PK", ".tgz": b"\x1f\x8b", ".gz": b"\x1f\x8b", ".jpg": b"\xff\xd8"}


class PausedError(KeyboardInterrupt):
    """Ctrl-C in a download; the text says what is kept and how to go on."""


def download(
    urls: tuple[str, ...],
    path: Path,
    *,
    size: int | None = None,
    check: Callable[[Path], object] = lambda part: None,
    trusted: bool = True,
    show: Callable[[str], None] = print,
    quiet: bool = False,
    private: Mapping[str, str] | None = None,
) -> None:
    """Fetch `path` from the first of `urls` that has it.

    check: called with the complete `.part` file before it gets its name; a ValueError means it is not the right one.
    trusted: `check` knows the digest, so that bytes of several mirrors may be joined. quiet: no progress bar.
    private: headers, such as a token, that go to the hosts of `urls` and to no place they redirect to.

    Raises: ConnectionError naming what each mirror said; OSError for a full disk, PausedError for Ctrl-C: both keep the
    `.part` file, and the next call goes on from it.
    """
    part, failures = PartialFile(path), []
    path.parent.mkdir(parents=True, exist_ok=True)
    with _explained(part, path):
        for url in urls:
            problem = _from_mirror(url, part, size, check, trusted, show, quiet, private)
            if problem is None:
                os.replace(part.file, path)
                part.notes.unlink(missing_ok=True)
                sync_folder(path.parent)
                return
            failures.append(f"{url}: {problem}")
    kept = f" {megabytes(part.size())} of it are kept in '{part.file}'." if part.size() else ""
    raise ConnectionError("\n  ".join([f"Cannot download '{path.name}'. No mirror gave it:", *failures]) + kept)


def pause(failed: int, asked: float = 0) -> float:
    """Seconds to wait after so many failed attempts in a row, at least as many as the server asked for."""
    return min(max(asked, BACKOFF * 2 ** (failed - 1)), LONGEST_WAIT)


def _from_mirror(url, part, size, check, trusted, show, quiet, private) -> str | None:
    """None when `part` is complete and right, else what was wrong with this mirror."""
    for from_nothing in (False, True):
        resumed = part.size() > 0
        try:
            _with_retries(url, part, size, trusted, show, quiet, private)
            _check_content(part.file, url)
            check(part.file)
            return None
        except RefusedError as error:
            return str(error)
        except BrokenError as error:
            return f"{error} (the last of {ATTEMPTS} attempts)"
        except ValueError as error:
            part.remove()  # not the right bytes: never continued
            if from_nothing or not resumed:
                return str(error)
            show(f"What was joined from several attempts is wrong; fetching {url} once more from its beginning.")
    return None


def _with_retries(url: str, part: PartialFile, size: int | None, trusted: bool, show, quiet: bool, private) -> None:
    failed, most = 0, part.size()
    while True:
        before = part.size()
        try:
            with _progress(part.file.name.removesuffix(".part"), before, quiet, show) as on_bytes:
                return transfer(url, part, size, trusted, on_bytes, private)
        except BrokenError as error:
            if error.restart:
                part.remove()
            failed, most = (1 if part.size() > most else failed + 1), max(most, part.size())
            if failed >= ATTEMPTS:
                raise
            wait = pause(failed, error.wait)
            show(f"{url} {error}. Attempt {failed + 1} of {ATTEMPTS} in {wait:g} s.")
            time.sleep(wait)


def _check_content(part: Path, url: str) -> None:
    """Raises: ValueError for an empty file, a web page, or an archive or picture that does not begin like one."""
    name = part.name.removesuffix(".part")
    with open(part, "rb") as file:
        head = file.read(512)
    expected = next((magic for end, magic in MAGIC.items() if name.endswith(end)), b"")
    if not head:
        raise ValueError("sent an empty file")
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise ValueError("sent a web page instead of the file")
    if not head.startswith(expected):
        raise ValueError(f"sent something that does not begin like a {Path(name).suffix} file ({head[:8]!r})")


@contextmanager
def _explained(part: PartialFile, path: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise PausedError(
            f"Stopped. {megabytes(part.size())} of '{path.name}' are kept in '{part.file}'; the same command goes on."
        ) from None
    except OSError as error:
        if not is_full(error):
            raise
        raise OSError(
            error.errno,
            f"The disk is full: '{path.name}' cannot be written below '{path.parent}'. {megabytes(part.size())} are "
            f"kept in '{part.file}'. Free some space and run the same command (it goes on from there), or delete it.",
        ) from error


@contextmanager
def _progress(name: str, begin: int, quiet: bool, show) -> Iterator[Callable[[int, int | None], None]]:
    """A bar on a terminal; a line at the beginning elsewhere."""
    if quiet or not sys.stderr.isatty():
        if not quiet:
            show(f"Downloading {name}" + (f", from {megabytes(begin)} on." if begin else "."))
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=None, completed=begin)
        yield lambda done, total: bar.update(task, completed=done, total=total)
