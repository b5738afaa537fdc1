"""Images that cannot be read: named and fatal by default, left out within a threshold, the same rows everywhere."""

import io
import json
import os

import numpy as np
import pytest
import torch
from PIL import Image
from support.vqa_files import picture, write_pope, write_vqa_jsonl
from test_datamodules_images import bomb, jpeg

import datamodules.unreadable_images as damaged
from datamodules import load_datamodule
from datamodules.unreadable_images import allowed_images, unreadable_files

COUNT = 20


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TVP_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path):
    """train/ and test/ of one's own questions, each about 20 pictures."""
    lines = [{"image": f"{i:02d}.png", "question": "which?", "answer": "ab"[i % 2]} for i in range(2 * COUNT)]
    for line in lines:
        picture(tmp_path / line["image"])
    for name, part in (("train", lines[:COUNT]), ("test", lines[COUNT:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in part))
    return tmp_path


def load(root, **kwargs):
    return load_datamodule("vqa_jsonl", root=str(root), image_size=8, eval_batch_size=4, **kwargs)


def ids(data, split="test"):
    return [row.id for row in data.rows(split)]


def stored(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


BROKEN = {"zero bytes": b"", "truncated JPEG": jpeg()[:2000], "text": b"no image", "bomb": bomb()}
RGB = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
EXIF = Image.Exif()
EXIF[0x0112] = 6
UNUSUAL = {
    "GIF called png": stored(RGB.convert("P"), "GIF"),
    "CMYK": stored(RGB.convert("CMYK"), "JPEG"),
    "16 bit": stored(Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100), "PNG"),
    "palette with alpha": stored(RGB.convert("P"), "PNG", transparency=0),
    "rotated by EXIF": stored(RGB, "JPEG", exif=EXIF),
}


@pytest.mark.parametrize("content", UNUSUAL.values(), ids=UNUSUAL.keys())
@pytest.mark.parametrize("max_corrupt", [0, 1])
def test_an_unusual_but_readable_file_is_used(content, max_corrupt, root):
    (root / "23.png").write_bytes(content)
    data = load(root, max_corrupt=max_corrupt)
    assert data.n("test") == COUNT and data.left_out("test") == []
    assert all(torch.isfinite(batch.images).all() for batch in data.loader("test"))


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_by_default_the_run_stops_and_names_the_image_in_training_and_scoring(content, root):
    data = load(root)
    for split in ("train", "val", "test"):
        path = data.image_path(split, data.n(split) - 1)
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"Cannot read image '.*{path.name}'"):
            data.fingerprint(split)
        with pytest.raises(ValueError, match=rf"Cannot read image '.*{path.name}'"):
            list(data.loader(split))
        assert data.left_out(split) == []
    with pytest.raises(ValueError, match=r"Cannot read image"):
        list(data.train_dataloader())


@pytest.mark.parametrize("content", [*BROKEN.values(), None], ids=[*BROKEN, "missing"])
def test_within_the_threshold_the_row_is_left_out_and_reported(content, root):
    (root / "23.png").unlink()
    if content is not None:
        (root / "23.png").write_bytes(content)
    data = load(root, max_corrupt=1)
    assert ids(data) == [f"test:{i + 1}" for i in range(COUNT) if i != 3]
    (gone,) = data.left_out("test")
    assert gone.id == "test:4" and "23.png" in gone.reason
    assert sum(len(batch.ids) for batch in data.loader("test")) == COUNT - 1
    assert data.fingerprint("test") != load(root, max_corrupt=2).fingerprint("test", 5)


def test_above_the_threshold_the_run_stops_and_names_every_image(root):
    for i in (21, 23, 30):
        (root / f"{i}.png").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"3 of 20 images of vqa_jsonl 'test' cannot be read\. Expected at most 2"
    ) as e:
        load(root, max_corrupt=2).rows("test")
    assert [line.split(":")[1] for line in str(e.value).splitlines()[1:]] == ["2", "4", "11"]
    assert load(root, max_corrupt=0.15).n("test") == 17
    with pytest.raises(ValueError, match="Expected at most 2"):
        load(root, max_corrupt=0.149).rows("test")
    for i in range(20, 40):
        (root / f"{i}.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"20 of 20 images .*\n(.*\n){10}  \.\.\. and 10 more"):
        load(root, max_corrupt=20).rows("test")


@pytest.mark.parametrize(("value", "total", "expected"), [(0, 9, 0), (3, 9, 3), (0.5, 9, 4), (2.0, 9, 2), (0.0, 9, 0)])
def test_the_threshold_is_a_number_or_a_fraction(value, total, expected):
    assert allowed_images(value, total) == expected


@pytest.mark.parametrize("value", [-1, 1.5, True, -0.1])
def test_another_threshold_is_refused(value, root):
    with pytest.raises(ValueError, match=r"Got max_corrupt=.*a whole number, or a fraction below 1"):
        load(root, max_corrupt=value)


def test_the_same_rows_are_left_out_in_every_view(root):
    (root / "23.png").write_bytes(b"")
    (root / "05.png").write_bytes(b"")
    data, again = load(root, max_corrupt=1, workers=1), load(root, max_corrupt=1)
    assert "train:6" not in ids(data, "train") + ids(data, "val")
    shards = [{i for batch in data.loader("test", shard=(rank, 2)) for i in batch.ids} for rank in (0, 1)]
    assert shards[0] | shards[1] == set(ids(again)) and not shards[0] & shards[1]
    assert ids(data.with_image_size(12)) == ids(again) and data.fingerprint("test") == again.fingerprint("test")
    assert [row.id for row in data.subset("test", 7)] == [row.id for row in again.subset("test", 7)]
    assert all("train:6" not in batch.ids for batch in data.train_dataloader())


def test_train_rows_are_chosen_first_and_the_reference_s_draw_stays(root):
    chosen = [row.id for row in load(root, n_train=6).rows("train")]
    (root / f"{int(chosen[2].split(':')[1]) - 1:02d}.png").write_bytes(b"")
    assert ids(load(root, n_train=6, max_corrupt=1), "train") == chosen[:2] + chosen[3:]


def test_an_image_of_many_questions_counts_once(tmp_path):
    data = load_datamodule("pope", image_size=8, max_corrupt=1, **write_pope(tmp_path))
    assert data.rows("test")
    next((tmp_path / "coco/val2014").glob("*.jpg")).unlink()
    data = load_datamodule("pope", image_size=8, max_corrupt=1, root=str(tmp_path), n_questions=24)
    assert data.n("test") == 72 - 18 and len(data.left_out("test")) == 18
    assert all("COCO_val2014_" in gone.reason for gone in data.left_out("test"))


def test_what_was_readable_is_not_decoded_again_until_it_changes(root, monkeypatch):
    files = [root / f"{i:02d}.png" for i in range(COUNT)]
    files[4].write_bytes(b"")
    looked = []
    original = damaged.decode_image
    monkeypatch.setattr(damaged, "decode_image", lambda file: looked.append(file.name) or original(file))
    assert list(unreadable_files(files)) == [files[4]] and len(looked) == COUNT
    looked.clear()
    assert list(unreadable_files(files)) == [files[4]] and looked == ["04.png"]
    looked.clear()
    picture(files[4])
    os.utime(files[7], ns=(1, 1))
    assert unreadable_files(files) == {} and sorted(looked) == ["04.png", "07.png"]
    (store,) = (root / "cache/images").iterdir()
    store.write_text(store.read_text()[:50])
    looked.clear()
    assert unreadable_files(files) == {} and len(looked) == COUNT


def test_a_cache_that_cannot_be_written_costs_time_only(root, monkeypatch):
    (root / "cache").write_text("a file")
    assert unreadable_files([root / "01.png"]) == {}


def test_images_that_are_no_files_of_their_own_are_covered(tmp_path):
    from support.toy_data import Toy

    class Damaged(Toy):
        def load_image(self, split, index):
            if index in (2, 5):
                raise ValueError(f"no picture {index}")
            return super().load_image(split, index)

    data = Damaged(max_corrupt=2)
    assert data.n("val") == 35 and [gone.id for gone in data.left_out("val")] == ["val-2", "val-5"]
    with pytest.raises(ValueError, match=r"2 of 37 images of toy 'val' .*\n  val-2: no picture 2\n  val-5"):
        Damaged(max_corrupt=1).rows("val")


def test_one_s_own_folder_and_a_single_file_have_it_too(tmp_path):
    write_vqa_jsonl(tmp_path)
    for k in "ab":
        for i in range(10):
            picture(tmp_path / "tree" / k / f"{k}{i}.png")
    data = load_datamodule("imagefolder", root=str(tmp_path / "tree"), image_size=8, max_corrupt=1)
    (tmp_path / "tree/a/a3.png").write_bytes(b"")
    left = [gone.id for split in ("train", "val", "test") for gone in data.left_out(split)]
    assert left == ["a/a3.png"]
