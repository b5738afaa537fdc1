"""A loopback server that speaks the Hugging Face hub's protocol, large files on another host; no test."""

from __future__ import annotations

import hashlib
import json
import threading
from base64 import b64decode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest

from support.data_server import Mirror, serve

LARGE = (".safetensors", ".bin", ".pth")


class Hub:
    """Models by name, each with its commits. `requests` lists (method, path, token); set `once` for faults to come."""

    def __init__(self, url: str, cdn: Mirror) -> None:
        self.url, self.cdn = url, cdn
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}
        self.branches: dict[str, dict[str, str]] = {}
        self.gated: dict[str, str] = {}  # model -> the token that may read it
        self.writer = "may write"  # the token that may push
        self.once: list[int] = []
        self.listing: dict[str, dict[str, bytes]] = {}  # model -> the files it states, where it serves others
        self.requests: list[tuple[str, str, str | None]] = []

    def push(self, repo: str, files: dict[str, bytes], branch: str = "main") -> str:
        """A new commit; returns its name."""
        commit = hashlib.sha1(repr((repo, sorted(files.items()))).encode()).hexdigest()
        self.commits.setdefault(repo, {})[commit] = dict(files)
        self.branches.setdefault(repo, {})[branch] = commit
        self.cdn.files |= {hashlib.sha256(data).hexdigest(): data for data in files.values()}
        return commit

    def asked(self, word: str) -> list[str]:
        """The paths of the requests whose path has `word` in it."""
        return [path for _, path, _ in self.requests if word in path]

    def find(self, repo: str, revision: str) -> str | None:
        revision = self.branches.get(repo, {}).get(revision, revision)
        return revision if revision in self.commits.get(repo, {}) else None


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *words) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_POST(self) -> None:
        hub, parts = self.server.hub, unquote(urlsplit(self.path).path).lstrip("/").split("/")
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        hub.requests.append((self.command, "/".join(parts), token))
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if parts == ["api", "repos", "create"]:
            if token != hub.writer:
                return self._send(403, {})
            wanted = json.loads(sent)
            answer = {"url": f"{hub.url}/{wanted.get('organization', 'user')}/{wanted['name']}"}
        elif parts[4:5] == ["preupload"]:
            modes = {"uploadMode": "regular", "shouldIgnore": False}
            answer = {"files": [{"path": each["path"], **modes} for each in json.loads(sent)["files"]]}
        elif parts[4:5] == ["commit"]:
            lines = [json.loads(line) for line in sent.splitlines()]
            files = [line["value"] for line in lines if line["key"] == "file"]
            repo = "/".join(parts[2:4])
            commit = hub.push(repo, {each["path"]: b64decode(each["content"]) for each in files})
            answer = {"success": True, "commitOid": commit, "commitUrl": f"{hub.url}/{repo}/commit/{commit}"}
        else:  # validate-yaml
            answer = {"errors": [], "warnings": []}
        return self._send(200, {"Content-Type": "application/json"}, json.dumps(answer).encode())

    def _answer(self, body: bool) -> None:
        hub, path = self.server.hub, unquote(urlsplit(self.path).path).lstrip("/")
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        hub.requests.append((self.command, path, token))
        if hub.once:
            return self._send(hub.once.pop(0), {"Retry-After": "0"})
        parts = path.split("/")
        if parts[:2] == ["api", "models"]:
            return self._model("/".join(parts[2:4]), parts[5] if parts[4:5] == ["revision"] else "main", body)
        return self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]), token, body)

    def _model(self, repo: str, revision: str, body: bool) -> None:
        hub = self.server.hub
        if repo not in hub.commits:
            return self._send(401, {"X-Error-Code": "RepoNotFound"})
        if (commit := hub.find(repo, revision)) is None:
            return self._send(404, {"X-Error-Code": "RevisionNotFound"})
        siblings = []
        for name, data in hub.listing.get(repo, hub.commits[repo][commit]).items():
            entry = {"rfilename": name, "size": len(data), "blobId": _blob(data)}
            if name.endswith(LARGE):
                entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
            siblings.append(entry)
        answer = {"id": repo, "sha": commit, "gated": "manual" if repo in hub.gated else False, "siblings": siblings}
        return self._send(200, {"Content-Type": "application/json"}, json.dumps(answer).encode() if body else b"")

    def _file(self, repo: str, revision: str, name: str, token: str | None, body: bool) -> None:
        hub = self.server.hub
        if repo in hub.gated and token != hub.gated[repo]:
            return self._send(403 if token else 401, {"X-Error-Code": "GatedRepo"})
        revision = hub.find(repo, revision) or revision
        data = hub.commits.get(repo, {}).get(revision, {}).get(name)
        if repo not in hub.commits:
            return self._send(401, {"X-Error-Code": "RepoNotFound"})
        if data is None:
            return self._send(404, {"X-Error-Code": "EntryNotFound"})
        headers = {"X-Repo-Commit": revision, "ETag": f'"{_blob(data)}"'}
        if name.endswith(LARGE):
            digest = hashlib.sha256(data).hexdigest()
            headers |= {"X-Linked-ETag": f'"{digest}"', "X-Linked-Size": str(len(data)), "Location": hub.cdn[digest]}
            return self._send(302, headers)
        return self._send(200, {**headers, "Content-Type": "text/plain"}, data, body)

    def _send(self, status: int, headers: dict[str, str], data: bytes = b"", body: bool = True) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(data)


def _blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: Hub


@pytest.fixture
def hub(no_waiting, monkeypatch):
    """A hub, asked by everything in this process; no token."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with serve() as cdn:
        server = _Server(("127.0.0.1", 0), _Handler)
        server.hub = Hub(f"http://127.0.0.1:{server.server_port}", cdn)
        monkeypatch.setenv("HF_ENDPOINT", server.hub.url)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield server.hub
        server.shutdown()
        server.server_close()
