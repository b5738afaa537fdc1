"""What names the code: its sources and nothing that tools leave beside them."""

import shutil

import pytest

from lightning_modules import code_version as module
from lightning_modules.code_version import SOURCES, code_version, library_versions


@pytest.fixture
def version(tmp_path, monkeypatch):
    for name in (*SOURCES, "experiments"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.py").write_text("x = 1\n")
    monkeypatch.setattr(module, "ROOT", tmp_path)

    def fresh(*sources):
        code_version.cache_clear()
        return code_version(*sources)

    yield fresh
    code_version.cache_clear()


def test_the_code_version_follows_its_sources_and_nothing_else(tmp_path, version):
    first = version()
    (tmp_path / "experiments" / "a.py").write_text("x = 2\n")
    (tmp_path / "datamodules" / "notes.txt").write_text("seen")
    shutil.copytree(tmp_path / "experiments", tmp_path / "tests")
    assert version() == first
    for name in SOURCES:
        (tmp_path / name / "a.py").write_text("x = 2\n")
        assert version() != first
        (tmp_path / name / "a.py").write_text("x = 1\n")
        assert version() == first
    (tmp_path / "model_zoo" / "a.py").rename(tmp_path / "model_zoo" / "b.py")
    assert version() != first


def test_copies_that_tools_keep_beside_the_sources_change_nothing(tmp_path, version):
    first = version()
    for place in (".ipynb_checkpoints", "__pycache__", "@eaDir", "__MACOSX"):
        (tmp_path / "model_zoo" / place).mkdir()
        (tmp_path / "model_zoo" / place / "a.py").write_text("x = 3\n")
    for name in ("._a.py", ".#a.py", "a.py~", "a.py.orig", "#a.py#"):
        (tmp_path / "model_zoo" / name).write_text("x = 3\n")
    assert version() == first


def test_single_files_may_be_named(tmp_path, version):
    (tmp_path / "experiments" / "run.py").write_text("y = 1\n")
    first = version(("experiments/run.py",))
    (tmp_path / "experiments" / "a.py").write_text("x = 9\n")
    assert version(("experiments/run.py",)) == first
    (tmp_path / "experiments" / "run.py").write_text("y = 2\n")
    assert version(("experiments/run.py",)) != first


def test_this_checkout_and_its_libraries_are_read():
    assert (module.ROOT / "model_zoo" / "base.py").is_file() and len(code_version()) == 16
    versions = library_versions()
    assert versions["torch"][0].isdigit() and versions["transformers"][0].isdigit()
