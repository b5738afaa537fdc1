"""The local engine: a worker that dies loses its cell only, a cell that kills workers is given up, Ctrl-C stops all."""

from __future__ import annotations

import errno
import os
import signal
import time

import pytest
from support.sweep_runs import sweep_cell

from experiments.sweep import slots
from experiments.sweep.display import Display, clock, remaining
from experiments.sweep.engines import SweepStopped, local, pool
from experiments.sweep.folder import States, SweepFolder
from experiments.sweep.leases import read_leases
from experiments.sweep.worker import THREADS

CELLS = [sweep_cell(c, seed=i) for i, c in enumerate("abcd")]
# A worker that does what its cell's method says: nothing is trained.
WORKER = """
import os, signal, sys, time
from pathlib import Path
from experiments.sweep.folder import SweepFolder
from experiments.sweep.leases import Leases
from experiments.sweep.worker import die_with
die_with(int(sys.argv[4]))
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
folder = SweepFolder(sys.argv[1])
cells, _ = folder.read_plan(sys.argv[2])
leases = Leases(folder.leases, sys.argv[3])
for cell in cells:
    if folder.states().get(cell.id, {}).get("state") or not leases.take(cell.id, label=cell.label):
        continue
    marks = folder.path / f"died-{cell.label}"
    if cell.method == "deadly" or cell.method == "once" and not marks.exists():
        marks.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if cell.method == "full":
        print("Cannot write: no space left", file=sys.stderr)
        sys.exit(3)
    if cell.method == "slow":
        signal.sigwait({signal.SIGINT})
        leases.give_up()
        (folder.path / f"stopped-{sys.argv[3]}").touch()
        sys.exit(130)
    folder.record(cell, "finished", seconds=0.1)
    leases.give_up()
"""


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "WORKER", ("-c", WORKER))
    monkeypatch.setattr(pool, "LOOK", 0.02)
    monkeypatch.setattr(slots, "visible_gpus", list)

    def make(*methods):
        cells = [cell._replace(method=m) for cell, m in zip(CELLS, methods, strict=False)]
        folder = SweepFolder(tmp_path / "out", create="s")
        return folder, cells, folder.write_plan(cells, {"sweep": "s", "label": ""})

    return make


def run(folder, plan, jobs="2", watch=lambda: None):
    local.run_local(folder, plan, {"jobs": jobs}, watch)


def state(folder, cells):
    return [folder.states().get(cell.id, {}).get("state") for cell in cells]


def test_a_worker_that_dies_is_replaced_and_loses_nothing_else(sweep):
    folder, cells, plan = sweep("ok", "once", "ok", "ok")
    run(folder, plan)
    assert state(folder, cells) == ["finished"] * 4 and (folder.path / f"died-{cells[1].label}").exists()


@pytest.mark.slow
def test_a_cell_that_kills_worker_after_worker_is_given_up(sweep):
    folder, cells, plan = sweep("deadly", "ok", "ok")
    run(folder, plan, jobs="1")
    assert state(folder, cells) == ["failed", "finished", "finished"]
    assert "died 3 times (signal 9, out of memory?)" in folder.states()[cells[0].id]["error"]


def test_workers_that_cannot_start_end_in_a_message(sweep, monkeypatch):
    folder, _, plan = sweep("ok")
    monkeypatch.setattr(local, "WORKER", ("-c", "import sys; sys.exit(7)"))
    with pytest.raises(SweepStopped, match=r"die before they take a cell \(exit code 7\).*worker-\*\.log"):
        run(folder, plan)


def test_a_full_disk_stops_the_sweep_with_what_the_worker_said(sweep):
    folder, _, plan = sweep("full")
    with pytest.raises(OSError, match="no space left") as caught:
        run(folder, plan)
    assert caught.value.errno == errno.ENOSPC


def test_ctrl_c_reaches_every_worker_once_and_waits_for_it(sweep):
    folder, _cells, plan = sweep("slow", "slow")

    def interrupt():
        if len(read_leases(folder.leases)) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(folder, plan, watch=interrupt)
    assert {p.name for p in folder.path.glob("stopped-*")} == {"stopped-w0", "stopped-w1"}
    assert read_leases(folder.leases) == {}


def test_workers_die_with_their_parent(sweep, tmp_path):
    folder, _, plan = sweep("slow")
    pid = os.fork()
    if pid == 0:
        try:
            run(folder, plan, jobs="1")
        finally:
            os._exit(1)
    until = time.time() + 60
    while not (held := read_leases(folder.leases)):
        assert time.time() < until
        time.sleep(0.05)
    worker = next(iter(held.values()))["pid"]
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    until = time.time() + 10
    while os.path.exists(f"/proc/{worker}"):
        assert time.time() < until, "the worker outlived its parent"
        time.sleep(0.05)


def test_slots_are_gpus_or_single_threads(monkeypatch):
    monkeypatch.setattr(slots, "visible_gpus", lambda: ["0", "GPU-b"])
    assert slots.local_slots(0, 9) == [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "GPU-b"}]
    assert [s["CUDA_VISIBLE_DEVICES"] for s in slots.local_slots(3, 9)] == ["0", "GPU-b", "0"]
    monkeypatch.setattr(slots, "visible_gpus", list)
    assert slots.local_slots(2, 9) == [dict.fromkeys(THREADS, "1")] * 2
    assert len(slots.local_slots(8, 3)) == 3 and len(slots.local_slots(0, 99)) >= 1


# ---- what is shown ---------------------------------------------------------------------------------------------------
def test_a_line_is_printed_as_each_cell_ends_and_none_in_ci(sweep, capsys, monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    folder, cells, plan = sweep("ok", "ok")
    with Display(folder, cells) as display:
        run(folder, plan, watch=display.look)
        display._next = 0
        display.look()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[-1].startswith("[2/2] ") and lines[-1].endswith("finished in 0 s")
    monkeypatch.setenv("CI", "true")
    display = Display(folder, cells)
    display.seen.clear()
    display.look()
    assert capsys.readouterr().out == ""


def test_the_live_lines_name_worker_cell_phase_and_time_left(sweep):
    folder, cells, _ = sweep("slow", "ok", "ok")
    from experiments.sweep.leases import Leases

    mine = Leases(folder.leases, "w7")
    mine.take(cells[0].id, label=cells[0].label, phase="training", step=48, steps=192)
    folder.record(cells[1], "finished", seconds=300.0)
    lines = Display(folder, cells).lines(folder.states())
    mine.give_up()
    assert lines[0].startswith(f"w7  {cells[0].label}  training 48/192")
    assert lines[-1] == "1 of 3 cells finished; about 10 min left"


def test_the_time_left_comes_from_cells_of_the_same_method():
    cells = [cell._replace(method=m) for cell, m in zip(CELLS, ("a", "a", "b", "b"), strict=True)]
    done = {cells[0].id: {"state": "finished", "seconds": 10}, cells[2].id: {"state": "finished", "seconds": 100}}
    assert remaining(cells, States(done), 2) == 55 and remaining(cells, States(), 2) is None
    assert [clock(s) for s in (42, 720, 12600)] == ["42 s", "12 min", "3.5 h"]
