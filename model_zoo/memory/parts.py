"""Which weights models have in common, before anything is loaded: parts with their bytes, each counted once."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from model_zoo.embedded.config import embedded_files
from model_zoo.memory.need import weight_bytes
from model_zoo.memory.sizes import BYTES, Sizes
from model_zoo.registry import canonical, get_entry
from model_zoo.weights.catalogue import PUBLISHED
from model_zoo.weights.layouts import complete_layout


class Part(NamedTuple):
    """A piece of a model's weights. key: equal where models hold the same in the same form. what: its name."""

    key: tuple[str, ...]
    what: str
    bytes: int


def distinct(parts: Iterable[Part]) -> list[Part]:
    """Each part once, in their order."""
    return list({part.key: part for part in parts}.values())


def total(parts: Iterable[Part]) -> int:
    """Bytes of parts that are in memory together, each once."""
    return sum(part.bytes for part in distinct(parts))


def parts_of(name: str, weights: str, sizes: Sizes | None, dtype: str, quant: str | None = None) -> list[Part]:
    """The parts of a model as `dtype`, its LLM perhaps quantised; sizes: None where they are not planned.

    Published models share what the catalogue gives them in common; a conversion of the hub shares nothing, as its files
    alone do not tell (where the bits agree it will all the same). Embedded models share a tower's file.
    """
    entry, home = get_entry(name), str(Path(weights).resolve())
    if entry.embedded:
        return _embedded(name, dtype)
    whole = entry.parameters * 4 if sizes is None else weight_bytes(sizes, dtype, quant)
    alone = Part((home, canonical(name), dtype, str(quant)), name, whole)
    known = PUBLISHED.get(canonical(name))
    if known is None or known.vision is None or sizes is None or _is_conversion(name, weights):
        return [alone]
    tower = (sizes.vision.parameters - 2 * sizes.vision.width) * BYTES[dtype]  # its last norm comes with the Q-Former
    llm = whole - sizes.connector * BYTES[dtype]
    former = sizes.qformer.parameters * BYTES[dtype]
    return [
        Part((home, known.vision.path, dtype), "tower EVA ViT-g", tower),
        Part((home, known.llm.path, dtype, str(quant)), f"LLM {Path(known.llm.path).name}", llm),
        Part((home, known.checkpoints[0].path, dtype), f"Q-Former {Path(known.checkpoints[0].path).stem}", former),
        Part((home, canonical(name), "rest", dtype), f"rest of {name}", whole - tower - llm - former),
    ]


@lru_cache
def _embedded(name: str, dtype: str) -> list[Part]:
    from model_zoo.weights.headers import read_headers

    tower, own = embedded_files(name)
    if not (tower.is_file() and own.is_file()):
        return [Part((name, dtype), name, get_entry(name).parameters * BYTES[dtype])]
    named = ((tower, f"tower {tower.stem}"), (own, f"rest of {name}"))
    counts = [sum(tensor.numel() for tensor in read_headers(path).values()) for path, _ in named]
    return [Part((str(path), dtype), what, n * BYTES[dtype]) for (path, what), n in zip(named, counts, strict=True)]


def _is_conversion(name: str, weights: str) -> bool:
    layout = complete_layout(canonical(name), Path(weights))
    return layout is not None and layout.kind == "hub"
