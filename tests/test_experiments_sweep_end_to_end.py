"""A real sweep of two cells in this process: runs, records, matrix, statistics; nothing is done twice."""

from __future__ import annotations

import csv

import pytest
from support.sweep_engines import results, tiny_sweep

from experiments.sweep import worker
from lightning_modules.records import read_rows
from lightning_modules.vocabulary import CONTROLS

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:.*ModelCheckpoint with manual optimization"),
]


def test_a_sweep_trains_scores_and_collects_and_its_second_call_does_nothing(tmp_path, monkeypatch):
    from experiments.statistics import write_statistics

    monkeypatch.setenv("TVP_CACHE", str(tmp_path / "cache"))
    folder, cells, plan = tiny_sweep(tmp_path / "sweep", "none,evp")
    worker.work(folder.path, plan, "w")
    made = results(folder, cells)
    rows = list(csv.DictReader(folder.matrix.read_text().splitlines()))
    assert {(row["method"], row["target"]) for row in rows} == {
        (method, target) for method in ("none", "evp") for target in ("embedded_minigpt4", "embedded_llava")
    }
    for cell in cells:
        own = read_rows(folder.cells / cell.folder / "results.jsonl")
        scored = {
            r["mllm"]: r["value"] for r in own if (r["split"], r["input"], r["metric"]) == ("test", "prompt", "top1")
        }
        for target, value in scored.items():
            mine = [r for r in rows if (r["method"], r["target"]) == (cell.method, target)]
            (score,) = [r["value"] for r in mine if r["metric"] == "top1" and not r["control"]]
            assert float(score) == pytest.approx(value, abs=1e-6)
            assert {r["control"] for r in mine} >= set(CONTROLS)
    statistics = write_statistics(folder.path)
    assert {cell["method"] for cell in statistics["cells"]} == {"none", "evp"} and not statistics["missing"]
    times = {cell.id: (folder.cells / cell.folder / "run.json").stat().st_mtime_ns for cell in cells}
    worker.work(folder.path, plan, "again")
    assert times == {cell.id: (folder.cells / cell.folder / "run.json").stat().st_mtime_ns for cell in cells}
    assert results(folder, cells) == made
