"""Files and folders that are there completely or not at all."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_modules.atomic import backup_of, replace_file, replace_folder, settled_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


KILLED = """
import os, sys
import lightning_modules.atomic as atomic
call, name = sys.argv[2], sys.argv[3]
original, count = getattr(os, call), [0]
def die(*args, **kwargs):
    count[0] += 1
    if count[0] == int(name):
        os._exit(9)
    return original(*args, **kwargs)
setattr(os, call, die)
atomic.replace_folder(sys.argv[1], {"a": b"new", "b": b"new"})
"""


@pytest.mark.parametrize(("call", "count"), [("fsync", 1), ("fsync", 2), ("rename", 1), ("rename", 2), ("fsync", 4)])
def test_a_killed_writer_leaves_the_old_or_the_new_folder(tmp_path, call, count):
    folder = replace_folder(tmp_path / "f", {"a": b"old", "b": b"old"})
    arguments = [sys.executable, "-c", KILLED, str(folder), call, str(count)]
    assert subprocess.run(arguments, cwd=Path(__file__).parents[1]).returncode == 9
    place = folder if folder.exists() else backup_of(folder)
    assert {path.read_bytes() for path in place.iterdir()} in ({b"old"}, {b"new"})
    assert names(place) == ["a", "b"]
    replace_folder(folder, {"a": b"next", "b": b"next"})
    assert (folder / "a").read_bytes() == b"next" and names(tmp_path) == ["f"]


def test_replace_file_keeps_the_old_file_on_failure(tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    replace_file(path, b"old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.EDQUOT, "Disk quota exceeded")))
    with pytest.raises(OSError, match=r"Disk quota exceeded"):
        replace_file(path, b"new", sync=False)
    assert path.read_bytes() == b"old" and names(tmp_path) == ["x.png"]


def test_leftovers_of_a_killed_writer_are_swept_away(tmp_path):
    (tmp_path / ".f.new-1").mkdir()
    replace_folder(tmp_path / "f", {"a": b"1"})
    assert names(tmp_path) == ["f"]


def test_a_settled_folder_is_the_new_one_unless_there_is_none(tmp_path):
    folder = replace_folder(tmp_path / "f", {"a": b"1"})
    assert settled_folder(folder) == folder
    folder.rename(backup_of(folder))
    assert settled_folder(folder) == backup_of(folder)
    assert settled_folder(tmp_path / "none") == tmp_path / "none"


def test_a_failed_write_keeps_the_backup_of_an_earlier_kill(tmp_path, monkeypatch):
    folder = replace_folder(tmp_path / "f", {"a": b"old"})
    folder.rename(backup_of(folder))
    monkeypatch.setattr(os, "rename", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(OSError, match=r"Cannot write '.*f': Input/output error"):
        replace_folder(folder, {"a": b"new"})
    assert (settled_folder(folder) / "a").read_bytes() == b"old" and names(tmp_path) == [".f.old"]


def test_a_folder_reached_through_a_link_is_replaced_behind_the_link(tmp_path):
    real = replace_folder(tmp_path / "real", {"a": b"old"})
    (tmp_path / "link").symlink_to(real)
    assert replace_folder(tmp_path / "link", {"a": b"new"}) == real
    assert (tmp_path / "link").is_symlink() and (real / "a").read_bytes() == b"new"
