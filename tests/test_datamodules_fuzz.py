"""Folders and files as users have them: the right rows, or one message that names the file; nothing left out unsaid."""

import json
import re
import tempfile
import unicodedata
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from datamodules import load_datamodule
from datamodules.folder_scan import is_tool_file
from datamodules.imagefolder import split_word
from datamodules.images import ENDINGS
from datamodules.rows import same_words
from datamodules.text_files import read_jsonl

SLOW = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
CLASSES = st.sampled_from(
    ["cat", "dog", "hot_dog", "hot dog", "Cat", "café", "cafe\u0301", "@eaDir", "__MACOSX", ".cache", "#"]
)
SPLIT_NAMES = st.sampled_from(["", "train", "valid", "test", "Training", "test_set", "extra", "labels"])
STEMS = st.sampled_from(["a", "b", "._a", "A", "über", "x y", "Thumbs", "a~", "#a#"])
SUFFIXES = st.sampled_from([".png", ".PNG", ".jfif", ".avif", ".txt", ".heic", ".png.bak", ".db", ""])
FILES = st.lists(st.tuples(SPLIT_NAMES, CLASSES, STEMS, SUFFIXES), min_size=1, max_size=25, unique=True)
# Half of the trees begin as good ones, so that more than refusals is tried.
GOOD_TREES = st.sampled_from(
    [[]]
    + [[(s, c, "p", ".png") for s in splits for c in ("cat", "dog")] for splits in ([""], ["train"], ["train", "test"])]
)


def picture(path: Path) -> None:
    kind = {".avif": "AVIF", ".jfif": "JPEG"}.get(path.suffix.lower(), "PNG")
    Image.new("RGB", (4, 4), (len(path.name), 0, 0)).save(path, kind)


def is_seen(path: Path, root: Path) -> bool:
    return not any(is_tool_file(part) for part in path.relative_to(root).parts)


@SLOW
@given(files=FILES, good=GOOD_TREES)
def test_every_tree_gives_all_its_pictures_once_or_one_message(files, good):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for split, name, stem, suffix in [*good, *files[: 3 if good else 25]]:
            for i in range(6):  # enough of each to be split
                path = root / split / name / f"{stem}{i if i else ''}{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                picture(path)
        there = {path for path in root.rglob("*") if path.is_file() and is_seen(path, root)}
        pictures = {path for path in there if path.suffix.lower() in ENDINGS}
        data = load_datamodule("imagefolder", root=folder, image_size=4)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                rows = [row for split in ("train", "val", "test") for row in data.rows(split)]
            except ValueError as error:
                assert folder in str(error) or re.search(r"class '.*'", str(error)), "the message names the place"
                return
        assert len({row.id for row in rows}) == len(rows), "nothing is counted twice"
        assert {root / row.id for row in rows} == pictures, "no picture is left out"
        for row in rows:
            parts = Path(row.id).parts
            of_class = parts[1] if split_word(parts[0]) else parts[0]
            assert same_words(row.answer) == same_words(of_class)
            assert data.candidates[row.label] == row.answer
        words = " ".join(str(warning.message) for warning in said)
        for ending in {path.suffix.lower() or "no ending" for path in there - pictures}:
            count = sum((path.suffix.lower() or "no ending") == ending for path in there - pictures)
            assert f"{count} x {ending}: " in words, "what is left out is counted and named"


TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=6)
VALUES = st.one_of(TEXT, st.integers(), st.floats(), st.booleans(), st.none(), st.lists(TEXT, max_size=3))
ANSWERS = st.sampled_from(["cat", "dog", " cat", "owl"])
GOOD = st.fixed_dictionaries(
    {
        "image": st.sampled_from(["a.png", "b.png", "é.png"]),
        "question": TEXT,
        "answer": st.sampled_from(["cat", "dog", " cat", "Dog"]),
    },
    optional={"id": st.one_of(TEXT, st.integers(0, 3), st.sampled_from([1.0, 2.0])), "group": TEXT},
)
ODD = st.fixed_dictionaries(
    {}, optional={key: VALUES for key in ("image", "question", "answer", "id", "candidates", "odd")}
)
ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1", "utf-32"])


def dumped(lines: list, array: bool) -> str:
    rows = [json.dumps(line, ensure_ascii=False) for line in lines]
    return "[" + ",\n".join(rows) + "]" if array else "\n".join(rows)


@SLOW
@given(
    lines=st.lists(st.one_of(GOOD, GOOD, GOOD, ODD), min_size=1, max_size=12), encoding=ENCODINGS, array=st.booleans()
)
def test_every_file_of_questions_gives_all_its_rows_or_a_message_naming_file_and_line(lines, encoding, array):
    text = dumped(lines, array)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "data.jsonl")
        path.write_bytes(text.encode(encoding, errors="replace"))
        data = load_datamodule("vqa_jsonl", root=folder, image_size=4, split_seed=1)
        try:
            read = data._all["data.jsonl"]
            known = data.candidates
        except ValueError as error:
            assert folder in str(error) and re.search(r"line \d+|item \d+|not JSON|candidates", str(error))
            return
        assert [line["line"] for line in read] == list(range(1, len(lines) + 1)), "every row, once, in order"
        assert [line["answer"] for line in read] == [line["answer"].strip() for line in lines]
        assert known is None or len({same_words(word) for word in known}) == len(known)


@SLOW
@given(lines=st.lists(st.dictionaries(TEXT, VALUES, max_size=3), min_size=1, max_size=6), encoding=ENCODINGS)
def test_every_encoding_gives_the_same_objects_or_names_the_file(lines, encoding):
    text = "\r\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "data.jsonl")
        try:
            data = text.encode(encoding)
        except UnicodeEncodeError:
            return
        path.write_bytes(data)
        try:
            read = read_jsonl(path)
        except ValueError as error:
            assert str(path) in str(error) and encoding == "latin-1"
            return
        for line, given_line in zip(read, lines, strict=True):
            del line["line"]
            assert (
                repr(line) == repr({k: v for k, v in given_line.items() if k != "line"} | {}) or encoding == "latin-1"
            )


@pytest.mark.parametrize("name", ["train.jsonl", "é.jsonl"])
def test_a_cut_file_is_named(name, tmp_path):
    path = tmp_path / unicodedata.normalize("NFC", name)
    path.write_text('{"image": "a.png", "question": "?", "answer": "cat"}\n{"image": "b.p')
    with pytest.raises(ValueError, match=rf"{path.name}' line 2 is not JSON"):
        read_jsonl(path)
