"""What servers answered, kept on disk: a picture's answers are asked for once."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path
from typing import Any

from datamodules.whole_files.disk import cache_root, write_file

VERSION = 1  # raised when the same request would be written otherwise


class Responses:
    """Request -> answer, one small file each below `cache/served`, there whole or not at all; delete it at any time.

    Args:
        model: what names the model behind the server, and what it answered to the probe.
    """

    def __init__(self, model: Any) -> None:
        self.folder, self.model = cache_root() / "served", model
        self._closed, self._lock = False, threading.Lock()  # two threads may be asked about one picture

    def get(self, **request: Any) -> Any:
        """The answer, or None; a damaged one counts as absent."""
        try:
            return json.loads(self._path(request).read_bytes())["answer"]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, answer: Any, **request: Any) -> None:
        """Keep an answer; where the folder cannot be written that is said once, and nothing is kept."""
        path = self._path(request)
        try:
            with self._lock:
                if not self._closed:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_file(path, json.dumps({"answer": answer}).encode(), sync=False)
        except OSError as error:
            self._closed = True
            print(f"Answers of servers are not kept in '{self.folder}' ({error.strerror or error}). The run goes on.")

    def _path(self, request: dict[str, Any]) -> Path:
        key = json.dumps({"version": VERSION, "model": self.model, **request}, sort_keys=True)
        digest = hashlib.sha256(key.encode()).hexdigest()
        return self.folder / digest[:2] / f"{digest}.json"
