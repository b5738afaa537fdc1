"""One HTTP request whose answer goes into a `.part` file, continuing where an earlier one stopped.

Only http and https, no credentials in an address, and a redirect may change neither to another scheme nor from https to
http. A token that is given goes to the host it is for and no further. Beside `X.part`
lies `X.part.json`: where its bytes come from and how the server tells that file from its other versions.
"""

from __future__ import annotations

import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from datamodules.whole_files.disk import read_json, write_json

CHUNK = 1 << 18
TIMEOUT = 30  # seconds without a byte
AGENT = "transferable-visual-prompting"


class RefusedError(Exception):
    """This mirror is no use: trying again gives the same."""


class BrokenError(Exception):
    """This attempt failed; another may not. wait: seconds the server asks for. restart: not with the bytes so far."""

    def __init__(self, message: str, wait: float = 0, restart: bool = False) -> None:
        super().__init__(message)
        self.wait, self.restart = wait, restart


class Version(NamedTuple):
    """A server's names for one version of a file. total: its size in bytes, None if unsaid."""

    url: str
    etag: str | None
    modified: str | None
    total: int | None

    def continues(self, other: Version) -> bool:
        """Say whether bytes of `other` may be followed by bytes of this: same size, and no sign of another version."""
        if self.total is None or self.total != other.total:
            return False
        same_url = self.url == other.url
        return not same_url or (self.etag, self.modified) == (other.etag, other.modified)

    @property
    def condition(self) -> str | None:
        """Return what If-Range may carry: a strong ETag, else the date."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified


class PartialFile:
    """An unfinished file: `path.part` and its `path.part.json`."""

    def __init__(self, path: Path) -> None:
        self.file = path.with_name(path.name + ".part")
        self.notes = path.with_name(path.name + ".part.json")

    def size(self) -> int:
        return self.file.stat().st_size if self.file.exists() else 0

    def version(self) -> Version | None:
        """Read where the bytes come from; None when that is unknown (they are then not continued)."""
        try:
            notes = read_json(self.notes, "notes on an unfinished download", "it is ignored")
            return Version(**notes) if notes and self.file.exists() else None
        except (ValueError, TypeError):
            return None

    def remove(self) -> None:
        self.file.unlink(missing_ok=True)
        self.notes.unlink(missing_ok=True)


OnBytes = Callable[[int, int | None], None]  # (bytes so far, in all)


def transfer(
    url: str,
    part: PartialFile,
    size: int | None,
    may_switch: bool,
    on_bytes: OnBytes,
    private: Mapping[str, str] | None = None,
) -> None:
    """Make `part` complete, or raise.

    size: the published one, refused if the server offers another. may_switch: bytes of another mirror may be continued
    (only where a digest will tell). private: headers for the host of `url` alone, such as a token.
    Raises: RefusedError, BrokenError, or OSError of the local disk.
    """
    known = part.version()
    if known is not None and not ((known.url == url or may_switch) and part.size() > 0):
        known = None
    start = part.size() if known is not None else 0
    if known is not None and start == known.total:
        return
    with _request(url, start, known if known is not None and known.url == url else None, private) as answer:
        version, start = _understand(url, answer, start, known)
        if size is not None and version.total is not None and version.total != size:
            raise RefusedError(f"offers {version.total:,} bytes; the published file has {size:,}")
        if start == 0:
            open(part.file, "wb").close()  # before the notes, which would vouch for the old bytes
        write_json(part.notes, version._asdict())
        _receive(answer, part.file, start, version.total or size, on_bytes)


def offered_size(url: str) -> int | None:
    """The bytes a server offers at `url`, None where it does not say; nothing of the file is read.

    Raises: RefusedError, BrokenError.
    """
    with _request(url, 0, None) as answer:
        return _understand(url, answer, 0, None)[0].total


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request, file, code, message, headers, new_url):
        old, new = urlsplit(request.full_url).scheme, urlsplit(new_url).scheme
        if new not in ("http", "https") or (old, new) == ("https", "http"):
            raise RefusedError(f"redirects from {old} to {new or 'nowhere'} ('{new_url}'), which is not followed")
        check_url(new_url)
        new = super().redirect_request(request, file, code, message, headers, new_url)
        if new is not None and _host(request.full_url) == _host(new_url):
            for key, value in getattr(request, "private", {}).items():
                new.add_unredirected_header(key, value)
            new.private = getattr(request, "private", {})
        return new


def _host(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.lower()


def check_url(url: str) -> None:
    """Raises: RefusedError for another scheme than http(s), and for a name or password in the address."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or "@" in parts.netloc or not parts.netloc:
        raise RefusedError(f"'{url}' is not a plain http or https address")


def _opener() -> urllib.request.OpenerDirector:
    opener = urllib.request.OpenerDirector()  # not build_opener, which also adds ftp, file and data
    handlers = (urllib.request.ProxyHandler, urllib.request.HTTPHandler, urllib.request.HTTPSHandler, _Redirects)
    for handler in (*handlers, urllib.request.HTTPDefaultErrorHandler, urllib.request.HTTPErrorProcessor):
        opener.add_handler(handler())
    return opener


class _PrivateRequest(urllib.request.Request):
    """A request with headers that urllib itself would carry to no other place."""

    def __init__(self, url: str, headers: Mapping[str, str], private: Mapping[str, str]) -> None:
        super().__init__(url, headers=dict(headers))
        self.private = private
        for key, value in private.items():
            self.add_unredirected_header(key, value)


def _request(
    url: str, start: int, known: Version | None, private: Mapping[str, str] | None = None
) -> http.client.HTTPResponse:
    check_url(url)
    headers = {"User-Agent": AGENT, "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if known is not None and known.condition:
            headers["If-Range"] = known.condition
    try:
        return _opener().open(_PrivateRequest(url, headers, private or {}), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            raise _judge(error, start) from None
    except urllib.error.URLError as error:
        raise BrokenError(f"cannot be reached ({error.reason})") from None
    except (OSError, http.client.HTTPException) as error:
        raise BrokenError(f"broke off ({error or type(error).__name__})") from None


def _judge(error: urllib.error.HTTPError, start: int) -> Exception:
    if error.code == 416 and start:
        return BrokenError("has no such range; starting over", restart=True)
    if error.code in (408, 425, 429) or error.code >= 500:
        wait = error.headers.get("Retry-After", "")
        return BrokenError(f"answered {error.code} {error.reason}", float(wait) if wait.isdigit() else 0)
    return RefusedError(f"answered {error.code} {error.reason}")


def _understand(url: str, answer: http.client.HTTPResponse, start: int, known: Version | None) -> tuple[Version, int]:
    """(the version offered, the place its first byte goes to): 0 where the server sends the whole file."""
    kind = answer.headers.get_content_type()
    if kind in ("text/html", "application/xhtml+xml"):
        begin = " ".join(answer.read(300).decode("latin1").split())[:120]
        raise RefusedError(f"answered with a web page instead of the file ({begin!r})")
    length = answer.headers.get("Content-Length", "")
    total = int(length) if length.isdigit() else None
    place = 0
    if answer.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
        if match is None or int(match[1]) != start:
            raise BrokenError("sent another range than asked for; starting over", restart=True)
        place, total = start, int(match[2])
    version = Version(url, answer.headers.get("ETag"), answer.headers.get("Last-Modified"), total)
    if place and not (known is not None and version.continues(known)):
        raise BrokenError("has another version of the file than before; starting over", restart=True)
    return version, place


def _receive(answer, path: Path, start: int, total: int | None, on_bytes: OnBytes) -> None:
    with open(path, "r+b" if start else "wb") as file:
        file.seek(start)
        file.truncate()
        done = start
        while piece := _read(answer):
            file.write(piece)
            done += len(piece)
            on_bytes(done, total)
        file.flush()
        os.fsync(file.fileno())
    if total is not None and done != total:
        raise BrokenError(f"broke off after {done:,} of {total:,} bytes")


def _read(answer) -> bytes:
    try:
        return answer.read1(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise BrokenError(f"broke off ({error or type(error).__name__})") from None
