"""The tables of a cost comparison as Markdown, measured or planned. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.cli import markdown
from experiments.costing.ways import WAYS
from experiments.report.numbers import score, with_interval


def cost_markdown(found: Mapping[str, Any]) -> str:
    """What a finished comparison found (`summarise`): accuracy by model, then cost and accuracy for N models."""
    return "\n".join([accuracy_table(found), costs_table(found, measured=True), n_table(found)])


def plan_markdown(found: Mapping[str, Any]) -> str:
    """A plan (`plan.plan_entries`): one line for each of its models, then N models together."""
    ways = _ways(found["models"])
    tuned = [way for way in ways if way != "prompt"]
    of = {(entry["mllm"], entry["way"]): entry for entry in found["models"]}
    rows = [
        [name, *(f"{amount(of[name, w]['parameters'])}, {size(of[name, w]['peak_bytes'])}" for w in tuned)]
        for name in found["asked"]["mllm"]
    ]
    one = markdown(["one model", *(f"{WAYS[way]}: numbers learned, peak memory" for way in tuned)], rows)
    return "\n".join([one, costs_table(found, measured=False)])


def accuracy_table(found: Mapping[str, Any]) -> str:
    """Model by model, the plain score and what each way changes."""
    ways = _ways(found["models"])
    of = {(entry["mllm"], entry["way"]): entry for entry in found["models"]}
    rows = []
    for name in dict.fromkeys(entry["mllm"] for entry in found["models"]):
        first = of[name, ways[0]]
        label = f"{name} (the prompt's source)" if first["role"] == "source" else name
        rows.append([label, score(first["plain"]), *(with_interval(of[name, way]["gain"]) for way in ways)])
    if found["others"]:
        plain = [e["plain"] for e in found["models"] if e["way"] == ways[0] and e["role"] != "source"]
        gains = [with_interval(entry["gain"]) for entry in found["others"]]
        rows.append([f"mean of the {len(plain)} others", score(sum(plain) / len(plain)), *gains])
    return markdown(["model", f"plain {found['metric']}, %", *(WAYS[way] for way in ways)], rows)


def costs_table(found: Mapping[str, Any], *, measured: bool) -> str:
    """For N models together: numbers learned, bytes stored, time and peak memory, the ways side by side."""
    entries = found["by_n"]
    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "numbers learned": lambda e: amount(e["parameters"]),
        "stored": lambda e: size(e["bytes"]),
    }
    if measured:
        columns |= {"processor seconds": lambda e: f"{e['process_seconds']:.0f}"}
        columns |= {"with the search": lambda e: f"{e['search_process_seconds'] or e['process_seconds']:.0f}"}
    else:
        columns |= {"updates": lambda e: f"{e['updates']:,}"}
    columns |= {"peak memory": lambda e: size(e["peak_bytes"])}
    ways = _ways(entries)
    rows = [
        [str(n), *(" / ".join(cell(e) for e in entries if e["models"] == n) for cell in columns.values())]
        for n in dict.fromkeys(entry["models"] for entry in entries)
    ]
    return markdown([f"N: {' / '.join(WAYS[way] for way in ways)}", *columns], rows)


def n_table(found: Mapping[str, Any]) -> str:
    """For N models together, the mean change over the plain whole picture."""
    ways, entries = _ways(found["by_n"]), found["by_n"]
    rows = [
        [str(n), *(with_interval(entry["gain"]) for entry in entries if entry["models"] == n)]
        for n in dict.fromkeys(entry["models"] for entry in entries)
    ]
    return markdown(["N: mean change", *(WAYS[way] for way in ways)], rows)


def _ways(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(entry["way"] for entry in entries))


def amount(n: float) -> str:
    """22644 -> `22.6 k`."""
    for least, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if n >= least:
            return f"{n / least:.3g}{unit}" if n < 1000 * least else f"{n / least:.0f}{unit}"
    return f"{n:.0f}"


def size(n: float) -> str:
    """Bytes in powers of 1,000: 34567 -> `34.6 kB`."""
    text = amount(n)
    return f"{text}B" if " " in text else f"{text} B"
