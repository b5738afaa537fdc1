"""What was found out about a file is remembered until the file changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.vqa_files import picture, write_pope

import datamodules.base as base
from datamodules import load_datamodule
from datamodules.file_notes import look_at
from datamodules.rows import image_sha256, rows_fingerprint


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TVP_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that a fingerprint decodes."""
    names, decode = [], base.decode_image
    monkeypatch.setattr(base, "decode_image", lambda file: names.append(Path(file).name) or decode(file))
    return names


def test_a_picture_with_many_questions_is_decoded_once_and_then_remembered(tmp_path: Path, decoded: list[str]) -> None:
    kwargs = write_pope(tmp_path)
    first = load_datamodule("pope", **kwargs).fingerprint("train")
    assert len(decoded) == len(set(decoded)) < load_datamodule("pope", **kwargs).n("train")
    decoded.clear()
    assert load_datamodule("pope", **kwargs).fingerprint("train") == first
    assert decoded == []


def test_a_changed_picture_changes_the_fingerprint(tmp_path: Path, decoded: list[str]) -> None:
    kwargs = write_pope(tmp_path)
    data = load_datamodule("pope", **kwargs)
    first, file = data.fingerprint("test"), data.stored_path("test", 0)
    decoded.clear()
    picture(file.with_name("other.png"))
    file.write_bytes(file.with_name("other.png").read_bytes())
    assert load_datamodule("pope", **kwargs).fingerprint("test") != first
    assert decoded == [file.name]


def test_the_fingerprint_is_that_of_every_original(tmp_path: Path) -> None:
    data = load_datamodule("pope", **write_pope(tmp_path))
    plain = ((row, image_sha256(data.original("val", i))) for i, row in enumerate(data.rows("val")))
    assert data.fingerprint("val") == rows_fingerprint(plain, data.candidates)


def test_a_finding_not_worth_a_note_is_asked_for_again(tmp_path: Path) -> None:
    file, asked = tmp_path / "a", []
    file.write_bytes(b"x")

    def find(path: Path) -> str:
        asked.append(path)
        return "broken" if len(asked) < 3 else ""

    for expected in ("broken", "broken", "", ""):
        assert look_at([file], "kind", find, keep=lambda finding: not finding) == {file: expected}
    assert len(asked) == 3


def test_a_damaged_store_and_a_full_disk_cost_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a"
    torch.save({}, file)
    assert look_at([file], "kind", lambda path: "1", keep=bool) == {file: "1"}
    (store,) = (tmp_path / "cache" / "images").iterdir()
    store.write_text("{")
    assert look_at([file], "kind", lambda path: "2", keep=bool) == {file: "2"}
    monkeypatch.setenv("TVP_CACHE", str(file / "no folder"))
    assert look_at([file], "kind", lambda path: "3", keep=bool) == {file: "3"}
