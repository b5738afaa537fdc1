"""Leases: one holder a cell, free the moment its process is gone, and by its clock when it lived on another host."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from experiments.sweep import leases as module
from experiments.sweep.leases import Leases, process_mark, read_leases

ROOT = Path(__file__).resolve().parents[1]
HOLD = """
import sys, time
from pathlib import Path
from experiments.sweep.leases import Leases
leases = Leases(Path(sys.argv[1]), "other")
print(leases.take("c", label="x"), flush=True)
time.sleep(60)
"""
RACE = """
import sys
from pathlib import Path
from experiments.sweep.leases import Leases
folder = Path(sys.argv[1])
leases, mine = Leases(folder, sys.argv[2]), []
sys.stdin.readline()
for i in range(40):
    done = folder / f"done-{i}"
    if not done.exists() and leases.take(str(i)):
        if not done.exists():
            mine.append(i)
            with leases.still_mine() as ok:
                assert ok
                done.touch()
        leases.give_up()
print(*mine)
"""


def program(text, *words):
    words = [sys.executable, "-c", text, *map(str, words)]
    return subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def held(tmp_path):
    """Another process that holds the lease of cell `c`."""
    process = program(HOLD, tmp_path)
    assert process.stdout.readline().strip() == "True"
    yield process
    process.kill()
    process.communicate()


def foreign(folder, cell, **changes):
    """A lease as another host would have written it."""
    leases = Leases(folder, "far")
    row = leases.me | {"host": "far-away", "boot": "another", "label": "x"} | changes
    (folder / f"{cell}.json").write_text(json.dumps(row))
    return folder / f"{cell}.json"


def test_a_lease_has_one_holder_and_is_free_again_when_given_up(tmp_path):
    first, second = Leases(tmp_path, "a"), Leases(tmp_path, "b")
    assert first.take("c", label="x") and not second.take("c")
    assert read_leases(tmp_path)["c"]["worker"] == "a" and read_leases(tmp_path)["c"]["label"] == "x"
    first.give_up()
    assert read_leases(tmp_path) == {} and second.take("c")
    second.give_up()


def test_a_lease_of_a_live_process_holds_and_of_a_killed_one_is_free_at_once(tmp_path, held):
    mine = Leases(tmp_path, "me")
    assert not mine.take("c")
    held.send_signal(signal.SIGKILL)
    held.wait()
    assert mine.take("c")
    mine.give_up()


def test_a_zombie_holds_nothing(tmp_path, held):
    os.kill(held.pid, signal.SIGKILL)
    until = time.time() + 5
    while not Leases(tmp_path, "me").is_free("c"):  # killed, not yet waited for
        assert time.time() < until
        time.sleep(0.05)


def test_a_pid_that_is_used_again_is_another_process(tmp_path):
    leases = Leases(tmp_path, "me")
    row = leases.me | {"token": "old"}
    (tmp_path / "c.json").write_text(json.dumps(row))
    assert not leases.is_free("c")
    (tmp_path / "c.json").write_text(json.dumps(row | {"mark": "1"}))
    assert leases.is_free("c")


def test_a_lease_of_another_host_is_free_only_when_it_was_not_refreshed(tmp_path):
    path, leases = foreign(tmp_path, "c"), Leases(tmp_path, "me")
    assert not leases.take("c")
    old = time.time() - module.EXPIRES - 1
    os.utime(path, (old, old))
    assert leases.take("c")
    leases.give_up()


def test_the_same_host_after_a_restart_counts_as_another(tmp_path):
    leases = Leases(tmp_path, "me")
    foreign(tmp_path, "c", host=leases.me["host"], pid=1 << 22)  # no such process now, but that was before the restart
    assert not leases.is_free("c")


def test_a_lease_is_refreshed_while_it_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "REFRESH", 0.02)
    leases = Leases(tmp_path, "me")
    leases.take("c", label="x")
    old = time.time() - 1000
    os.utime(tmp_path / "c.json", (old, old))
    leases.report(phase="training", step=3, steps=9)
    until = time.time() + 5
    while read_leases(tmp_path)["c"].get("step") != 3:
        assert time.time() < until
        time.sleep(0.01)
    assert (tmp_path / "c.json").stat().st_mtime > old + 500
    leases.give_up()
    time.sleep(0.1)
    assert read_leases(tmp_path) == {}  # no late refresh brings it back


def test_who_lost_a_lease_may_not_write_and_does_not_take_it_back(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "REFRESH", 0.02)
    leases = Leases(tmp_path, "slow")
    leases.take("c")
    foreign(tmp_path, "c", token="someone else")
    time.sleep(0.1)
    with leases.still_mine() as mine:
        assert not mine
    leases.give_up()
    assert read_leases(tmp_path)["c"]["token"] == "someone else"


def test_a_damaged_lease_is_free(tmp_path):
    (tmp_path / "c.json").write_text("{")
    (tmp_path / "d.json").write_text("[]")
    leases = Leases(tmp_path, "me")
    assert leases.is_free("c") and leases.is_free("d") and read_leases(tmp_path) == {}


def test_many_processes_at_once_take_every_cell_exactly_once(tmp_path):
    racers = [program(RACE, tmp_path, f"w{i}") for i in range(4)]
    time.sleep(0.5)
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    taken = Counter(i for racer in racers for i in racer.communicate(timeout=60)[0].split())
    assert all(racer.returncode == 0 for racer in racers)
    assert taken == {str(i): 1 for i in range(40)}


def test_the_mark_of_a_process_is_none_when_there_is_none():
    assert process_mark(os.getpid()) and process_mark(1 << 22) is None


@pytest.mark.parametrize("change", [{"space": "pid:[1]"}, {"space": None}], ids=["another container", "an old lease"])
def test_a_live_holder_in_another_container_of_the_same_host_keeps_its_lease(tmp_path, change):
    """Its pid means another process here, or none: only time can tell that it is gone."""
    leases = Leases(tmp_path, "me")
    row = {key: value for key, value in (leases.me | {"pid": 1 << 22, "token": "other"} | change).items() if value}
    path = tmp_path / "c.json"
    path.write_text(json.dumps(row))
    assert not leases.is_free("c") and not leases.take("c")
    old = time.time() - module.EXPIRES - 1
    os.utime(path, (old, old))
    assert leases.take("c")
    leases.give_up()
