"""Which gates of gates.yaml the numbers in gates.json pass: verdicts and tables. No torch, as documents read it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from experiments.cli import markdown, unknown
from experiments.recipes import read_yaml

WORLDS = Path(__file__).with_name("gates.yaml")
GATES = Path(__file__).parents[2] / "model_zoo" / "embedded" / "gates.json"
PASS, SHORT, UNKNOWN = "PASS", "short", "not measured"
SHORT_ONES = 4  # most that a cell names


class Verdict(NamedTuple):
    """wanted, found: in words. verdict: PASS, SHORT or UNKNOWN."""

    gate: str
    world: str
    wanted: str
    found: str
    verdict: str


# ---- files -----------------------------------------------------------------------------------------------------------
def read_worlds() -> dict[str, dict[str, Any]]:
    """World -> its data sets, models, control models and thresholds, as gates.yaml explains them."""
    content: Any = OmegaConf.to_container(read_yaml(WORLDS))
    return content


def read_gates(path: Path = GATES) -> dict[str, Any]:
    """World -> what was measured of it. Raises FileNotFoundError where nothing was."""
    return json.loads(path.read_text(encoding="utf-8"))


def worlds_named(word: str, worlds: Mapping[str, Any]) -> list[str]:
    """The worlds that a word names. Raises ValueError for one that gates.yaml does not have."""
    names = list(worlds) if word == "all" else [part for part in word.split(",") if part]
    for name in names:
        if name not in worlds:
            raise unknown("world", name, [*worlds, "all"])
    return names


# ---- verdicts --------------------------------------------------------------------------------------------------------
def verdicts(name: str, world: Mapping[str, Any], found: Mapping[str, Any]) -> list[Verdict]:
    """Every gate of one world, in a fixed order.

    world: its entry in gates.yaml. found: its entry in gates.json.

    Raises:
        ValueError: a model or a data set of the world is not in `found`.
    """
    models = [*world["models"], *world["controls"]]
    lacking = [m for m in models if m not in found["models"]] + [d for d in world["data"] if d not in found["data"]]
    if lacking:
        raise ValueError(
            f"gates.json knows nothing of {', '.join(lacking)}. Measure them: python -m experiments.embedded_zoo gates "
            f"world={name}"
        )
    return [*_model_gates(name, world, found, models), *_offset_gates(name, world, found)]


def _model_gates(name: str, world: Mapping, found: Mapping, models: Sequence[str]) -> Iterator[Verdict]:
    """What each model must hold, control models too: on every data set, and on the scenes it was trained in."""
    gates = world["gates"]
    for gate, title, value in MODEL_GATES:
        for data in world["data"] if gate in gates else []:
            of = found["data"][data]
            wanted, why = f"{title} ≥ {_number(gates[gate])}", of.get("no_probe") or ""
            values = {m: value(of["models"][m]) for m in models}
            yield _each(gate, f"{name}, {data}", wanted, values, gates[gate], why)
    if "recognition" in gates:
        values = {m: found["models"][m]["recognition"] for m in models}
        wanted = f"held-out scenes of its own training named right ≥ {gates['recognition']}"
        yield _each("recognition", name, wanted, values, gates["recognition"], "")


def _probe_over_full(model: Mapping) -> float | None:
    return None if model["probe"] is None else model["probe"] - model["full"]


MODEL_GATES: tuple[tuple[str, str, Callable[[Mapping], float | None]], ...] = (
    ("border", "black border − full size", lambda model: model["border"][0]),
    ("probe", "linear probe in the black border", lambda model: model["probe"]),
    ("room", "that probe − full size", _probe_over_full),
)
"""(key in gates.yaml, in words, its value for a model of gates.json or None)."""


def _each(gate: str, world: str, wanted: str, values: Mapping[str, float | None], least: float, why: str) -> Verdict:
    """A gate that every model must pass; the lowest of those that do not are named first."""
    known = {m: value for m, value in values.items() if value is not None}
    if len(known) < len(values):
        return Verdict(gate, world, wanted, why or f"unknown of {len(values) - len(known)} models", UNKNOWN)
    short = sorted((value, m) for m, value in known.items() if below(value, least))
    text = f"{len(known) - len(short)} of {len(known)} models"
    text += f"; {_named([f'{m} {_number(value, 1)}' for value, m in short])}" if short else ""
    return Verdict(gate, world, wanted, text, SHORT if short else PASS)


def _offset_gates(name: str, world: Mapping, found: Mapping) -> Iterator[Verdict]:
    """What offsets bring on the first data set: to the model they are fitted on, to another, to a control model."""
    gates, data = world["gates"], world["data"][0]
    of, web, where = found["data"][data], world["models"], f"{name}, {data}"
    if "own_offsets" in gates:
        least, many = gates["own_offsets"], gates["own_offsets_models"]
        gains = [of["models"][m]["own_offsets"][0] for m in web]
        count = sum(not below(gain, least) for gain in gains)
        wanted = f"own offsets ≥ {_signed(least, 0)} on at least {many} models"
        text = f"{count} of {len(web)} models; {_signed(min(gains))} to {_signed(max(gains))}"
        yield Verdict("own_offsets", where, wanted, text, PASS if count >= many else SHORT)
    if "others_offsets" in gates:
        pairs = [(of["offsets"][a][b][0], f"{a} → {b}") for a in web for b in web if a != b]
        yield _every_pair(where, pairs, gates["others_offsets"])
    if "controls_offsets" in gates:
        pairs = [(of["offsets"][a][b][0], f"{a} → {b}") for a in web for b in world["controls"]]
        wanted = f"offsets of one model on a control model: mean within ±{gates['controls_offsets']} of 0"
        if not pairs:
            yield Verdict("controls_offsets", where, wanted, "the world has no control model", UNKNOWN)
            return
        mean = sum(value for value, _ in pairs) / len(pairs)
        text = f"{_signed(mean)}, mean of {len(pairs)} pairs; {_signed(min(pairs)[0])} to {_signed(max(pairs)[0])}"
        passed = not below(gates["controls_offsets"], abs(mean))
        yield Verdict("controls_offsets", where, wanted, text, PASS if passed else SHORT)


def _every_pair(where: str, pairs: Sequence[tuple[float, str]], least: float) -> Verdict:
    wanted = f"offsets of one model on another of its web ≥ {_signed(least, 0)}"
    if not pairs:
        return Verdict("others_offsets", where, wanted, "the world has one model", UNKNOWN)
    short = sorted(pair for pair in pairs if below(pair[0], least))
    mean = sum(value for value, _ in pairs) / len(pairs)
    text = f"{len(pairs) - len(short)} of {len(pairs)} pairs, mean {_signed(mean)}"
    text += f"; {_named([f'{pair} {_signed(value)}' for value, pair in short])}" if short else ""
    return Verdict("others_offsets", where, wanted, text, SHORT if short else PASS)


def below(value: float, least: float) -> bool:
    """Whether a value misses its threshold; differences of rounded points carry noise in the last place."""
    return value < least - 1e-9


# ---- tables ----------------------------------------------------------------------------------------------------------
def gates_table(found: Mapping[str, Any], worlds: Mapping[str, Any]) -> str:
    """One table of every gate of every measured world."""
    order = list(dict.fromkeys(gate for world in worlds.values() for gate in world["gates"]))
    rows = [row for name in worlds if name in found for row in verdicts(name, worlds[name], found[name])]
    rows.sort(key=lambda row: order.index(row.gate))
    return markdown(
        ["world, data", "gate", "found", "verdict"], [[r.world, r.wanted, r.found, r.verdict] for r in rows]
    ).strip()


def models_table(name: str, found: Mapping[str, Any], worlds: Mapping[str, Any]) -> str:
    """The numbers the gates of one world are judged by, a table for each data set; what misses its gate says so."""
    world, parts = worlds[name], []
    gates, models = world["gates"], [*world["models"], *world["controls"]]

    def cell(text: str, value: float | None, gate: str) -> str:
        miss = value is not None and gate in gates and below(value, gates[gate])
        return f"{text} {SHORT}" if miss else text

    for data in world["data"]:
        of, rows = found[name]["data"][data], []
        for model in models:
            one, said = of["models"][model], found[name]["models"][model]["recognition"]
            probe, room = one["probe"], _probe_over_full(one)
            rows.append(
                [
                    f"`{model}`" + (" (control)" if model in world["controls"] else ""),
                    *(_number(one[key], 1) for key in ("full", "black")),
                    cell(_change(one["border"]), one["border"][0], "border"),
                    cell(_number(probe, 1), probe, "probe"),
                    cell(_signed(room), room, "room"),
                    cell(_change(one["own_offsets"]), one["own_offsets"][0], "own_offsets"),
                    cell(_number(said, 1), said, "recognition"),
                ]
            )
        header = ["model", "full", "black", "black − full", "probe, black", "probe − full", "own offsets", "in domain"]
        n = of["rows"]
        caption = (
            f"{data}, {of['metric']} in %, {n['test']} test rows, frame {of['frame']}, border {of['pad']}; in brackets "
            f"95 % intervals, paired. Probe fitted on {n['probe']} train rows; own offsets (full size, change in "
            f"points) on {n['val']} labelled validation rows. In domain: held-out scenes of its training named right."
        )
        parts.append(f"{markdown(header, rows).strip()}\n\n{caption}")
    return "\n\n".join(parts)


def gates_markdown(found: Mapping[str, Any], worlds: Mapping[str, Any]) -> str:
    """Both tables of every measured world."""
    tables = [models_table(name, found, worlds) for name in worlds if name in found]
    return "\n\n".join([gates_table(found, worlds), *tables])


def _named(texts: Sequence[str]) -> str:
    more = len(texts) - SHORT_ONES
    return ", ".join(texts[:SHORT_ONES]) + (f" and {more} more" if more > 0 else "")


def _number(value: float | None, digits: int = 0) -> str:
    # A two-decimal number that ends in 5 lies a hair below itself, and would be rounded down.
    return "–" if value is None else f"{value + 1e-9:.{digits}f}".replace("-", "−")


def _signed(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:+.{digits}f}".replace("-", "−")


def _change(interval: Sequence[float]) -> str:
    value, low, high = map(_signed, interval)
    return f"{value} [{low}, {high}]"
