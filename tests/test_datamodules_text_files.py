"""Text in any editor's encoding: the same rows, or a message that names file and line and loses none."""

import json

import pytest

from datamodules.text_files import read_json, read_jsonl, read_lines, read_text, take_field

ROWS = [{"image": "a.jpg", "answer": "café"}, {"image": "b.jpg", "answer": "Übung\u2028zwei"}]
LINES = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_marked_encodings_and_line_endings_give_the_same_rows(encoding, ending, tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_bytes(LINES.replace("\n", ending).encode(encoding))
    assert read_jsonl(path) == [row | {"line": i} for i, row in enumerate(ROWS, 1)]


def test_one_array_is_read_as_lines_are(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps(ROWS, indent=2))
    assert read_jsonl(path) == [row | {"line": i} for i, row in enumerate(ROWS, 1)]
    path.write_text("[3]")
    with pytest.raises(ValueError, match=r"train.jsonl' item 1 is a int. Expected an object"):
        read_jsonl(path)


def test_another_encoding_names_file_line_and_word_and_loses_no_row(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_bytes(b'{"image": "a.jpg"}\n{"answer": "caf\xe9"}\n')
    for read in (read_text, read_lines, read_json, read_jsonl):
        with pytest.raises(ValueError, match=r"train.jsonl' line 2 is not UTF-8 \(byte 0xe9.*café.*no row need be"):
            read(path)


def test_unmarked_utf16_is_named(tmp_path):
    (tmp_path / "a.txt").write_bytes("one\ntwo".encode("utf-16-le"))
    with pytest.raises(ValueError, match=r"a.txt' holds NUL characters from line 1 on.*UTF-16"):
        read_text(tmp_path / "a.txt")


def test_a_key_that_stands_twice_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"answer": "cat"}\n{"answer": "cat", "answer": "dog"}\n')
    with pytest.raises(ValueError, match=r"a.jsonl' line 2 is not JSON: the key 'answer' stands twice"):
        read_jsonl(path)


@pytest.mark.parametrize(
    ("value", "kind", "got"), [(1.0, int, 1), (1.0, (int, str), 1), ("x", str, "x"), (1.5, float, 1.5)]
)
def test_whole_numbers_with_a_point_are_ints(value, kind, got, tmp_path):
    taken = take_field({"n": value, "line": 1}, "n", kind, tmp_path)
    assert taken == got and type(taken) is type(got)


@pytest.mark.parametrize("value", [1.5, float("nan"), float("inf"), True, None, "1", [1]])
def test_what_is_no_int_is_named(value, tmp_path):
    with pytest.raises(ValueError, match=r"line 7: 'n' is .*Expected int"):
        take_field({"n": value, "line": 7}, "n", int, tmp_path)
