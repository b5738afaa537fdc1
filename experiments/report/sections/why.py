"""Why prompts help or harm, where the folder holds why.json (`python -m experiments.why`): tables and charts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.cli import markdown
from experiments.report import charts
from experiments.report.charts import Panel
from experiments.report.numbers import TextTable, change, method_order
from experiments.statistics.sharing import STRONGEST_FIRST
from lightning_modules.vocabulary import METHODS

WHY, FORMAT = "why.json", 1
OWN, OTHERS = "it is the source", "all others"
CANDIDATES = {
    "cka": "CKA of both models' visual tokens",
    "offsets": "correlation of both models' offsets",
    "drift": "drift of the target's visual tokens",
    "drift_ratio": "drift of the target's over the source's",
    "clip": "shift of CLIP's image feature",
    "shared": "how much both share",
}
"""What a predictor of transfer may be, with its name for people."""
DEPTHS = ("first block", "¼", "½", "¾", "last block", "visual tokens")


def read_why(folder: Path) -> dict[str, Any] | None:
    """What why.json of a folder holds; None without the file, or where it is not of this format."""
    try:
        content = json.loads((folder / WHY).read_text())
        return content if content["format"] == FORMAT else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def why_section(folder: Path) -> dict[str, Any] | None:
    """What the page shows of why.json; None where there is nothing to show."""
    content = read_why(folder)
    if content is None:
        return None
    try:
        sets = [(f"w{i}", one) for i, one in enumerate(content["sets"])]
        parts = [
            {"data": one["data"], "says": sentences(one), "tables": why_tables(one), "charts": _charts(one, name)}
            for name, one in sets
        ]
        return {"learned": _places(content), "parts": parts}
    except (KeyError, TypeError, IndexError, ValueError):
        return None


def why_markdown(content: Mapping) -> str:
    """why.md: what was measured, and every table."""
    what = f"Validation pictures only; {seeds_text(content)}. What each number means: docs/why.md."
    parts = [f"# Why: {content['sweep']}", what]
    for one in content["sets"]:
        parts += [f"## {one['data']}", "\n".join(f"* {text}" for text in sentences(one))]
        parts += [as_markdown(table) for table in why_tables(one)]
    return "\n\n".join(parts) + "\n"


def seeds_text(content: Mapping) -> str:
    """Whose prompts were measured."""
    return f"prompts of seed{'s' * (len(content['seeds']) > 1)} {', '.join(map(str, content['seeds']))}"


def as_markdown(table: TextTable) -> str:
    return f"{markdown(table.header, table.rows)}\n{table.caption}" if table.rows else f"{table.caption} None."


# ---- tables ----------------------------------------------------------------------------------------------------------
def why_tables(one: Mapping, *, by_share: bool = True) -> list[TextTable]:
    """All tables of one data set. by_share: a row for each thing that source and target share, else two a method."""
    tables = [drift_table(one, by_share=by_share), offsets_table(one, by_share=by_share), frames_table(one)]
    return [*tables, occlusion_table(one), predictor_table(one)]


def _groups(one: Mapping, by_share: bool) -> Iterator[tuple[str, str, list[Mapping]]]:
    """(method, what is shared, its pairs), the source first, then the closest."""
    for method in method_order(pair["method"] for pair in one["pairs"]):
        of = [pair for pair in one["pairs"] if pair["method"] == method]
        names = [pair["shared"] if by_share else OTHERS for pair in of]
        names = [OWN if pair["own"] else name for pair, name in zip(of, names, strict=True)]
        for name in [OWN, *STRONGEST_FIRST, OTHERS]:
            some = [pair for pair, own in zip(of, names, strict=True) if own == name]
            if some:
                yield method, name, some


def drift_table(one: Mapping, *, by_share: bool = True) -> TextTable:
    """How far features move, block by block."""
    rows = [
        [f"{method}, {name}", str(len(some)), *_columns(some), _mean(p["drift_full"][-1] for p in some)]
        for method, name, some in _groups(one, by_share)
    ]
    borders = [model for model in one["models"] if model["border"]]
    if borders:
        moved = [_mean(model["border"][i] for model in borders) for i in range(len(DEPTHS))]
        rows.append(["nothing learned: black border against the full picture", str(len(borders)), *moved, moved[-1]])
    caption = (
        f"{one['data']}: relative distance of features with the frame from those of the same picture without it "
        "(in the black border; for a frame that is added, the picture itself), at blocks of the tower and at the "
        "visual tokens; last column: of the visual tokens from those of the full picture. Means over "
        f"{one['n']} validation pictures."
    )
    return TextTable(caption, ["frame, on a model", "pairs", *DEPTHS, "tokens, from the full picture"], rows)


def _columns(some: Sequence[Mapping]) -> list[str]:
    return [_mean(pair["drift"][i] for pair in some) for i in range(len(DEPTHS))]


def offsets_table(one: Mapping, *, by_share: bool = True) -> TextTable:
    """What of a gain is one shift of all answers."""
    rows = [
        [
            f"{method}, {name}",
            str(len(some)),
            _signed(p["correlation"] for p in some),
            *(_points(p[key] for p in some) for key in ("prompted", "shifted", "rest")),
        ]
        for method, name, some in _groups(one, by_share)
        if "prompted" in some[0]
    ]
    caption = (
        f"{one['data']}: offsets bought are the mean change of each candidate's score under the frame (no label read); "
        "there to buy are those fitted on the model's own validation labels; r over candidates, mean over pairs. Gains "
        f"in points over the full picture on the same {one['n']} validation pictures, without intervals."
    )
    header = ["frame, on a model", "pairs", "r (bought, to buy)", "prompted", "clean + bought", "prompted − bought"]
    return TextTable(caption, header, rows)


BANDS = ("flat", "low", "mid", "high")


def frames_table(one: Mapping) -> TextTable:
    """Frames by themselves: their waves, and CLIP."""
    rows = []
    for method in method_order(prompt["method"] for prompt in one["prompts"]):
        of = [prompt for prompt in one["prompts"] if prompt["method"] == method]
        shares = [_percent(p[band] for p in of) for band in BANDS]
        clips = [_mean(p[key] for p in of if key in p) for key in ("moved", "caption_clean", "caption")]
        rows.append([method, str(len(of)), _mean(p["rms"] for p in of), *shares, *clips])
    waves = [f"{band} %" for band in BANDS]
    header = ["method", "frames", "RMS", *waves, "CLIP moved", "caption, clean", "caption, prompted"]
    caption = (
        f"{one['data']}: root mean square of a frame's values (1: white) and what its power is made of: a flat colour, "
        "waves longer than 8 pixels, of 4 to 8, shorter. CLIP: 1 − cosine of the prompted picture's feature and that "
        "without the frame, and the cosine of either with the right caption."
    )
    return TextTable(caption, header, rows)


def occlusion_table(one: Mapping) -> TextTable:
    """Which parts of a frame matter."""
    found = one["occlusion"]
    names = list(dict.fromkeys(name for entry in found for name in entry["segments"]))
    rows = []
    for method in method_order(entry["method"] for entry in found):
        for own, word in ((True, "on the source"), (False, "on others")):
            of = [entry for entry in found if (entry["method"], entry["own"]) == (method, own)]
            if of:
                cells = [_signed(e["segments"][name][0] for e in of if name in e["segments"]) for name in names]
                rows.append([f"{method}, {word}", str(len(of)), *cells])
    caption = (
        f"{one['data']}: change of the right answer's log-probability among the candidates, in nats, when a part of "
        "the frame is black (below 0: the part helped). Lowest seed of each source."
    )
    return TextTable(caption, ["frame", "frames × models", *names], rows)


def predictor_table(one: Mapping) -> TextTable:
    """Every candidate's rank correlation with the gain on one half of the sources, the best one's on the other."""
    found = one["predictor"]
    if "reason" in found:
        return TextTable(f"{one['data']}: no predictor, as {found['reason']}.", ["candidate", "ρ"], [])
    chosen, tested, best = found["chosen_on"], found["tested_on"], found["best"]
    told = [_tested(tested), _sign(tested["within_targets"]), _sign(tested["within_prompts"])]
    rows = [
        [CANDIDATES[name], str(chosen["pairs"][name]), _sign(rho), *(told if name == best else ["–"] * 3)]
        for name, rho in sorted(chosen["rho"].items(), key=lambda item: -abs(item[1]))
    ]
    caption = (
        f"{one['data']}: Spearman's ρ with the gain over the full picture on test (mean over seeds), over a prompt of "
        f"one source and method on another model. Chosen by the largest |ρ| on {len(chosen['sources'])} sources "
        f"({', '.join(chosen['sources'])}), tested once on the other {len(tested['sources'])} "
        f"({', '.join(tested['sources'])}; {tested['pairs']} pairs), halves drawn by seed {found['seed']}; in brackets "
        "95 % of bootstrap draws of whole sources, of which there are few. Targets are the same in both halves; "
        "within targets (prompts): ρ of the differences from the means of each target (prompt)."
    )
    where = ["ρ where chosen", "ρ where tested", "within targets", "within prompts"]
    return TextTable(caption, ["candidate", "pairs", *where], rows)


def sentences(one: Mapping) -> list[str]:
    """What the predictor came to, in words."""
    found = one["predictor"]
    if "reason" in found:
        return [f"No predictor of transfer was chosen: {found['reason']}."]
    chosen, tested, best = found["chosen_on"], found["tested_on"], found["best"]
    rho, low, high = chosen["rho"][best], tested["low"], tested["high"]
    holds = None not in (low, high) and (low > 0 if rho > 0 else high < 0)
    says = "holds on sources it was not chosen on" if holds else "is not shown on sources it was not chosen on"
    name = f"{CANDIDATES[best]} (ρ {_sign(rho)} where chosen)"
    within = f"; within targets {_sign(tested['within_targets'])}, within prompts {_sign(tested['within_prompts'])}"
    return [f"The best single predictor of transfer, {name}, {says}: ρ {_tested(tested)}{within}."]


# ---- charts ----------------------------------------------------------------------------------------------------------
def why_charts(content: Mapping) -> Iterator[tuple[str, Panel]]:
    """(name, chart) of every data set, for files."""
    for one in content["sets"]:
        for panel_name, panel in zip(("drift", "offsets", "predictor"), _charts(one, "w"), strict=False):
            yield f"{one['data']}_{panel_name}", panel


def _places(content: Mapping) -> list[charts.Key]:
    return _keys(pair["method"] for one in content["sets"] for pair in one["pairs"])


def _keys(names: Iterable[str]) -> list[charts.Key]:
    """Methods in the places they have on the whole page."""
    others = iter(range(4, 8))
    fixed = {name: i for i, name in enumerate(METHODS)}
    return [(fixed[name] if name in fixed else next(others, 7), name) for name in method_order(names)]


def _charts(one: Mapping, name: str) -> list[Panel]:
    return [*_drift_chart(one, name), *_offsets_chart(one, name), *_predictor_chart(one, name)]


def _drift_chart(one: Mapping, name: str) -> Iterator[Panel]:
    others = [pair for pair in one["pairs"] if not pair["own"]]
    curves = []
    for key in _keys(pair["method"] for pair in others):
        of = [pair["drift"] for pair in others if pair["method"] == key[1]]
        values = [_value(drift[i] for drift in of) for i in range(len(DEPTHS))]
        curves.append((key, [value for value in values if value is not None]))
    curves = [(key, values) for key, values in curves if len(values) == len(DEPTHS)]
    if curves:
        label = f"{one['data']}: drift by depth on models that are not the source"
        yield Panel(charts.depth_curves(f"{name}-drift", label, DEPTHS, curves), label)


def _offsets_chart(one: Mapping, name: str) -> Iterator[Panel]:
    groups = _marks(one, lambda p: 100 * p["shifted"] if "shifted" in p else None, "prompted", lambda p: p["own"])
    if groups:
        label = f"{one['data']}: gain of the frame against that of its shift alone, validation; hollow: the source"
        x, y = "gain of clean + bought offsets, points", "gain of the frame, points"
        yield Panel(charts.scatter(f"{name}-offsets", label, x, groups, y), label)


def _predictor_chart(one: Mapping, name: str) -> Iterator[Panel]:
    found = one["predictor"]
    if "best" in found:
        best, first = found["best"], set(found["chosen_on"]["sources"])
        groups = _marks(one, lambda p: p.get("candidates", {}).get(best), "gain", lambda p: p["source"] in first)
        label = f"{one['data']}: the predictor against the gain on test; hollow: the half it was chosen on"
        y = "gain over the full picture, points"
        yield Panel(charts.scatter(f"{name}-predictor", label, CANDIDATES[best], groups, y), label)


def _marks(
    one: Mapping, x: Callable[[Mapping], float | None], y: str, hollow: Callable[[Mapping], bool]
) -> list[tuple[charts.Key, list]]:
    """By method a mark for each pair that has both numbers."""
    found: dict[charts.Key, list] = {}
    keys = {key[1]: key for key in _keys(pair["method"] for pair in one["pairs"])}
    for pair in one["pairs"]:
        place, value = x(pair), pair.get(y)
        if place is not None and value is not None:
            title = f"{pair['method']}, {pair['source']} → {pair['target']}: {place:.3g}, {change(value)}"
            found.setdefault(keys[pair["method"]], []).append((place, value, title, hollow(pair)))
    return list(found.items())


# ---- numbers ---------------------------------------------------------------------------------------------------------
def _value(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _as(write: Callable[[float], str]) -> Callable[[Iterable[float | None]], str]:
    """Writes the mean of what is known."""

    def written(values: Iterable[float | None]) -> str:
        value = _value(values)
        return "–" if value is None else write(value)

    return written


def _sign(value: float | None) -> str:
    text = "–" if value is None else f"{value:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text.replace("-", "−")


_mean, _signed = _as(lambda value: f"{value:.3f}"), _as(_sign)
_points, _percent = _as(change), _as(lambda value: f"{100 * value:.0f}")


def _tested(found: Mapping) -> str:
    bounds = "" if found["low"] is None else f" [{_sign(found['low'])}, {_sign(found['high'])}]"
    return f"{_sign(found['rho'])}{bounds}"
