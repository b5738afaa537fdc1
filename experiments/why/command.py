"""What `python -m experiments.why` does: measures every model of a sweep once, then writes what follows from it."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from experiments.report.charts import standalone
from experiments.report.load import CellKey, first_seeds, sweep_name
from experiments.report.sections.why import FORMAT, WHY, why_charts, why_markdown
from experiments.run.asking import find_device
from experiments.run.headroom import at_most, correlation
from experiments.run.offsets import Offsets, fit_offsets, one_list
from experiments.run.preflight import report_left_out
from experiments.statistics.sharing import STRONGEST_FIRST, shared
from experiments.why.clip_shift import measure_clip
from experiments.why.frames import spectrum
from experiments.why.measure import Measured, Towers, measure_model
from experiments.why.numbers import Bought, linear_cka, what_it_buys
from experiments.why.predictor import Entry, choose_predictor
from experiments.why.swept import Swept, is_source, read_sweep
from lightning_modules.atomic import replace_file
from lightning_modules.backoff import free_memory
from lightning_modules.metrics import point

MARKDOWN = "why.md"


def explain_sweep(options: Any, out: Path) -> dict[str, Any]:
    """Write why.json, why.md and why_*.svg into `out`; returns what why.json holds.

    options: as `experiments.why.__main__.Options`. Raises as `read_sweep`.
    """
    started, worked = time.monotonic(), time.process_time()
    device, sets = find_device(options.device), []
    for swept in read_sweep(options):
        sets.append(explain_data(swept, options, device))
    content = {
        "format": FORMAT,
        "sweep": sweep_name(options.sweep),
        **{"split": "val", "seeds": list(options.seeds), "n_occlude": options.n_occlude},
        "seconds": round(time.monotonic() - started),
        "processor_seconds": round(time.process_time() - worked),
        "sets": compact(sets),
    }
    out.mkdir(parents=True, exist_ok=True)
    replace_file(out / WHY, json.dumps(content, separators=(",", ":"), allow_nan=False).encode() + b"\n")
    replace_file(out / MARKDOWN, why_markdown(content).encode())
    for name, panel in why_charts(content):
        replace_file(out / f"why_{name}.svg", standalone(panel.svg).encode())
    print(why_markdown(content))
    print(f"Took {content['seconds']} s ({content['processor_seconds']} of the processor). Written: {out / WHY}")
    return content


def explain_data(swept: Swept, options: Any, device: str) -> dict[str, Any]:
    """One data set of the sweep."""
    data = swept.parts.datamodule
    data.setup()
    n = at_most(data, "val", options.n)
    report_left_out(data, ["val"], None)
    for prompt in swept.prompts.values():
        prompt.to(device)
    clip = measure_clip(swept, n, device)
    ids = {row.id for row in data.subset("val", n)[: options.n_occlude]}
    towers, measured = Towers(), {}
    for spec in swept.specs:
        begun, mllm = time.monotonic(), spec.load(device)
        occlude = occluded_on(swept, spec.name, options.occlude_targets) if options.n_occlude > 0 else []
        measured[spec.name] = measure_model(mllm, swept, towers, n, occlude, ids)
        del mllm
        free_memory()
        print(f"{swept.data}: {spec.name} measured, {time.monotonic() - begun:.0f} s.", flush=True)
    towers.features.clear()
    return describe(swept, measured, clip, n, options.half)


def occluded_on(swept: Swept, name: str, targets: int) -> list[CellKey]:
    """Cells whose frame is scored with parts blacked out on this model: of every (source, method) the lowest seed."""
    return [cell for cell in first_seeds(swept.prompts) if name in occluded_models(swept, cell, targets)]


def occluded_models(swept: Swept, cell: CellKey, targets: int) -> list[str]:
    """A prompt's sources, and so many others: in turns those that share most and least with it, by what is shared."""
    names = [spec.name for spec in swept.specs]
    own = [name for name in names if is_source(cell, name)]
    others = sorted(set(names) - set(own), key=lambda name: (STRONGEST_FIRST.index(shared(cell.source, name)), name))
    in_turns = [others[i // 2] if i % 2 == 0 else others[-1 - i // 2] for i in range(len(others))]
    return own + in_turns[:targets]


# ---- numbers ---------------------------------------------------------------------------------------------------------
def describe(
    swept: Swept, measured: Mapping[str, Measured], clip: Mapping[CellKey, dict], n: int | None, half: int
) -> dict[str, Any]:
    """What why.json says of one data set; its fields are said in docs/why.md."""
    metric = "accuracy" if swept.parts.metric == "auroc" else swept.parts.metric
    candidates = one_list(swept.parts.datamodule, {"val": n})
    offsets = {name: fit_offsets(one.full) for name, one in measured.items()} if candidates else {}
    alike = alike_models(measured, offsets)
    pairs = pair_numbers(swept, measured, offsets, metric)
    add_candidates(pairs, alike, swept, clip)
    return {
        "data": swept.data,
        "metric": metric,
        "n": len(next(iter(measured.values())).full.ids),
        "candidates": candidates or [],
        "models": [
            {
                "name": name,
                "full": point(metric, one.full),
                "border": None if one.border is None else one.border.tolist(),
                "offsets": offsets[name].values.tolist() if name in offsets else [],
            }
            for name, one in measured.items()
        ],
        "alike": [{"models": [a, b], **values} for (a, b), values in alike.items()],
        "prompts": [
            {"source": cell.source, "method": cell.method, "seed": cell.seed, **spectrum(prompt), **clip.get(cell, {})}
            for cell, prompt in swept.prompts.items()
        ],
        "pairs": pairs,
        "occlusion": occlusion_numbers(swept, measured),
        "predictor": choose_predictor(predictor_entries(pairs), half),
    }


def alike_models(measured: Mapping[str, Measured], offsets: Mapping[str, Offsets]) -> dict[tuple[str, str], dict]:
    """Two models -> CKA of their clean tokens, correlation of their offsets (absent where there is none)."""
    found: dict[tuple[str, str], dict] = {}
    for a, b in combinations(measured, 2):
        values = {"cka": linear_cka(measured[a].tokens, measured[b].tokens)}
        r = correlation(offsets[a].values, offsets[b].values) if offsets else None
        found[a, b] = values | ({"offsets": r.value} if r else {})
    return found


def pair_numbers(
    swept: Swept, measured: Mapping[str, Measured], offsets: Mapping[str, Offsets], metric: str
) -> list[dict[str, Any]]:
    """A prompt (source, method) on a model, mean over its seeds. gain: of statistics.json (test, all its seeds)."""
    found = []
    for pair in swept.pairs:
        one = measured.get(pair["target"])
        cells = [cell for cell in swept.prompts if (cell.source, cell.method) == (pair["source"], pair["method"])]
        if one is None or not cells:
            continue
        drift = np.mean([one.drift[cell] for cell in cells], 0)
        own = is_source(cells[0], pair["target"])
        entry = {"source": pair["source"], "target": pair["target"], "method": pair["method"], "own": own}
        entry |= {"shared": pair["shared"], "seeds": len(cells)}
        entry |= {"gain": pair["gains"]["full"]["value"]} if "full" in pair["gains"] else {}
        entry |= {"drift_full": drift[0].tolist(), "drift": drift[1].tolist()}
        if offsets:
            bought = [what_it_buys(metric, one.prompted[c], one.full, offsets[pair["target"]]) for c in cells]
            entry |= {field: mean_known([getattr(b, field) for b in bought]) for field in Bought._fields}
        found.append(entry)
    return found


def mean_known(values: Collection[float | None]) -> float | None:
    """Mean of those that are known; None where none is."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def add_candidates(pairs: list[dict], alike: Mapping[tuple[str, str], dict], swept: Swept, clip: Mapping) -> None:
    """Adds the predictor's candidates to every pair of one source and another model. In place."""
    both = {key: values for (a, b), values in alike.items() for key in ((a, b), (b, a))}
    drift = {(pair["source"], pair["method"], pair["target"]): pair["drift"][-1] for pair in pairs}
    for pair in pairs:
        source, method, target = pair["source"], pair["method"], pair["target"]
        if pair["own"] or (source, target) not in both:  # several sources at once are nobody's twin
            continue
        own = drift.get((source, method, source))
        cells = [cell for cell in swept.prompts if (cell.source, cell.method) == (source, method)]
        moved = mean_known([clip[cell]["moved"] for cell in cells if cell in clip])
        values = both[source, target] | {"drift": pair["drift"][-1]}
        values |= {"drift_ratio": pair["drift"][-1] / own} if own else {}
        values |= {"clip": moved} if moved is not None else {}
        # The closest has the highest number.
        pair["candidates"] = values | {"shared": -STRONGEST_FIRST.index(shared(source, target))}


def predictor_entries(pairs: list[dict]) -> list[Entry]:
    return [
        Entry(pair["source"], pair["target"], pair["method"], pair["gain"], pair["candidates"])
        for pair in pairs
        if "candidates" in pair and "gain" in pair
    ]


def occlusion_numbers(swept: Swept, measured: Mapping[str, Measured]) -> list[dict[str, Any]]:
    """A frame on a model: segment -> [change in nats, change of accuracy]."""
    found: dict[tuple[CellKey, str], dict] = {}
    for name, one in measured.items():
        for (cell, segment), change in one.occlusion.items():
            found.setdefault((cell, name), {})[segment] = list(change)
    return [
        {"source": cell.source, "method": cell.method, "seed": cell.seed, "model": name}
        | {"own": is_source(cell, name), "segments": segments}
        for (cell, name), segments in found.items()
    ]


def compact(value: Any) -> Any:
    """Numbers with four significant digits, NaN as null."""
    if isinstance(value, float):
        return float(f"{value:.4g}") if np.isfinite(value) else None
    if isinstance(value, dict):
        return {key: compact(part) for key, part in value.items()}
    return [compact(part) for part in value] if isinstance(value, list) else value
