"""Small tables of committed sweeps, on numbers whose averages are known."""

from __future__ import annotations

import json
from itertools import product

import pytest

from experiments.report import kept_tables
from lightning_modules.vocabulary import MAPPED

VALUE = {"value": 0.01, "low": 0.0, "high": 0.02}


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


def test_the_commands_behind_results_are_summed(tmp_path, monkeypatch):
    results, recipes = tmp_path / "results", tmp_path / "sweeps"
    for name, said in {"one": "about 20 minutes on 2 CPU cores", "two": "30 to 40 minutes"}.items():
        (results / f"sweep_{name}").mkdir(parents=True)
        recipes.mkdir(exist_ok=True)
        (recipes / f"{name}.yaml").write_text(f"# A sweep\n# Expect: {said}.\nsweep: {name}\n")
    numbers = {"trials": 4, "rounds": 1, "max_steps": 200}
    asked = {
        "exp": "web",
        "data": "d",
        "sources": ["a", "b"],
        "methods": ["evp"],
        "words": {"train.batch_size": "8"},
        **numbers,
    }
    for name, of in {"web": asked, "rows": asked | {"sweep": "one"}}.items():
        record = {"asked": of, "trials": [{"seconds": 1800.0}, {"seconds": 3600.0}]}
        (results / f"tuning_{name}.json").write_text(json.dumps(record))
    (results / "tuning_old.json").write_text("{}")  # a grid of before there was a search
    monkeypatch.setattr(kept_tables, "RESULTS", results)
    table, total = kept_tables.commands_table().split("\n\n")
    shown = dict(cells(table))
    tune = "python -m experiments.tune"
    assert shown == {
        f"`{tune} sweep=one trials=4 rounds=1 max_steps=200`": "45",
        f"`{tune} exp=web data=d sources=a,b methods=evp train.batch_size=8 trials=4 rounds=1 max_steps=200`": "45",
        "`python -m experiments.transfer_sweep sweep=one`": "20",
        "`python -m experiments.transfer_sweep sweep=two`": "40",
    }
    assert total == "Together 2.5 hours."
    (recipes / "one.yaml").write_text("# Expect: long.\n")
    with pytest.raises(ValueError, match=r"'one.yaml' says no minutes"):
        kept_tables.commands_table()


def test_rows_of_a_study_stand_in_the_order_of_its_recipe(monkeypatch):
    def entries(*keys):
        found = [(d, m, over) for d, m in keys for over in ("source", "targets")]
        return [dict(zip(("data", "method", "over"), key, strict=True), control="full", **VALUE) for key in found]

    shots = ("4 a class", "16 a class", "1,024 a class")
    content = {"metrics": dict.fromkeys(sorted(shots)), "methods": entries(*product(shots, ("fca", "evp")))}
    monkeypatch.setattr(kept_tables, "kept_statistics", lambda sweep: content)
    assert [row[0] for row in cells(kept_tables.study_table("fashion_shots"))] == [*shots]
    methods = ("border 2", "border 12", "fca 1")
    content = {"metrics": {"web_recognition": ""}, "methods": entries(*(("", name) for name in reversed(methods)))}
    assert [row[0] for row in cells(kept_tables.study_table("web_frames"))] == [*methods]
