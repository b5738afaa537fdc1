"""The training script's command line: one name and key=value options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from model_zoo.embedded.build import WEIGHTS

DEFAULTS: dict[str, Any] = {"out": WEIGHTS, "steps_scale": 1.0, "third_style": True, "threads": 2}


def parse(argv: list[str], usage: str) -> tuple[str, dict[str, Any]]:
    """NAME and the options.

    >>> parse(["vit", "threads=1"], "usage")[1]["threads"]
    1

    Raises SystemExit with what is wrong, or with the usage when there is not exactly one name.
    """
    options = dict(DEFAULTS)
    names = [a for a in argv if "=" not in a]
    for key, _, value in (a.partition("=") for a in argv if "=" in a):
        options[key] = read_value(key, value)
    if len(names) != 1:
        raise SystemExit(usage)
    return names[0], options


def read_value(key: str, text: str) -> Any:
    """An option's value, of its default's type. Raises SystemExit for an unknown key or a text that does not fit."""
    if key not in DEFAULTS:
        raise SystemExit(f"Unknown option {key!r}. Available: {', '.join(DEFAULTS)}.")
    if isinstance(DEFAULTS[key], bool):
        if text.lower() not in ("true", "false"):
            raise SystemExit(f"{key} is {text!r}. Expected true or false.")
        return text.lower() == "true"
    try:
        return Path(text) if key == "out" else type(DEFAULTS[key])(text)
    except ValueError:
        raise SystemExit(f"{key} is {text!r}. Expected a number.") from None
