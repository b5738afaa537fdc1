"""The COCO pictures of POPE: the needed ones, whole, once, and the same as the first time."""

from __future__ import annotations

import io
import json
import shutil

import pytest
from PIL import Image
from support.command_line import run

import datamodules.prepare.coco_images as coco_images
from datamodules.prepare.catalogue import PUBLISHED
from datamodules.prepare.catalogue_entry import PublishedData
from datamodules.registry import DATAMODULES

pytest_plugins = ["support.data_server"]


def jpeg(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def pope(tmp_path, mirror, monkeypatch):
    """A root with POPE's questions about five pictures of each COCO part, which `mirror` has."""
    root = tmp_path / "data"
    (root / "pope").mkdir(parents=True)
    for part, stem in coco_images.QUESTIONS.items():
        pictures = [f"COCO_{part}_{i:012d}.jpg" for i in range(5)]
        lines = [{"image": name, "text": "Is there a dog in the image?", "label": "no"} for name in pictures]
        for kind in coco_images.TYPES:
            (root / "pope" / f"{stem}_{kind}.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
        mirror.files |= {f"{part}/{name}": jpeg(40 * i) for i, name in enumerate(pictures)}
    monkeypatch.setattr(coco_images, "COCO", mirror.url)
    published = PublishedData("hallucination", "", "", "", (), coco_images=True)
    monkeypatch.setitem(PUBLISHED, "pope", published)
    monkeypatch.delitem(DATAMODULES, "pope", raising=False)
    return root


def test_only_the_pictures_asked_about_are_fetched_and_none_twice(pope, mirror, capsys):
    mirror.files["val2014/COCO_val2014_000000000099.jpg"] = jpeg(9)
    assert "MISSING  coco/train2014: the pictures" in run(capsys, "verify", "pope", f"root={pope}", code=1)
    run(capsys, "prepare", "pope", f"root={pope}")
    assert len(mirror.requests) == 10 and len(list((pope / "coco").rglob("*.jpg"))) == 10
    run(capsys, "verify", "pope", f"root={pope}")
    (pope / "coco/val2014/COCO_val2014_000000000003.jpg").unlink()
    assert "MISSING  coco/val2014: 1 of 5 files" in run(capsys, "verify", "pope", f"root={pope}", code=1)
    assert "coco/val2014: 5 pictures, 1 of them new" in run(capsys, "prepare", "pope", f"root={pope}")
    assert len(mirror.requests) == 11


def test_a_picture_that_fails_is_named_and_the_others_are_kept(pope, mirror, capsys):
    bad = "COCO_val2014_000000000002.jpg"
    mirror.files[f"val2014/{bad}"] = jpeg(1)[:-40]
    said = run(capsys, "prepare", "pope", f"root={pope}", code=2)
    assert "1 or more of 5 COCO pictures could not be fetched" in said and bad in said
    assert "is no complete picture" in said and "from=DIR" in said
    assert len(list((pope / "coco/val2014").iterdir())) == 4


def test_a_picture_that_is_another_than_the_first_time_is_refused(pope, mirror, capsys):
    run(capsys, "prepare", "pope", f"root={pope}")
    name = "val2014/COCO_val2014_000000000003.jpg"
    (pope / "coco" / name).unlink()
    mirror.files[name] = jpeg(255)
    assert "is another picture than the first copy" in run(capsys, "prepare", "pope", f"root={pope}", code=2)
    (pope / "coco" / name).write_bytes(jpeg(255))
    assert "is another picture than the first copy" in run(capsys, "prepare", "pope", f"root={pope}", code=2)


@pytest.mark.parametrize("form", ["folders", "zips"])
def test_pictures_come_from_a_local_copy_too(form, pope, mirror, tmp_path, capsys):
    source = tmp_path / "coco_copy"
    for name, data in (mirror.files | {"val2014/other.jpg": b"x"}).items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
    if form == "zips":
        for part in coco_images.QUESTIONS:
            shutil.make_archive(str(source / part), "zip", source, part)
            shutil.rmtree(source / part)
    run(capsys, "prepare", "pope", f"root={pope}", f"from={source}")
    assert mirror.requests == [] and len(list((pope / "coco").rglob("*.jpg"))) == 10


def test_a_local_copy_that_lacks_pictures_is_named(pope, tmp_path, capsys):
    (tmp_path / "coco_copy" / "val2014").mkdir(parents=True)
    said = run(capsys, "prepare", "pope", f"root={pope}", f"from={tmp_path / 'coco_copy'}", code=2)
    assert "lacks 5 of 5 COCO pictures, for example val2014/COCO_val2014_000000000000.jpg" in said


def test_a_question_that_names_no_coco_picture_is_refused(pope, capsys):
    path = pope / "pope/coco_pope_random.json"
    path.write_text(path.read_text() + '{"image": "../../evil.jpg"}\n')
    said = run(capsys, "prepare", "pope", f"root={pope}", code=2)
    assert "coco_pope_random.json' line 6 names no COCO picture" in said


def test_a_picture_that_was_cut_is_got_again(pope, mirror, capsys):
    """Recorded or put there by hand: what is no whole picture is never what later ones are held to."""
    for when in ("before", "after"):
        path = pope / "coco/val2014/COCO_val2014_000000000003.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(120)[:-40])
        if when == "after":
            assert "WRONG    coco/val2014: 1 of 5" in run(capsys, "verify", "pope", f"root={pope}", code=1)
        run(capsys, "prepare", "pope", f"root={pope}")
        run(capsys, "verify", "pope", f"root={pope}")


def test_questions_as_one_array_ask_for_the_same_pictures(pope):
    wanted = coco_images.needed_images(pope, "val2014")
    for path in (pope / "pope").glob("coco_pope_*.json"):
        path.write_text(json.dumps([json.loads(line) for line in path.read_text().splitlines()], indent=1))
    assert coco_images.needed_images(pope, "val2014") == wanted
