"""Small tables of committed sweeps, on numbers whose averages are known."""

from __future__ import annotations

from itertools import product

from experiments.report import kept_tables
from lightning_modules.vocabulary import MAPPED


def cells(table: str) -> list[list[str]]:
    """The rows below the head of a Markdown table."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_a_reading_through_maps_is_compared_with_the_plain_picture_read_plainly(monkeypatch):
    # plain picture 0.50 (0.45 through maps); the frame 0.60 and 0.70 on its source, 0.40 and 0.55 on the other model
    values = {("full", "top1"): 0.5, ("full", MAPPED): 0.45}
    prompted = {("a", "top1"): 0.6, ("a", MAPPED): 0.7, ("b", "top1"): 0.4, ("b", MAPPED): 0.55}
    lines = []
    for target, seed in product("ab", (0, 1)):
        own = values | {("", metric): prompted[target, metric] for metric in ("top1", MAPPED)}
        for (control, metric), value in own.items():
            line = {"method": "evp", "source": "a", "target": target, "seed": str(seed), "control": control}
            lines.append(line | {"metric": metric, "value": str(value + 0.02 * seed * (not control))})
    monkeypatch.setattr(kept_tables, "kept_matrix", lambda sweep: lines)
    plain, frame = cells(kept_tables.mapping_table("s"))
    assert [cell.split()[0] for cell in plain[1:]] == ["0.0", "−5.0", "0.0", "−5.0"]
    assert [cell.split()[0] for cell in frame[1:]] == ["+11.0", "+21.0", "−9.0", "+6.0"]
    # two seeds 2 points apart: t(1) = 12.71 times sqrt(2) over sqrt(2)
    assert frame[1] == "+11.0 [−1.7, +23.7]"


def test_a_model_s_row_is_the_mean_over_sources_from_lowest_to_highest(monkeypatch):
    gains = {("a", "m"): 0.01, ("b", "m"): -0.05, ("a", "n"): 0.02, ("b", "n"): 0.04}
    pairs = [
        {"source": s, "target": t, "data": "d", "method": "evp", "gains": {"full": {"value": value}}}
        for (s, t), value in gains.items()
    ]
    monkeypatch.setattr(kept_tables, "kept_statistics", lambda sweep: {"pairs": [*pairs, {"method": "none"}]})
    assert cells(kept_tables.by_target_table("s")) == [["m", "−2.0 [−5.0, +1.0]"], ["n", "+3.0 [+2.0, +4.0]"]]
