"""What `prepare` put on the disk: `<root>/.prepared/<name>.json`, by which later losses and changes are found.

{"name", "parts": {target: {"source": {"file", "size", "digest", "stated", "from"}, "date", "listing", "files":
{path below target: [size, sha256]}}}}; "listing" is the sha256 over the sorted lines `sha256 size path`.
"""

from __future__ import annotations

import hashlib
from datetime import date
from pathlib import Path
from typing import Any

from datamodules.digests import hash_file
from datamodules.disk import STATE, read_json, write_json

Files = dict[str, tuple[int, str]]  # path below the target ("" = the target itself) -> (bytes, sha256)


class Manifest:
    """The manifest of one data set. Raises: ValueError when it is damaged."""

    def __init__(self, root: Path, name: str) -> None:
        self.path, self.name = Path(root) / STATE / f"{name}.json", name
        repair = f"delete it and run `prepare {name}` again, which looks at the files anew"
        content = read_json(self.path, f"the manifest of '{name}'", repair) or {"name": name, "parts": {}}
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
