"""JSON over HTTP with retries, and three kinds of failure: another attempt may help, this request cannot be answered,
the server is gone.
"""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from datamodules.whole_files.download import pause
from datamodules.whole_files.http import AGENT

KEY = "TVP_SERVED_KEY"
"""The environment variable that holds a server's key; it is sent to that server and written nowhere."""
ATTEMPTS = 5
LONGEST_TEXT = 200  # of a server's own words, in a message


class ServerGoneError(ConnectionError):
    """The server cannot be reached, refuses the key or lacks the model: nothing more can be scored."""


class UnansweredError(OSError):
    """This request has no answer; others may."""


class _AgainError(Exception):
    """This attempt failed, another may not. wait: seconds the server asks for. away: nobody listens there."""

    def __init__(self, reason: str, wait: float = 0, away: bool = False) -> None:
        super().__init__(reason)
        self.wait, self.away = wait, away


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A key goes to the host that was named, so nothing is followed elsewhere."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Client:
    """Asks one server; used by several threads at once.

    Args:
        url: see `Address`.
        timeout: seconds without a byte.
        attempts: of each request, with a pause that doubles or that the server asks for.
    """

    def __init__(self, url: str, *, timeout: float = 120.0, attempts: int = ATTEMPTS) -> None:
        self.url, self.timeout, self.attempts = url, timeout, attempts
        self._gone = threading.Event()  # said by one thread, so that the others do not all find out slowly
        # The system's proxy is for addresses outside of this machine.
        proxies = [urllib.request.ProxyHandler({})] if _is_loopback(url) else []
        self._opener = urllib.request.build_opener(_NoRedirects, *proxies)

    def get(self, path: str) -> Any:
        """The JSON at a path; None where the server has no such path or none that is JSON."""
        try:
            return self._ask(path, None, absent=True)
        except UnansweredError:
            return None

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The JSON object that answers `body`.

        Raises UnansweredError where this request has no answer (refused as it is, or every attempt failed),
        ServerGoneError where no request will have one.
        """
        answer = self._ask(path, body)
        if not isinstance(answer, dict):
            raise UnansweredError(f"{path} answers with {type(answer).__name__}, expected an object")
        return answer

    def _ask(self, path: str, body: dict[str, Any] | None, absent: bool = False) -> Any:
        failed = 0
        while True:
            if self._gone.is_set():
                raise ServerGoneError(f"{self.url} stopped answering.")
            try:
                return self._once(path, body, absent)
            except _AgainError as again:
                failed += 1
                if failed >= self.attempts:
                    if again.away:
                        raise self._say_gone(f"does not answer ({again})") from None
                    raise UnansweredError(f"{failed} attempts: {again}") from None
                time.sleep(pause(failed, again.wait))

    def _once(self, path: str, body: dict[str, Any] | None, absent: bool) -> Any:
        headers = {"User-Agent": AGENT, "Content-Type": "application/json"}
        if key := os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers)
        try:
            with self._opener.open(request, timeout=self.timeout) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                if absent and error.code in (404, 405):
                    return None
                raise self._judge(error, path) from None
        except urllib.error.URLError as error:
            away = not isinstance(error.reason, TimeoutError)
            raise _AgainError(f"cannot be reached: {error.reason}", away=away) from None
        except TimeoutError:
            raise _AgainError(f"no byte in {self.timeout:g} s") from None
        except (OSError, http.client.HTTPException, ValueError) as error:  # cut off, or no JSON
            raise _AgainError(f"broke off ({type(error).__name__}: {error})"[:LONGEST_TEXT]) from None

    def _judge(self, error: urllib.error.HTTPError, path: str) -> Exception:
        said = _words(error)
        if error.code in (401, 403):
            return self._say_gone(f"refuses with {error.code}. Expected its key in the environment variable {KEY}")
        if error.code in (404, 405) or 300 <= error.code < 400:
            return self._say_gone(f"answers {path} with {error.code}{said}")
        if error.code in (408, 425, 429) or error.code >= 500:
            wait = error.headers.get("Retry-After", "")
            return _AgainError(f"answered {error.code}{said}", float(wait) if wait.isdigit() else 0)
        return UnansweredError(f"answered {error.code}{said}")

    def _say_gone(self, what: str) -> ServerGoneError:
        self._gone.set()
        return ServerGoneError(f"{self.url} {what}. What was answered so far is kept; start the command again.")


def _words(error: urllib.error.HTTPError) -> str:
    """The beginning of what a server says beside a status, in one line."""
    try:
        text = " ".join(error.read(4 * LONGEST_TEXT).decode("utf-8", "replace").split())
    except (OSError, http.client.HTTPException):
        text = ""
    return f": {text[:LONGEST_TEXT]}" if text else ""


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")
