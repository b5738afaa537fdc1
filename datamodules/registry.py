"""Data sets by name, as data: adding one is its file and one line here. Importing this imports no data set."""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.base import ImageTextDataModule

DATAMODULES = {
    "cifar10": "datamodules.cifar10:CIFAR10",
    "clevr": "datamodules.clevr:CLEVR",
    "emoji_counting": "datamodules.emoji:EmojiCounting",
    "emoji_matching": "datamodules.emoji:EmojiMatching",
    "emoji_presence": "datamodules.emoji:EmojiPresence",
    "emoji_recognition": "datamodules.emoji:EmojiRecognition",
    "hateful_memes": "datamodules.hateful_memes:HatefulMemes",
    "imagefolder": "datamodules.imagefolder:ImageFolder",
    "pope": "datamodules.pope:POPE",
    "vqa_jsonl": "datamodules.vqa_jsonl:VQAJsonl",
}


def list_datamodules() -> list[str]:
    """The names `load_datamodule` knows, sorted."""
    return sorted(DATAMODULES)


def load_datamodule(name: str, **kwargs: Any) -> ImageTextDataModule:
    """Build the data set called `name`; `kwargs` go to its constructor. Nothing is read before its rows are asked for.

    Raises: ValueError for an unknown name, with the nearest one.
    """
    if name not in DATAMODULES:
        close = difflib.get_close_matches(name, DATAMODULES, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise ValueError(f"Unknown data set '{name}'.{hint} Available: {', '.join(list_datamodules())}")
    module, _, attribute = DATAMODULES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)(**kwargs)
