"""What wandb recorded offline, read back by its own command, and the documented keys it belongs to; no test."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

from experiments.schema import Method
from experiments.tracking.keys import KEYS, METRICS, Key
from experiments.tracking.logger import inspect, sessions, summary
from lightning_modules.vocabulary import CONTROLS

PLACES = {
    "<mllm>": "[a-z0-9_]+",
    "<metric>": METRICS,
    "<control>": "|".join(CONTROLS),
    "<method>": "|".join(get_args(get_type_hints(Method)["name"])),
}
PLACES["<pair>"] = f"(?:{PLACES['<method>']})-(?:{PLACES['<method>']})"


def records(log: Path) -> list[dict[str, Any]]:
    """Every record of one session, in order, also of one whose end is cut off."""
    return [json.loads(line) for line in inspect(log).splitlines() if line.startswith("{")]


def history(log: Path) -> list[dict[str, Any]]:
    """The logged rows of one session; media and tables as flattened entries (`key._type`, `key.path`...)."""
    return [record["history"]["item"] for record in records(log) if record["type"] == "history"]


def logged_keys(folder: Path) -> set[str]:
    """Every key the folder's runs logged, over all sessions, without W&B's own (`_step`, `_wandb`, ...)."""
    return {key for log in sessions(folder) for key in summary(log)["summary"] if not key.startswith("_")}


@cache
def _compiled(of: str) -> list[tuple[re.Pattern, Key]]:
    # A key with fewer places is the more particular one: mean_select is no model.
    keys = sorted((key for key in KEYS if key.of == of), key=lambda key: key.pattern.count("<"))
    return [(re.compile(_regex(key.pattern)), key) for key in keys]


def _regex(pattern: str) -> str:
    parts = re.split(r"(<\w+>)", pattern)
    return "".join(f"(?:{PLACES[part]})" if part in PLACES else re.escape(part) for part in parts)


def matching_key(name: str, of: str = "run") -> Key | None:
    """The documented key a logged name belongs to; None where nothing documents it."""
    return next((key for pattern, key in _compiled(of) if pattern.fullmatch(name)), None)
