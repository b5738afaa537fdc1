"""What the numbers of a sweep say, in plain sentences: the good and the bad, from statistics.json alone."""

from __future__ import annotations

from collections.abc import Mapping

from experiments.report.numbers import (
    change,
    is_embedded,
    is_own,
    main_method,
    method_order,
    p_text,
    short,
    with_interval,
)
from lightning_modules.vocabulary import CONTROL_NAMES

EMBEDDED = (
    "The models named embedded_*, web_* and lite* are tiny ones of at most a few million parameters that this project "
    "trained itself on rendered scenes (lite*: connectors and LLMs on towers of ImageNet). They show whether the "
    "method and the code work; their numbers say nothing about the published models."
)


def about(statistics: Mapping) -> str:
    """Size of the matrix in one sentence."""
    cells = statistics["cells"]
    if not cells:
        return "no cell has finished yet."
    parts = {
        key: sorted({cell[key] for cell in cells}, key=str) for key in ("source", "target", "data", "method", "seed")
    }
    done = len({tuple(cell[key] for key in ("source", "data", "method", "seed")) for cell in cells})
    missing = len(statistics["missing"])
    text = (
        f"{_count(parts['source'], 'source')} × {_count(parts['target'], 'target')}, "
        f"{', '.join(parts['data'])}, methods {', '.join(method_order(parts['method']))}, "
        f"{_count(parts['seed'], 'seed')}: {done} of {done + missing} prompts learned and scored."
    )
    rows = {cell["data"]: cell["n"] for cell in cells}
    for data, images in statistics.get("images", {}).items():
        if images < rows.get(data, 0):
            text += f" {data} asks {rows[data]} questions about {images} pictures: its intervals are over pictures."
    return f"{text} {EMBEDDED}" if is_embedded(statistics) else text


def _count(values: list, noun: str) -> str:
    return f"{len(values)} {noun}{'' if len(values) == 1 else 's'}"


def verdicts(statistics: Mapping) -> list[str]:
    """Gain of the main method, negative transfer, and its differences to the baselines: one sentence each."""
    if not statistics["cells"]:
        return []
    return [
        *_gains(statistics),
        *_shrink(statistics),
        *negative_transfer(statistics),
        *_worst(statistics),
        *_compared(statistics),
    ]


def _gains(statistics: Mapping) -> list[str]:
    method = main_method(statistics)
    name = method.upper() if method != "none" else "No prompt (method none)"
    sentences = []
    for over, where in (("targets", "on targets it was not learned on"), ("source", "on its own source")):
        own = {
            e["control"]: e for e in statistics["methods"] if (e["method"], e["data"], e["over"]) == (method, "", over)
        }
        parts = [_part(control, own[control]) for control in statistics["controls"] if control in own]
        if parts:
            sentences.append(f"{name} {where}, average change in points: {'; '.join(parts)}.")
    return sentences


def _shrink(statistics: Mapping) -> list[str]:
    """What the black border does alone: losses against the full image contain it."""
    found = [e for e in statistics["methods"] if (e["method"], e["data"], e["control"]) == ("none", "", "full")]
    found = [e for e in found if e["over"] == "targets"]
    if not found or main_method(statistics) == "none":
        return []
    return [
        f"Shrinking the picture into a black border, nothing learned: {with_interval(found[0])} points against the "
        "full image. Every prompt's change against the full image contains this."
    ]


def _part(control: str, entry: Mapping) -> str:
    return (
        f"{change(entry['value'])} against the {CONTROL_NAMES[control]} "
        f"[{change(entry['low'])}, {change(entry['high'])}], {effect(entry)}"
    )


def effect(entry: Mapping) -> str:
    """better, worse, or neither shown: by whether the interval leaves out 0."""
    if entry["low"] > 0:
        return "better"
    if entry["high"] < 0:
        return "worse"
    return "unchanged" if entry["low"] == entry["high"] == 0 else "no change shown"


def negative_transfer(statistics: Mapping) -> list[str]:
    """How many target pairs of each learned method a prompt made significantly worse, for every control."""
    pairs = [p for p in statistics["pairs"] if not is_own(p) and p["method"] != "none"]
    if not pairs:
        return ["Negative transfer: no pair of a source and another target has been scored."]
    sentences = []
    for method in method_order(p["method"] for p in pairs):
        own = [p for p in pairs if p["method"] == method]
        worse = {c: sum(p["alarm"].get(c, False) for p in own) for c in statistics["controls"]}
        parts = [f"{count} below the {CONTROL_NAMES[control]}" for control, count in worse.items() if count]
        said = f"{', '.join(parts)} (significant after Holm's correction)" if parts else "no alarm against any control"
        silent = _smallest_alarms(own, [control for control, count in worse.items() if not count])
        sentences.append(
            f"Negative transfer of {method.upper()}, {len(own)} pairs of a source and another target: {said}."
            + (f" Where there is no alarm, a pair had to lose this much to raise one: {silent}." if silent else "")
        )
    return sentences


def _smallest_alarms(pairs: list[Mapping], controls: list[str]) -> str:
    """Control by control the smallest loss that would have raised an alarm: of the most and the least certain pair."""
    parts = []
    for control in controls:
        gains = [p["gains"][control] for p in pairs if "smallest_alarm" in p["gains"].get(control, {})]
        losses = [gain["smallest_alarm"] for gain in gains if gain["smallest_alarm"] is not None]
        if gains and not losses:
            parts.append(f"no loss would have been enough against the {CONTROL_NAMES[control]}")
        elif gains:
            low, high = (f"{100 * bound(losses):.1f}" for bound in (min, max))
            most = f"more than {high}" if len(losses) < len(gains) else high
            spread = low if low == most else f"{low} to {most}"
            parts.append(f"{spread} points against the {CONTROL_NAMES[control]}")
    return ", ".join(parts)


def _worst(statistics: Mapping) -> list[str]:
    """The largest loss against the input without a prompt, with its pair."""
    pairs = [p for p in statistics["pairs"] if not is_own(p) and "black" in p["gains"]]
    learned = [p for p in pairs if p["method"] != "none" and p["gains"]["black"]["value"] < 0]
    if not learned:
        return []
    worst = min(learned, key=lambda p: (p["gains"]["black"]["value"], p["source"], p["target"]))
    gain = worst["gains"]["black"]
    return [
        f"The worst pair against the black border: {worst['method'].upper()} learned on {short(worst['source'])} "
        f"changes {short(worst['target'])} on {worst['data']} by {change(gain['value'])} points "
        f"[{change(gain['low'])}, {change(gain['high'])}] (n {worst['n']}, {len(worst['seeds'])} seeds)."
    ]


def _compared(statistics: Mapping) -> list[str]:
    sentences, untested = [], statistics.get("primary")
    for entry in sorted(statistics["differences"], key=lambda entry: not entry.get("primary")):
        if entry["data"] or entry["over"] != "targets":
            continue
        one, other = (name.upper() for name in entry["methods"])
        if entry.get("primary"):
            untested = None
            adjusted = f"p {p_text(entry['p'])} (the primary contrast, named beforehand and tested first)"
        else:
            adjusted = f"p {p_text(entry['p'])}, {p_text(entry['p_holm'])} adjusted"
        sentences.append(
            f"{one} − {other} on targets, paired: {change(entry['value'])} points "
            f"[{change(entry['low'])}, {change(entry['high'])}]{_other_sources(entry)}, {adjusted}; "
            f"{_compared_words(one, entry, statistics['alpha'])}."
        )
    if untested:
        sentences.append(f"The primary contrast, {' − '.join(untested['methods']).upper()}, has no results to test.")
    return sentences


def _other_sources(entry: Mapping) -> str:
    if entry.get("sources_low") is None:
        return ""
    return f" (of other sources like these [{change(entry['sources_low'])}, {change(entry['sources_high'])}])"


def _compared_words(one: str, entry: Mapping, alpha: float) -> str:
    says = effect(entry)
    if says not in ("better", "worse"):
        return "no difference shown"
    holds = entry["p_holm"] is not None and entry["p_holm"] <= alpha
    return f"{one} transfers {says}" + ("" if holds else " by the interval, which does not survive the correction")
