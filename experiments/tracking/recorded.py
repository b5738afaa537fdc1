"""Read an offline run back, by wandb's own reader: `python -m wandb leet inspect` on the folder's transaction logs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

OWN = "_"  # W&B's own entries: _step, _runtime, _timestamp, _wandb


def sessions(folder: Path) -> list[Path]:
    """The transaction logs below FOLDER/wandb, oldest first: one per start or resume of the run."""
    return sorted((folder / "wandb").glob("*run-*/run-*.wandb"), key=lambda log: log.parent.name.partition("run-")[2])


def summary(log: Path) -> dict[str, Any]:
    """State, run id, config, tags, last value of every key of one session."""
    return json.loads(_inspect(log, "--summary"))


def records(log: Path) -> list[dict[str, Any]]:
    """Every record of one session, in order, also of one whose end is cut off."""
    return [json.loads(line) for line in _inspect(log).splitlines() if line.startswith("{")]


def history(log: Path) -> list[dict[str, Any]]:
    """The logged rows of one session; media and tables as flattened entries (`key._type`, `key.path`...)."""
    return [record["history"]["item"] for record in records(log) if record["type"] == "history"]


def logged_keys(folder: Path) -> set[str]:
    """Every key the folder's runs logged, over all sessions, without W&B's own."""
    return {key for log in sessions(folder) for key in summary(log)["summary"] if not key.startswith(OWN)}


def last_step(folder: Path) -> int:
    """The highest value W&B's counter reached in any session of the folder; -1 where there was none or none is read."""
    steps = [-1]
    for log in sessions(folder):
        try:
            steps.append(int(summary(log)["step"]))
        except (OSError, ValueError, KeyError, TypeError, subprocess.SubprocessError):
            continue
    return max(steps)


def _inspect(log: Path, *words: str) -> str:
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", *words, str(log)]
    env = os.environ | {"WANDB_ERROR_REPORTING": "false"}
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=env).stdout
