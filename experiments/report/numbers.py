"""How the report writes numbers and names, and what it asks of a statistics file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from lightning_modules.vocabulary import METHODS, members
from model_zoo.registry import REGISTRY


class TextTable(NamedTuple):
    """caption: what the numbers are, with n, seeds and interval. rows: text, the first column names the row."""

    caption: str
    header: list[str]
    rows: list[list[str]]


# ---- numbers as people read them -------------------------------------------------------------------------------------
def score(value: float) -> str:
    """A fraction in %."""
    return f"{100 * value:.1f}"


def change(value: float) -> str:
    """A difference of fractions in points, with a true minus sign; nothing is -0.0."""
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def with_interval(entry: Mapping) -> str:
    return f"{change(entry['value'])} [{change(entry['low'])}, {change(entry['high'])}]"


def p_text(value: float | None) -> str:
    if value is None:
        return "–"
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def short(name: str) -> str:
    """`embedded_llava` -> `llava`: tables say once that the models are the embedded ones."""
    return name.removeprefix("embedded_")


def method_order(methods: Iterable[str]) -> list[str]:
    """none, vp, evp, tvp, then others by name."""
    known = {name: i for i, name in enumerate(METHODS)}
    return sorted(set(methods), key=lambda name: (known.get(name, len(known)), name))


def main_method(statistics: Mapping) -> str:
    """tvp where it was run, else the last method that learns something, else `none`."""
    methods = method_order(cell["method"] for cell in statistics["cells"])
    return "tvp" if "tvp" in methods else methods[-1] if methods else ""


def is_embedded(statistics: Mapping) -> bool:
    """Any model that ships with the package, and of which numbers say nothing about published ones?"""
    names = {name for cell in statistics["cells"] for name in (*members(cell["source"]), cell["target"])}
    return any(name in REGISTRY and REGISTRY[name].embedded for name in names)


def interval_kind(entries: Iterable[Mapping]) -> str:
    """What the intervals of these numbers are over: several seeds, or one."""
    kinds = sorted({entry["interval"] for entry in entries})
    return f"95 % interval over {' or '.join(kinds) or 'test images'}".replace("over images", "over test images")


def is_own(entry: Mapping) -> bool:
    """The target is what the prompt was learned on (one of several, for an ensemble): no transfer."""
    return entry["role"] == "source" or entry["source"] == entry["target"]


def counts(entry: Mapping) -> str:
    return f"{entry['pairs']} pairs × {seed_count(entry)} seeds, n {entry['n']}"


def seed_count(entry: Mapping) -> int:
    seeds = entry["seeds"]
    return seeds if isinstance(seeds, int) else len(seeds)
