"""Data sets by name, as data: adding one is its file and one line here. Importing this imports no data set."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any

from datamodules.whole_files.command_line import suggest

if TYPE_CHECKING:
    from datamodules.base import ImageTextDataModule

DATAMODULES = {
    "cifar10": "datamodules.cifar10:CIFAR10",
    "cifar100": "datamodules.cifar100:CIFAR100",
    "cifar10c": "datamodules.cifar10c:CIFAR10C",
    "clevr": "datamodules.clevr:CLEVR",
    "dtd": "datamodules.dtd:DTD",
    "emoji_counting": "datamodules.emoji.questions:EmojiCounting",
    "emoji_matching": "datamodules.emoji.questions:EmojiMatching",
    "emoji_presence": "datamodules.emoji.questions:EmojiPresence",
    "emoji_recognition": "datamodules.emoji.questions:EmojiRecognition",
    "eurosat": "datamodules.eurosat:EuroSAT",
    "fashion_mnist": "datamodules.fashion_mnist:FashionMNIST",
    "fashion_mnist_small": "datamodules.fashion_mnist:FashionMNISTSmall",
    "hateful_memes": "datamodules.hateful_memes:HatefulMemes",
    "imagefolder": "datamodules.imagefolder:ImageFolder",
    "imagenette": "datamodules.imagenette:Imagenette",
    "oxford_pets": "datamodules.oxford_pets:OxfordPets",
    "pope": "datamodules.pope:POPE",
    "svhn": "datamodules.svhn:SVHN",
    "vqa_jsonl": "datamodules.vqa_jsonl:VQAJsonl",
    "web_counting": "datamodules.emoji.questions:WebCounting",
    "web_matching": "datamodules.emoji.questions:WebMatching",
    "web_presence": "datamodules.emoji.questions:WebPresence",
    "web_recognition": "datamodules.emoji.questions:WebRecognition",
}


def list_datamodules() -> list[str]:
    """The names `load_datamodule` knows, sorted."""
    return sorted(DATAMODULES)


def load_datamodule(name: str, **kwargs: Any) -> ImageTextDataModule:
    """Build the data set called `name`; `kwargs` go to its constructor. Nothing is read before its rows are asked for.

    Raises: ValueError for an unknown name, with the nearest one, or an option that the set does not have.
    """
    if name not in DATAMODULES:
        raise ValueError(
            f"Unknown data set '{name}'.{suggest(name, DATAMODULES)} Available: {', '.join(list_datamodules())}"
        )
    module, _, attribute = DATAMODULES[name].partition(":")
    datamodule = getattr(importlib.import_module(module), attribute)
    known = _options(datamodule)
    unknown = [option for option in kwargs if option not in known]
    if unknown:
        raise ValueError(f"Data set '{name}' has no option '{unknown[0]}'. Expected some of: {', '.join(known)}.")
    return datamodule(**kwargs)


def _options(datamodule: type) -> list[str]:
    """The keyword arguments of a class and of those it passes the rest on to."""
    found: set[str] = set()
    for base in datamodule.__mro__:
        own = vars(base).get("__init__")
        if own is not None and base.__module__.startswith("datamodules."):
            found |= {p.name for p in inspect.signature(own).parameters.values() if p.kind == p.KEYWORD_ONLY}
    return sorted(found)
