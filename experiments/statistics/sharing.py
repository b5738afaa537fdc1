"""Tells what a source and a target MLLM have in common, from the facts of model_zoo; no model is loaded."""

from __future__ import annotations

from typing import NamedTuple

from model_zoo.hf.catalogue import named_entry
from model_zoo.registry import canonical, get_entry
from model_zoo.weights.catalogue import PUBLISHED

MODEL, BOTH = "same model", "same tower weights and architecture"
TOWER, ARCHITECTURE, NOTHING = "same tower weights", "same architecture", "nothing"
STRONGEST_FIRST = (MODEL, BOTH, TOWER, ARCHITECTURE, NOTHING)


class Facts(NamedTuple):
    """tower: the file (of the hub: the weights) its vision tower comes from, None if it has one of its own or nobody
    knows. adapter: its class."""

    name: str
    tower: str | None
    adapter: str


def members(source: str) -> list[str]:
    """The models a prompt was learned on: several for an ensemble `a+b`."""
    return source.split("+")


def shared(source: str, target: str) -> str:
    """The strongest of `STRONGEST_FIRST` that any member of the source shares with the target.

    Tower weights: the same original file of the vision tower (of published models: the file of the original layout,
    whatever layout is loaded). Architecture: the same adapter class; an embedded model has that of its family. A model
    that is not registered shares nothing that is known with any other.
    """
    return min((_pair(member, target) for member in members(source)), key=STRONGEST_FIRST.index)


def _pair(source: str, target: str) -> str:
    a, b = facts(source), facts(target)
    if a.name == b.name:
        return MODEL
    tower, architecture = a.tower is not None and a.tower == b.tower, a.adapter == b.adapter
    return {(True, True): BOTH, (True, False): TOWER, (False, True): ARCHITECTURE, (False, False): NOTHING}[
        tower, architecture
    ]


def facts(name: str) -> Facts:
    """Tower and adapter of one model."""
    name = canonical(name)
    try:
        embedded = get_entry(name).embedded
    except ValueError:
        return Facts(name, None, name)
    if get_entry(name).hf:
        known = named_entry(name)
        # What the tower started from; a folder that is not listed may have any.
        return Facts(known.hub, known.tower, known.kind) if known else Facts(name, None, name)
    if not embedded:
        model = PUBLISHED[name]
        return Facts(name, model.vision and model.vision.path, model.adapter)
    from model_zoo.embedded.build import embedded_files, model_config

    family = model_config(name)["family"]
    sibling = PUBLISHED.get(family)
    return Facts(name, embedded_files(name)[0].name, sibling.adapter if sibling else family)
