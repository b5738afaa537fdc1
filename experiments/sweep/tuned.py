"""What `python -m experiments.tune` has chosen, taken over by a sweep (`tuned: FILE`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.text_files import read_text

FORMAT = 2  # of tuning.json; the grid that came before it had none


class Tuned(NamedTuple):
    """The outcome of one tuning. words: source -> method -> `key: value`."""

    data: str
    words: dict[str, dict[str, dict[str, Any]]]


def read_tuned(path: Path) -> Tuned:
    """A finished tuning.json.

    Raises:
        FileNotFoundError: no such file. ValueError: it is none, or its search was cut short.
    """
    if not path.is_file():
        raise FileNotFoundError(f"tuned: no file '{path}'. Expected the tuning.json of `python -m experiments.tune`.")
    try:
        found = json.loads(read_text(path))
        version, state = found.get("format"), found.get("state")
        if version == FORMAT:
            chosen = found["chosen"].items()
            words = {
                source: {name: dict(entry["words"]) for name, entry in methods.items()} for source, methods in chosen
            }
            data = found["asked"]["data"]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"'{path}' is damaged. Expected the tuning.json of `python -m experiments.tune`.") from None
    if version != FORMAT:
        raise ValueError(
            f"'{path}' is a tuning of format {version}, this version reads {FORMAT}. Tune again, or write its words "
            "into the recipe by hand (`data:` has `methods:`)."
        )
    if state != "finished":
        raise ValueError(f"The tuning '{path}' is not over, so that methods may differ in trials. Let it end first.")
    return Tuned(data, words)
