"""A real sweep of two cells in this process: runs, records, matrix, statistics; nothing is done twice."""

from __future__ import annotations

import csv

import pytest
from omegaconf import OmegaConf
from support.sweep_engines import TINY, results, tiny_sweep

from experiments.sweep import worker
from experiments.sweep.collect import collect
from experiments.sweep.folder import SweepFolder
from experiments.sweep.identity import identified
from experiments.sweep.prompts import sweep_cells
from experiments.sweep.recipe import load_sweep
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

    # Another sweep scores these prompts: as they are they get what their own sweep gave them.
    words = [*(TINY | {"prompts": str(folder.path), "methods": "evp"}).items()]
    sweep = load_sweep("embedded_smoke", words)
    sweep.data.append(sweep.data[0].copy())
    sweep.data[-1].label, sweep.data[-1].words = "small", {"targets.through": ["resize:0.1"]}
    more, missing = identified(sweep_cells(sweep))
    assert not missing and [cell.data for cell in more] == [cells[0].data, "small"]
    second = SweepFolder(tmp_path / "second", create="second")
    worker.work(second.path, second.write_plan(more, OmegaConf.to_container(sweep)), "w")
    collect(second, more)
    scored = [
        {(row["target"], row["data"]): row["value"] for row in csv.DictReader(path.read_text().splitlines())
         if (row["method"], row["metric"], row["control"]) == ("evp", "top1", "")}
        for path in (folder.matrix, second.matrix)
    ]  # fmt: skip
    same = {key: value for key, value in scored[1].items() if key[1] != "small"}
    assert same == scored[0] and len(scored[1]) == 4
    assert scored[1]["embedded_llava", "small"] != same["embedded_llava", cells[0].data]
    with pytest.raises(ValueError, match="has no finished prompt of embedded_minigpt4, emoji_recognition, evp, seed 7"):
        sweep_cells(load_sweep("embedded_smoke", [*words, ("seeds", "7")]))
    with pytest.raises(FileNotFoundError, match="no sweep in 'nowhere' or 'runs/sweeps/nowhere'"):
        sweep_cells(load_sweep("embedded_smoke", [("prompts", "nowhere")]))
