"""A loopback HTTP server with the faults real mirrors have; no test."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Mirror:
    """What is served (path -> bytes) and how. Set the attributes at any time.

    `requests` lists (path, Range), `tokens` what each was authorised with.
    """

    def __init__(self, url: str) -> None:
        self.url, self.files, self.requests, self.tokens = url, {}, [], []
        self.etag: str | None = '"one"'
        self.ranges = True
        self.break_after: list[int] = []  # per request: cut the connection after so many bytes
        self.status: dict[str, int] = {}
        self.once: list[int] = []  # statuses of the next requests, before anything else
        self.redirect: dict[str, str] = {}
        self.content_type = "application/octet-stream"
        self.length = True
        self.pause = 0.0  # seconds between pieces of 64 KiB

    def __getitem__(self, path: str) -> str:
        return f"{self.url}/{path}"


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *words) -> None:
        pass

    def do_GET(self) -> None:
        mirror, path = self.server.mirror, self.path.lstrip("/")
        asked = self.headers.get("Range")
        mirror.requests.append((path, asked))
        mirror.tokens.append(self.headers.get("Authorization"))
        if mirror.once:
            return self._head(mirror.once.pop(0), {"Content-Length": "0", "Retry-After": "0"})
        if path in mirror.redirect:
            return self._head(302, {"Location": mirror.redirect[path], "Content-Length": "0"})
        if path in mirror.status or path not in mirror.files:
            return self._head(mirror.status.get(path, 404), {"Content-Length": "0"})
        return self._send(mirror, mirror.files[path], asked)

    def _send(self, mirror: Mirror, data: bytes, asked: str | None) -> None:
        total, start, headers = len(data), 0, {"Content-Type": mirror.content_type}
        if asked and mirror.ranges and self.headers.get("If-Range") in (None, mirror.etag):
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= total:
                return self._head(416, {"Content-Length": "0"})
            headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
        if mirror.etag:
            headers["ETag"] = mirror.etag
        if mirror.length:
            headers["Content-Length"] = str(total - start)
        self._head(206 if "Content-Range" in headers else 200, headers)
        self._body(mirror, data[start:])

    def _body(self, mirror: Mirror, data: bytes) -> None:
        end = mirror.break_after.pop(0) if mirror.break_after else len(data)
        for at in range(0, min(end, len(data)), 1 << 16):
            self.wfile.write(data[at : min(at + (1 << 16), end)])
            self.wfile.flush()
            time.sleep(mirror.pause)
        self.close_connection = True

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    mirror: Mirror

    def handle_error(self, request, client_address) -> None:
        pass  # a client that goes away is what some tests are about


@contextmanager
def serve():
    """A running server; yields its Mirror."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.mirror = Mirror(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.mirror
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def no_waiting(monkeypatch):
    """No proxy in between, and no waiting between attempts."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("datamodules.whole_files.download.BACKOFF", 0.0)


@pytest.fixture
def mirror(no_waiting):
    """A server."""
    with serve() as running:
        yield running


@pytest.fixture
def other_mirror():
    """A second server."""
    with serve() as running:
        yield running
