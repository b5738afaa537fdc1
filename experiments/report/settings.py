"""Configurations of runs as the page shows them: what all share once, what differs for each, no path of a machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any, cast

from omegaconf import OmegaConf

from experiments.recipes import as_yaml
from experiments.run.folder import CONFIG

LEFT_OUT = ("out", "resume")  # where a run lies says nothing about what it is


def read_config(folder: Path) -> dict[str, Any]:
    """`key.sub.key` -> value of config.yaml; empty where it cannot be read. Absolute paths keep their last part."""
    try:
        config = OmegaConf.to_container(OmegaConf.load(folder / CONFIG))
    except Exception:  # damaged YAML raises anything; the run table says that there is none
        return {}
    flat = flatten(cast(dict[str, Any], config)) if isinstance(config, dict) else {}
    return {key: without_path(value) for key, value in flat.items() if key not in LEFT_OUT}


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return flat


def without_path(value: Any) -> Any:
    if isinstance(value, str) and (value.startswith("/") or PureWindowsPath(value).is_absolute()):
        return f"…/{PureWindowsPath(value).name}"
    return [without_path(part) for part in value] if isinstance(value, list) else value


def common(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What every configuration says the same."""
    first = configs[0] if configs else {}
    return {key: value for key, value in first.items() if all(c.get(key, ...) == value for c in configs)}


def as_text(config: Mapping[str, Any]) -> str:
    """One `key: value` a line, as words a command takes."""
    return "\n".join(f"{key}: {as_yaml(value, comma=', ')}" for key, value in config.items())
