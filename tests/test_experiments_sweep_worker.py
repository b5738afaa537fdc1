"""Workers: every cell once, a failure is recorded and does not stop the rest, an interrupt loses nothing."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from support import sweep_runs
from support.sweep_runs import sweep_cell

from experiments.run import ensure as many
from experiments.sweep import collect, leases, worker
from experiments.sweep.folder import SweepFolder
from experiments.sweep.samples import read_samples, sample_files

CELLS = [sweep_cell(c, seed=i, source=s) for i, (c, s) in enumerate(zip("abcdef", "mtmtmt", strict=True))]
RECIPE = {"sweep": "s", "label": "l"}


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    monkeypatch.setattr(many, "ensure_run", sweep_runs.fake_ensure_run)
    monkeypatch.setattr(worker, "POLL", 0.01)
    folder = SweepFolder(tmp_path / "out", create="s")
    return folder, folder.write_plan(CELLS, RECIPE)


def states(folder):
    return {cell.label: folder.states().get(cell.id, {}).get("state") for cell in CELLS}


def test_a_worker_computes_every_cell_and_writes_it_down(sweep):
    folder, plan = sweep
    assert worker.work(folder.path, plan, "w") == len(CELLS)
    assert set(states(folder).values()) == {"finished"} and leases.read_leases(folder.leases) == {}
    assert worker.work(folder.path, plan, "w") == 0  # finished cells are never done again


def test_cells_of_the_loaded_source_come_first(sweep):
    folder, plan = sweep
    worker.work(folder.path, plan, "w")
    order = [row["label"][0] for row in sorted(folder.states().values(), key=lambda row: row["time"])]
    assert "".join(order) == "mmmttt"


def test_a_failing_cell_is_recorded_and_the_others_go_on(sweep, monkeypatch):
    folder, plan = sweep

    def failing(cell, out):
        if cell.name.startswith(CELLS[1].label):
            raise ValueError("no such colour")
        return sweep_runs.fake_ensure_run(cell, out)

    monkeypatch.setattr(many, "ensure_run", failing)
    assert worker.work(folder.path, plan, "w") == len(CELLS) - 1
    row = folder.states()[CELLS[1].id]
    assert row["state"] == "failed" and row["error"] == "ValueError: no such colour"
    assert "Traceback" in (folder.logs / f"{CELLS[1].folder}.log").read_text()
    assert leases.read_leases(folder.leases) == {}
    monkeypatch.setattr(many, "ensure_run", sweep_runs.fake_ensure_run)
    assert worker.work(folder.path, plan, "w") == 0  # not by itself
    folder.ask_again(CELLS)
    assert worker.work(folder.path, plan, "w") == 1 and set(states(folder).values()) == {"finished"}


def test_an_interrupt_gives_the_cell_back(sweep, monkeypatch):
    folder, plan = sweep

    def interrupted(cell, out):
        raise KeyboardInterrupt

    monkeypatch.setattr(many, "ensure_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        worker.work(folder.path, plan, "w")
    assert leases.read_leases(folder.leases) == {} and set(states(folder).values()) == {None}


def test_a_full_disk_stops_the_worker_and_fails_no_cell(sweep, monkeypatch):
    folder, plan = sweep

    def full(cell, out):
        raise OSError(errno.ENOSPC, "The disk is full")

    monkeypatch.setattr(many, "ensure_run", full)
    with pytest.raises(OSError, match="disk is full"):
        worker.work(folder.path, plan, "w")
    assert set(states(folder).values()) == {None}
    assert worker.main([str(folder.path), plan, "w", "0"]) == worker.FULL_DISK


def test_other_code_is_refused(sweep, monkeypatch):
    folder, plan = sweep
    here = worker.made_with()
    others = {"sources other": here | {"code": "other"}, "torch 0": here | {"libraries": {"torch": "0"}}}
    for said, made in others.items():
        monkeypatch.setattr(worker, "made_with", lambda made=made: made)
        with pytest.raises(ValueError, match=rf"computes with {said} \(planned with .*make new cells"):
            worker.work(folder.path, plan, "w")
    assert worker.main([str(folder.path), plan, "w", "0"]) == worker.OTHER_CODE


def test_a_result_is_dropped_when_the_lease_was_lost(sweep, monkeypatch):
    folder, plan = sweep

    def slow(cell, out):
        for path in folder.leases.glob("*.json"):
            path.unlink()  # another host took the cell over meanwhile
        return sweep_runs.fake_ensure_run(cell, out)

    monkeypatch.setattr(many, "ensure_run", slow)
    worker.work(folder.path, plan, "w", limit=1, stop=iter([False, True]).__next__)
    assert set(states(folder).values()) == {None}


def _work(path, plan, name):
    many.ensure_run, worker.POLL = slowly, 0.01
    worker.work(Path(path), plan, name)


def slowly(cell, out):
    time.sleep(0.02)
    return sweep_runs.fake_ensure_run(cell, out)


@pytest.mark.slow
def test_two_sweeps_on_one_folder_share_the_work_and_do_no_cell_twice(sweep):
    folder, plan = sweep
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=_work, args=(str(folder.path), plan, f"w{i}")) for i in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
    assert [process.exitcode for process in both] == [0, 0]
    assert set(states(folder).values()) == {"finished"}
    assert [(folder.cells / cell.folder / "times").read_text() for cell in CELLS] == ["x"] * len(CELLS)


def test_a_worker_waits_for_a_cell_that_another_holds(sweep):
    folder, plan = sweep
    other = leases.Leases(folder.leases, "other")
    other.take(CELLS[0].id)
    looks = []

    def stop():
        looks.append(1)
        if len(looks) == len(CELLS) + 3:
            other.give_up()
        return len(looks) > 200

    worker.work(folder.path, plan, "w", stop=stop)
    assert set(states(folder).values()) == {"finished"} and len(looks) < 200


# ---- what is collected -----------------------------------------------------------------------------------------------
def test_the_matrix_has_every_score_and_gain_and_no_trace_of_time_or_place(sweep):
    folder, plan = sweep
    worker.work(folder.path, plan, "w")
    collect.collect(folder, CELLS)
    lines = folder.matrix.read_text().splitlines()
    assert lines[0] == ",".join(collect.COLUMNS) and lines[1:] == sorted(lines[1:])
    head = f"m,t,d,tvp,{CELLS[0].seed}"
    mine = [line.removeprefix(head + ",") for line in lines if line.startswith(head)]
    assert ",top1,12,0.666667,finished" in mine and ",top1_png,12,0.666667,finished" in mine
    assert "black,top1,12,0.500000,finished" in mine and "black,gain_top1,12,0.166667,finished" in mine
    assert len(mine) == 2 + 2 * 4
    for word in (str(folder.path), os.uname().nodename, CELLS[0].id[:8]):
        assert word not in folder.matrix.read_text()


def test_the_matrix_does_not_depend_on_the_order_of_cells_or_on_who_ran_them(sweep, tmp_path):
    folder, plan = sweep
    worker.work(folder.path, plan, "w")
    collect.collect(folder, CELLS)
    other = SweepFolder(tmp_path / "other", create="s")
    backwards = other.write_plan(CELLS[::-1], RECIPE)
    worker.work(other.path, backwards, "x", limit=2)
    worker.work(other.path, backwards, "y")
    collect.collect(other, CELLS[::-1])
    assert other.matrix.read_bytes() == folder.matrix.read_bytes()
    files = [{p.name: p.read_bytes() for p in f.samples.iterdir()} for f in (folder, other)]
    assert files[0] == files[1] and len(files[0]) == len(CELLS)


def test_samples_name_the_metric_of_the_rows_and_files_that_name_a_task_are_read(sweep):
    folder, plan = sweep
    worker.work(folder.path, plan, "w", limit=1)
    path = folder.cells / CELLS[0].folder / collect.SAMPLES
    records = read_samples(path)
    assert [(r.target, r.role, r.metric) for r in records] == [("m", "source", "top1"), ("t", "heldout", "top1")]
    table = pq.read_table(path)
    cell = json.loads(table.schema.metadata[b"cell"])
    assert "task" not in cell
    pq.write_table(table.replace_schema_metadata({"cell": json.dumps(cell | {"task": "recognition"})}), path)
    for now, before in zip(read_samples(path), records, strict=True):
        assert now[:-1] == before[:-1] and now.scores.keys() == before.scores.keys()
        assert all(np.array_equal(now.scores[i].scores, before.scores[i].scores) for i in now.scores)


def test_failed_and_missing_cells_have_a_line_each(sweep):
    folder, _ = sweep
    folder.record(CELLS[0], "failed", error="x")
    status = collect.collect(folder, CELLS[:2])
    assert status == {CELLS[0].label: "failed", CELLS[1].label: "missing"}
    assert folder.matrix.read_text().splitlines()[1:] == ["m,,d,tvp,0,,,0,,failed", "t,,d,tvp,1,,,0,,missing"]


def test_samples_of_changed_cells_replace_the_old_ones(sweep):
    folder, plan = sweep
    worker.work(folder.path, plan, "w")
    collect.collect(folder, CELLS)
    changed = CELLS[0]._replace(id="9" * 16)
    sweep_runs.make_run(folder.cells / changed.folder, hits=3)
    collect.keep_samples(folder.cells / changed.folder, changed)
    folder.record(changed, "finished")
    collect.collect(folder, [changed])
    (path,) = folder.samples.iterdir()
    assert read_samples(path)[0].scores["prompt"].correct.sum() == 3
    collect.collect(folder, CELLS)
    assert read_samples(folder.samples / f"{CELLS[0].label}.parquet")[0].scores["prompt"].correct.sum() == 8
    assert len(list(folder.samples.iterdir())) == len(CELLS)


def test_what_a_user_keeps_in_samples_stays_and_is_no_sample(sweep):
    folder, plan = sweep
    worker.work(folder.path, plan, "w")
    collect.collect(folder, CELLS)
    (folder.samples / "notes.txt").write_text("mine")
    (folder.samples / "sub").mkdir()
    (folder.samples / "._x.parquet").write_bytes(b"\0\5")
    pq.write_table(pq.read_table(folder.samples / f"{CELLS[0].label}.parquet").replace_schema_metadata({}), (
        folder.samples / "mine.parquet"
    ))  # fmt: skip
    kept = {path.name for path in folder.samples.iterdir()}
    collect.collect(folder, CELLS[1:])
    collect.collect(folder, CELLS)
    assert {path.name for path in folder.samples.iterdir()} == kept
    assert len(sample_files(folder.samples)) == len(CELLS)
    assert (folder.samples / "notes.txt").read_text() == "mine"


def test_a_user_s_file_with_the_name_of_a_cell_is_refused_not_replaced(sweep):
    folder, plan = sweep
    worker.work(folder.path, plan, "w")
    folder.samples.mkdir()
    mine = folder.samples / f"{CELLS[0].label}.parquet"
    mine.write_text("mine")
    with pytest.raises(FileExistsError, match=r"was not written by this sweep.*move it away"):
        collect.collect(folder, CELLS)
    assert mine.read_text() == "mine"
