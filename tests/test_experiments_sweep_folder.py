"""The sweep's folder: foreign files, other versions, damaged lines and full disks end in one clear message."""

from __future__ import annotations

import errno
import json
import os

import pytest

from experiments.sweep.cells import SweepCell
from experiments.sweep.folder import MARKER, SweepFolder

A, B = (SweepCell(name, "m", "d", "tvp", i, (("seed", str(i)),), id=name * 16) for i, name in enumerate("ab"))


@pytest.fixture
def folder(tmp_path):
    return SweepFolder(tmp_path / "out", create="s")


def test_a_folder_is_made_once_and_opened_again(tmp_path, folder):
    assert SweepFolder(tmp_path / "out").name == "s"
    assert SweepFolder(tmp_path / "out", create="s").name == "s"
    with pytest.raises(ValueError, match=r"holds the sweep 's', .* Choose another out=DIR"):
        SweepFolder(tmp_path / "out", create="other")


def test_a_start_that_was_killed_half_way_is_no_stranger(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / f".{MARKER}.new-123").write_text("")
    SweepFolder(tmp_path / "out", create="s")


@pytest.mark.parametrize("what", ["file", "strangers"])
def test_a_folder_of_something_else_is_left_alone(tmp_path, what):
    path = tmp_path / "out"
    if what == "file":
        path.write_text("mine")
    else:
        path.mkdir()
        (path / "thesis.tex").write_text("mine")
    with pytest.raises(FileExistsError, match=r"no sweep .*choose another out=DIR"):
        SweepFolder(path, create="s")
    assert (path.read_text() == "mine") if what == "file" else [p.name for p in path.iterdir()] == ["thesis.tex"]


def test_without_a_sweep_there_is_nothing_to_look_at(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No sweep in .*expected sweep\.json"):
        SweepFolder(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize(
    ("text", "said"), [('{"format": 99}', "another version .*format 99"), ("{", "damaged"), ("3", "damaged")]
)
def test_another_version_and_a_damaged_marker_are_named(folder, text, said):
    (folder.path / MARKER).write_text(text)
    with pytest.raises(ValueError, match=said):
        SweepFolder(folder.path)


def test_a_path_below_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"Cannot write .*Choose another out=DIR"):
        SweepFolder(tmp_path / "file" / "out", create="s")


def test_the_latest_plan_is_read_back_and_older_ones_stay(folder):
    recipe = {"sweep": "s", "label": "l"}
    first = folder.write_plan([A], recipe)
    second = folder.write_plan([A, B], recipe)
    assert first != second == folder.write_plan([A, B], recipe)
    assert folder.read_plan()[0] == [A, B] and folder.read_plan(first)[0] == [A]
    assert folder.read_plan()[1]["recipe"] == recipe


def test_without_a_plan_the_message_says_how_to_start(folder):
    with pytest.raises(FileNotFoundError, match="no plan yet"):
        folder.read_plan()


def test_states_merge_the_ledgers_of_all_processes(folder):
    other = SweepFolder(folder.path)
    folder.record(A, "failed", error="x")
    other.record(A, "finished", seconds=1.0)
    other.record(B, "failed", error="y")
    assert len(list(folder.ledger.glob("*.jsonl"))) == 2
    states = folder.states()
    assert states[A.id]["state"] == "finished" and states[B.id]["error"] == "y"


def test_a_cell_has_ended_when_it_finished_or_failed(folder):
    assert folder.states().of(A) == "waiting" and not folder.ended([A, B])
    folder.record(A, "finished", seconds=2.0)
    assert folder.ended([A]) and not folder.ended([A, B])
    folder.record(B, "failed", error="y")
    assert folder.ended([A, B]) and (folder.states().of(A), folder.states().of(B)) == ("finished", "failed")
    states = folder.states()
    assert states.counts([A, B]) == {"finished": 1, "failed": 1} and states.seconds([A, B]) == [2.0]
    folder.ask_again([A, B])
    assert folder.states().of(B) == "waiting" and not folder.ended([A, B])


def test_only_failed_cells_are_asked_for_again_and_may_fail_again(folder):
    folder.record(A, "finished")
    folder.record(B, "failed", error="first")
    assert folder.ask_again([A, B]) == [B]
    assert folder.states()[B.id]["state"] == "waiting" and folder.states()[A.id]["state"] == "finished"
    folder.record(B, "failed", error="second")
    assert folder.states()[B.id]["error"] == "second" and folder.states()[B.id]["attempt"] == 1
    folder.ask_again([A, B])
    folder.record(B, "finished")
    assert folder.states()[B.id]["state"] == "finished"


def test_a_line_cut_short_and_a_foreign_line_are_skipped(folder):
    folder.record(A, "finished")
    (path,) = folder.ledger.glob("*.jsonl")
    path.write_bytes(path.read_bytes() + b'{"id": "x"}\n[1]\n' + json.dumps({"id": B.id, "state": "fin"}).encode()[:-3])
    assert set(folder.states()) == {A.id}


def test_a_full_disk_says_that_nothing_is_lost(folder, monkeypatch):
    folder.record(A, "finished")

    def full(fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left.*Finished cells are safe") as caught:
        folder.record(B, "finished")
    assert caught.value.errno == errno.ENOSPC and folder.states()[A.id]["state"] == "finished"
