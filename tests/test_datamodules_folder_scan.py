"""What a scan takes for data, and what it names when it does not."""

import os

import pytest

from datamodules.folder_scan import is_tool_file, scan, scan_files, warn_left_out


@pytest.mark.parametrize(
    "name",
    [
        *(
            ".DS_Store",
            "._cat.png",
            ".ipynb_checkpoints",
            "@eaDir",
            "__MACOSX",
            "Thumbs.db",
            "desktop.ini",
            "__pycache__",
        ),
        *("train.jsonl~", "train.jsonl.bak", "a.png.part", "~$notes.docx", "#train.jsonl#", "a.swp", "$RECYCLE.BIN"),
        *("@Recycle", "@__thumb", "lost+found", "System Volume Information", "cat.orig"),
    ],
)
def test_tool_and_hidden_files_are_no_data(name):
    assert is_tool_file(name)


@pytest.mark.parametrize(
    "name", ["cat", "@", "#", "~", "@home", "thumbs", "a.png", "old", "Train", "#1", "__init__.py"]
)
def test_what_people_name_is_data(name):
    assert not is_tool_file(name)


def test_linked_folders_are_followed_once_and_dangling_links_named(tmp_path):
    (tmp_path / "data" / "cat").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.png").touch()
    (tmp_path / "data" / "cat" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "cat" / "loop").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "cat" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    found = [path.relative_to(tmp_path / "data").as_posix() for path in scan_files(tmp_path / "data")]
    assert found == ["cat/gone.png", "cat/linked/b.png"]


def test_a_name_that_is_not_utf8_is_named_with_what_to_do(tmp_path):
    with open(os.fsencode(tmp_path) + b"/caf\xe9.png", "wb"):
        pass
    with pytest.raises(ValueError, match=r"not UTF-8: b'caf\\xe9.png' \(as Latin-1 'café.png'\)\. .*convmv"):
        scan(tmp_path)


def test_what_is_left_out_is_counted_by_ending(tmp_path):
    files = [tmp_path / f"{i}.HEIC" for i in range(5)] + [tmp_path / "README"]
    with pytest.warns(UserWarning, match=r"no pictures:\n  5 x .heic: '0.HEIC', '1.HEIC', .*\n  1 x no ending"):
        warn_left_out("no pictures", files, tmp_path)
    warn_left_out("no pictures", [], tmp_path)
