"""What wandb recorded offline, read back by its own command, for tests; no test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from experiments.tracking.logger import inspect, sessions, summary


def records(log: Path) -> list[dict[str, Any]]:
    """Every record of one session, in order, also of one whose end is cut off."""
    return [json.loads(line) for line in inspect(log).splitlines() if line.startswith("{")]


def history(log: Path) -> list[dict[str, Any]]:
    """The logged rows of one session; media and tables as flattened entries (`key._type`, `key.path`...)."""
    return [record["history"]["item"] for record in records(log) if record["type"] == "history"]


def logged_keys(folder: Path) -> set[str]:
    """Every key the folder's runs logged, over all sessions, without W&B's own (`_step`, `_wandb`, ...)."""
    return {key for log in sessions(folder) for key in summary(log)["summary"] if not key.startswith("_")}
