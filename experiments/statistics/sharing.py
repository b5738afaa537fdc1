"""Tells what a source and a target MLLM have in common, from the facts of model_zoo; no model is loaded."""

from __future__ import annotations

from typing import NamedTuple

from lightning_modules.vocabulary import members
from model_zoo.embedded.config import embedded_files, is_pretrained, model_config, tower_architecture
from model_zoo.hf.catalogue import named_entry
from model_zoo.registry import canonical, get_entry
from model_zoo.weights.catalogue import PUBLISHED

MODEL = "same model"
GROWN = "same tower, connector grown from that of the source"
RELATED = "same tower, connectors of one origin"
BOTH, TOWER = "same tower weights and architecture", "same tower weights"
LANGUAGE = "same language model, other tower"
ARCHITECTURE_AND_KIND, KIND = "same architecture, other tower of the same kind", "other tower of the same kind"
ARCHITECTURE_ONLY, OTHER_KIND = "same architecture, tower of another kind", "tower of another kind"
ARCHITECTURE, NOTHING = "same architecture", "nothing"
"""The last two: nothing is known of one of the towers, or an older statistics.json, which did not tell kinds apart."""
STRONGEST_FIRST = (
    *(MODEL, GROWN, RELATED, BOTH, TOWER, LANGUAGE, ARCHITECTURE_AND_KIND, KIND, ARCHITECTURE_ONLY, ARCHITECTURE),
    *(OTHER_KIND, NOTHING),
)
OTHER_TOWER = {  # (same architecture, same kind of tower; None: unknown) -> what they share
    (True, True): ARCHITECTURE_AND_KIND,
    (False, True): KIND,
    (True, False): ARCHITECTURE_ONLY,
    (False, False): OTHER_KIND,
    (True, None): ARCHITECTURE,
    (False, None): NOTHING,
}


class Facts(NamedTuple):
    """tower: the file (of the hub: the weights) its vision tower comes from, None if it has one of its own or nobody
    knows. adapter: its class.

    kind: of the tower, `ViT` or `CNN`; None where it is not known. origins: the models its connector grew from, the
    latest first. llm: the weights its language model started from; None where nobody looked.
    """

    name: str
    tower: str | None
    adapter: str
    kind: str | None = None
    origins: tuple[str, ...] = ()
    llm: str | None = None


def shared(source: str, target: str) -> str:
    """The strongest of `STRONGEST_FIRST` that any member of the source shares with the target.

    Tower weights: the same original file of the vision tower (of published models: the file of the original layout,
    whatever layout is loaded). Language model: the same weights at the start, known of the hub's named models, and told
    only where the towers are others. A connector that grew from another's: training began with the other's weights.
    Kind: vision transformer or convolutional network. Architecture: the same adapter class; an embedded model has that
    of its family. A model that is not registered shares nothing that is known with any other.
    """
    return min((_pair(member, target) for member in members(source)), key=STRONGEST_FIRST.index)


def direction(source: str, target: str) -> str:
    """`ViT to CNN`: kind of the source's tower (of each, for an ensemble), then of the target's; and whether it is one.

    `?` stands for a tower of which nothing is known.
    """
    mine, other = [facts(member) for member in members(source)], facts(target)
    kinds = "+".join(sorted({of.kind or "?" for of in mine}))
    same = other.tower is not None and other.tower in {of.tower for of in mine}
    return f"{kinds} to {other.kind or '?'}, {'the same tower' if same else 'another tower'}"


def _pair(source: str, target: str) -> str:
    a, b = facts(source), facts(target)
    if a.name == b.name:
        return MODEL
    architecture = a.adapter == b.adapter
    if a.tower is None or a.tower != b.tower:
        if a.llm and a.llm == b.llm:
            return LANGUAGE
        return OTHER_TOWER[architecture, None if None in (a.kind, b.kind) else a.kind == b.kind]
    if a.name in b.origins:
        return GROWN
    if {a.name, *a.origins} & {b.name, *b.origins}:
        return RELATED
    return BOTH if architecture else TOWER


def facts(name: str) -> Facts:
    """Tower, its kind, adapter and the connector's origins of one model."""
    name = canonical(name)
    try:
        embedded = get_entry(name).embedded
    except ValueError:
        return Facts(name, None, name)
    if get_entry(name).served:
        return Facts(name, None, name)  # nobody here sees its tower
    if get_entry(name).hf:
        known = named_entry(name)
        # What the tower started from; a folder that is not listed may have any.
        return Facts(known.hub, known.tower, known.kind, "ViT", llm=known.llm) if known else Facts(name, None, name)
    if not embedded:
        model = PUBLISHED[name]
        return Facts(name, model.vision and model.vision.path, model.adapter, "ViT")  # EVA, or VisualGLM's own
    config = model_config(name)
    sibling = PUBLISHED.get(config["family"])
    adapter = sibling.adapter if sibling else config["family"]
    return Facts(name, embedded_files(name)[0].name, adapter, _kind(name), _origins(name))


def _kind(name: str) -> str:
    """Of an embedded model's tower: one that cuts its input into patches is a vision transformer."""
    return "CNN" if is_pretrained(name) or "patch_size" not in tower_architecture(name) else "ViT"


def _origins(name: str) -> tuple[str, ...]:
    parent = model_config(name)["training"].get("grown_from")
    return (parent, *_origins(parent)) if parent else ()
