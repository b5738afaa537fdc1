"""What the rows of headroom.jsonl say: tables of text, and a verdict in plain words. No torch: reports read it too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.cli import markdown
from lightning_modules.records import read_rows
from lightning_modules.vocabulary import CONTROL_NAMES

HEADROOM = "headroom.jsonl"
ALL = "all"  # the mllm of averages over models
BORDER = "black"  # the border a frame starts from
METRICS = ("top1", "accuracy")
OFFSETS, OFFSET, CORRELATION = "offsets", "offset", "offsets_correlation"
GAIN, GAIN_OF_OTHERS, OVER_FULL = "gain", "gain_of_others", "over_full"
PROBE_SCORE, PROBE_OVER_FULL = "probe", "probe_over_full"


class Table(NamedTuple):
    """caption: what the numbers are. rows: text, the first column names the row."""

    caption: str
    header: list[str]
    rows: list[list[str]]


def with_offsets_of(control: str, name: str) -> str:
    """The `input` of a row: a control, and whose offsets were added to its scores."""
    return f"{control}+offsets:{name}" if name else control


def read_headroom(folder: Path) -> dict[str, list[dict]]:
    """Data set -> its rows of DIR/headroom.jsonl; empty where there is no such file."""
    rows = [row for row in read_rows(folder / HEADROOM) if row.get("kind") == "headroom"]
    return {data: [r for r in rows if r["data"] == data] for data in dict.fromkeys(row["data"] for row in rows)}


class Found:
    """The rows of one data set by (mllm, input, metric)."""

    def __init__(self, rows: Sequence[Mapping]) -> None:
        self.rows = {(r["mllm"], r["input"], r["metric"]): r for r in rows if not r["group"]}
        self.models = [name for name in dict.fromkeys(r["mllm"] for r in rows) if name != ALL]
        self.metric = next(r["metric"] for r in rows if r["metric"] in METRICS)
        self.controls = [c for c in CONTROL_NAMES if (self.models[0], c, self.metric) in self.rows]
        self.n = self.rows[self.models[0], "full", self.metric]["n"]
        self.n_fit = next(r["n"] for r in rows if r["metric"] == OFFSET)
        self.candidates = [r["group"] for r in rows if r["metric"] == OFFSET and r["mllm"] == self.models[0]]
        self.data = rows[0]["data"]
        self.over_units = any("units" in r["interval"] for r in rows)

    def __call__(self, mllm: str, metric: str, control: str = "full", of: str = "") -> Mapping[str, Any] | None:
        return self.rows.get((mllm, with_offsets_of(control, of), metric))


# ---- numbers ---------------------------------------------------------------------------------------------------------
def score(row: Mapping | None) -> str:
    return "–" if row is None else f"{100 * row['value']:.1f}"


def change(row: Mapping | None) -> str:
    """A difference in points with its interval; with a true minus sign."""
    if row is None:
        return "–"
    value, low, high = (f"{100 * row[key]:+.1f}".replace("-", "−") for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def sign(row: Mapping) -> int:
    """1 or -1 where the interval leaves out 0, else 0: nothing shown."""
    return 1 if row["low"] > 0 else -1 if row["high"] < 0 else 0


# ---- tables ----------------------------------------------------------------------------------------------------------
def headroom_tables(rows: Sequence[Mapping]) -> list[Table]:
    """Scores as they are, with own offsets, with other models' offsets, and the offsets' correlation."""
    found = Found(rows)
    over = "paired, over pictures" if found.over_units else "paired"
    k = len(found.candidates)
    points = f"{found.data}, {found.metric} in %, {found.n} test rows; in brackets 95 % intervals"
    probes = [c for c in ("full", BORDER) if any(found(m, PROBE_SCORE, c) for m in found.models)]
    plain = Table(
        f"As the models are: {points} ({over}). Probe: a linear probe of the visual tokens, fitted on train rows."
        if probes
        else f"As the models are: {points} ({over}).",
        ["model", *(CONTROL_NAMES[c] for c in found.controls), "black − full", *(f"probe, {c}" for c in probes)],
        [
            [
                m,
                *(score(found(m, found.metric, c)) for c in found.controls),
                change(found(m, OVER_FULL, BORDER)),
                *(score(found(m, PROBE_SCORE, c)) for c in probes),
            ]
            for m in found.models
        ],
    )
    mended = Table(
        f"With {k} offsets on the scores, fitted on the labels of {found.n_fit} validation rows of the very model and "
        f"input they are shown for: {points} ({over}) of the change.",
        ["model", *(f"{CONTROL_NAMES[c]} + offsets" for c in found.controls), "black + offsets − full"],
        [
            [
                m,
                *(f"{score(found(m, found.metric, c, m))}, {change(found(m, GAIN, c, m))}" for c in found.controls),
                change(found(m, OVER_FULL, BORDER, m)),
            ]
            for m in found.models
        ],
    )
    if len(found.models) < 2:
        return [plain, mended]
    others = Table(
        f"Offsets of the model in the row on the full images of the model in the column, change in points ({over}, "
        f"{found.n} test rows; the diagonal is a model's own, each interval on its own).",
        ["offsets of", *found.models],
        [[of, *(change(found(on, GAIN, "full", of)) for on in found.models)] for of in found.models],
    )
    alike = [
        [f"{of}, {on}", f"{r['value']:+.2f} [{r['low']:+.2f}, {r['high']:+.2f}]".replace("-", "−")]
        for of in found.models
        for on in found.models
        if (r := found(on, CORRELATION, "full", of))
    ]
    caption = f"Correlation of two models' offsets over {k} candidates, with Fisher's 95 % interval."
    return [plain, mended, others, *([Table(caption, ["models", "r"], alike)] if alike else [])]


def tables_markdown(tables: Sequence[Table]) -> str:
    return "\n".join(f"{table.caption}\n\n{markdown(table.header, table.rows)}" for table in tables)


# ---- verdict ---------------------------------------------------------------------------------------------------------
def headroom_verdict(rows: Sequence[Mapping]) -> list[str]:
    """Three or four sentences: what there is to win, what the frame costs, whether it transfers by offsets.

    They rest on averages over models with one interval each, so that many models do not make a find of chance.
    """
    found = Found(rows)
    return [*_winnable(found), *_information(found), *_cost(found), *_transfer(found)]


def _winnable(found: Found) -> list[str]:
    gain = found(ALL, GAIN, "full", ALL)
    assert gain is not None
    own = ", ".join(f"{m} {change(found(m, GAIN, 'full', m))}" for m in found.models)
    says, k = {1: "yes", 0: "nothing shown", -1: "no, they harm"}[sign(gain)], len(found.candidates)
    return [
        f"To win without looking at the image: {says}. {k} offsets fitted on {found.n_fit} labelled "
        f"validation rows change the full image by {change(gain)} points on average of {_models(found)} "
        f"({found.n} test rows): {own}. A frame may win more than this only by changing answers image by image."
    ]


def _information(found: Found) -> list[str]:
    room = found(ALL, PROBE_OVER_FULL)
    if room is None:
        return ["Whether the visual tokens hold the answer is not known: no probe was fitted."]
    own = ", ".join(
        f"{m} {score(found(m, PROBE_SCORE))} against {score(found(m, found.metric))}"
        for m in found.models
        if found(m, PROBE_SCORE)
    )
    says = {
        1: "yes, the visual tokens hold what the answers miss",
        0: "nothing shown, a linear probe of the visual tokens reads no more than the answers say",
        -1: "nothing, a linear probe of the visual tokens reads less than the answers say",
    }[sign(room)]
    return [f"To win by reading the image better: {says}. Probe against full image: {own} ({change(room)} points)."]


def _cost(found: Found) -> list[str]:
    cost, net = found(ALL, OVER_FULL, BORDER), found(ALL, OVER_FULL, BORDER, ALL)
    assert cost is not None and net is not None
    says = {
        1: "less than offsets bring there, so a frame starts with room above the full image",
        0: "about as much as offsets bring there, so a frame that only shifts answers may end where it began",
        -1: "more than offsets bring back, so a frame must repair what the border breaks before it wins anything",
    }[sign(net)]
    if sign(cost) >= 0:
        says = {
            1: "nothing shown, and offsets win there too",
            0: "nothing shown, and offsets win nothing there either",
            -1: "nothing shown, but offsets fitted there harm",
        }[sign(net)]
    text = (
        f"The border costs {says}: black border against full image {change(cost)} points, black border with offsets "
        f"against full image {change(net)}."
    )
    inside = found(ALL, PROBE_OVER_FULL, BORDER)
    if inside is not None:
        kept = {
            1: "the tokens of the bordered image still hold more than the answers on the full one",
            0: "the tokens of the bordered image hold no more than the answers on the full one",
            -1: "the tokens of the bordered image hold less than the answers on the full one: the loss is in the "
            "features, which offsets cannot mend",
        }[sign(inside)]
        text += f" Probe in the border against full image {change(inside)}: {kept}."
    return [text]


def _transfer(found: Found) -> list[str]:
    mean = found(ALL, GAIN_OF_OTHERS)
    if mean is None:
        return ["Transfer by offsets needs at least two models; give several: mllm=A,B."]
    pairs = [r for of in found.models for on in found.models if of != on and (r := found(on, GAIN, "full", of))]
    better, worse = (sum(sign(r) == way for r in pairs) for way in (1, -1))
    alike = [r["value"] for (_, _, metric), r in found.rows.items() if metric == CORRELATION]
    r_text = f" Offsets correlate by {min(alike):+.2f} to {max(alike):+.2f}.".replace("-", "−") if alike else ""
    says = {
        1: "yes, on average",
        0: "nothing shown",
        -1: "no, on average they harm",
    }[sign(mean)]
    return [
        f"To transfer by offsets: {says}. One model's offsets change another's full image by {change(mean)} points on "
        f"average of {len(pairs)} pairs, {better} above 0 and {worse} below by their own intervals.{r_text}"
    ]


def _models(found: Found) -> str:
    return f"{len(found.models)} model{'s' if len(found.models) > 1 else ''}"
