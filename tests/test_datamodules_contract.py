"""One contract for all published data sets and the two generic ones, on fixtures in their true on-disk formats."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from support import data_files, vqa_files

from datamodules import load_datamodule
from datamodules.rows import image_sha256
from datamodules.splits import SPLITS

TEN = ("cifar10", "cifar100", "imagenette", "svhn", "eurosat", "oxford_pets", "dtd", "clevr", "hateful_memes", "pope")
TASKS = {"clevr": "counting", "hateful_memes": "reasoning", "pope": "hallucination", "vqa_jsonl": "recognition"}
ROOT = Path(__file__).resolve().parents[1]
SIZE = 12


def write_imagefolder(root: Path) -> dict:
    for name in ("red_fox", "owl", "newt"):
        for i in range(12):
            image = data_files.picture(f"{name}{i}", 20 + i, 26)
            data_files.save(image, root / name / f"{i}.jpg")
    return {"root": str(root)}


def write(name: str, root: Path) -> dict:
    """Write the fixture of a data set; returns the constructor's arguments."""
    root.mkdir(parents=True, exist_ok=True)
    if name == "imagefolder":
        return write_imagefolder(root)
    module = vqa_files if name in TASKS else data_files
    return getattr(module, f"write_{name}")(root)


@pytest.fixture(scope="module", params=(*TEN, "fashion_mnist", "imagefolder", "vqa_jsonl"))
def written(request: pytest.FixtureRequest, tree_of) -> tuple[str, dict]:
    return request.param, tree_of(request.param)


@pytest.fixture(scope="module")
def tree_of(tmp_path_factory: pytest.TempPathFactory):
    """name -> the constructor's arguments of its fixture, which is written once."""
    return cache(lambda name: write(name, tmp_path_factory.mktemp(name)))


def load(written: tuple[str, dict], **options):
    name, kwargs = written
    return load_datamodule(name, **{"image_size": SIZE, "batch_size": 4, "eval_batch_size": 7, **kwargs, **options})


def same(one, other) -> bool:
    """Whether two batches are equal, pictures bit for bit."""
    return torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels) and one[2:] == other[2:]


def test_batches_hold_rgb_pictures_between_0_and_1(written) -> None:
    data = load(written)
    for loader in (data.train_dataloader(), data.loader("val"), data.loader("test")):
        batch = next(iter(loader))
        assert batch.images.shape[1:] == (3, SIZE, SIZE) and batch.images.dtype == torch.float32
        assert batch.images.min() >= 0 and batch.images.max() <= 1 and batch.images.std() > 0.01
        assert batch.labels.dtype == torch.int64
        assert {len(field) for field in batch[:7]} == {len(batch.ids)}


def test_labels_answers_candidates_and_texts_belong_together(written) -> None:
    data = load(written)
    assert data.name == written[0] and data.task == TASKS.get(written[0], "recognition")
    for split in SPLITS:
        for row in data.rows(split):
            candidates = row.candidates or data.candidates
            assert candidates[row.label] == row.answer and len(set(candidates)) == len(candidates) >= 2
            assert row.question.strip() and (row.caption.strip() or written[0] == "vqa_jsonl" or split != "train")
            assert "_" not in row.answer


def test_candidates_do_not_depend_on_the_split(written) -> None:
    data = load(written)
    lists = {split: {tuple(row.candidates or data.candidates) for row in data.rows(split)} for split in SPLITS}
    assert lists["train"] >= lists["val"] and lists["train"] >= lists["test"]


def test_no_picture_is_in_two_splits(written) -> None:
    data = load(written)
    pictures = {s: {image_sha256(data.original(s, i)) for i in range(data.n(s))} for s in SPLITS}
    assert all(pictures.values())
    assert not pictures["train"] & pictures["val"]
    assert not (pictures["train"] | pictures["val"]) & pictures["test"]


def test_a_seed_fixes_everything_and_another_changes_what_it_should(written) -> None:
    data, again, other = load(written), load(written), load(written, seed=7)
    pairs = zip(data.train_dataloader(), again.train_dataloader(), strict=True)
    assert all(same(one, two) for one, two in pairs)
    order = [[row_id for batch in d.train_dataloader() for row_id in batch.ids] for d in (data, other)]
    assert order[0] != order[1] and set(order[0]) == set(order[1])
    assert data.rows("val") == other.rows("val")
    held = load(written, split_seed=7)
    assert {row.id for row in held.rows("test")} or written[0] in ("eurosat", "imagefolder", "vqa_jsonl")


@pytest.mark.parametrize("written", ["cifar10", "dtd", "pope"], indirect=True)  # arrays, files, questions
def test_workers_read_the_same_batches(written) -> None:
    alone, two = load(written), load(written, workers=2)
    assert all(same(a, b) for a, b in zip(alone.loader("test"), two.loader("test"), strict=True))
    assert all(same(a, b) for a, b in zip(alone.train_dataloader(), two.train_dataloader(), strict=True))


def test_the_last_batch_may_be_odd_and_no_row_is_lost(written) -> None:
    data = load(written)
    sizes = [len(batch.ids) for batch in data.loader("test", n=data.n("test") - (data.n("test") % 7 == 0))]
    assert 0 < sizes[-1] < 7 and set(sizes[:-1]) <= {7}
    ids = [row_id for batch in data.loader("test") for row_id in batch.ids]
    assert ids == [row.id for row in data.rows("test")]


def test_two_ranks_see_every_sample_once(written) -> None:
    data = load(written)
    parts = [[i for batch in data.loader("test", shard=(rank, 2)) for i in batch.ids] for rank in range(2)]
    assert sorted(parts[0] + parts[1]) == sorted(row.id for row in data.rows("test"))
    assert not set(parts[0]) & set(parts[1])


def test_official_validation_is_drawn_from_test_and_says_so(written) -> None:
    data = load(written, val="official")
    assert data.val == "official"
    try:
        rows = data.rows("val")
    except ValueError as error:  # 5 % of each class of a tiny fixture may be no row
        assert "is no row" in str(error)
    else:
        assert {row.id for row in rows} <= {row.id for row in data.rows("test")}


def test_other_processes_and_hash_seeds_see_the_same_rows(tree_of) -> None:
    names = (*TEN, "imagefolder", "vqa_jsonl")
    cases = [(name, tree_of(name)) for name in names]
    code = (
        "import json, sys; from datamodules import load_datamodule\n"
        "print(json.dumps({n: [load_datamodule(n, **k).fingerprint(s) for s in ('train', 'val', 'test')]"
        " for n, k in json.loads(sys.argv[1])}))"
    )
    command = [sys.executable, "-c", code, json.dumps(cases)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={"PYTHONHASHSEED": "3", "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    mine = {name: [load_datamodule(name, **kwargs).fingerprint(split) for split in SPLITS] for name, kwargs in cases}
    assert json.loads(done.stdout) == mine
    assert len({digest for digests in mine.values() for digest in digests}) == 3 * len(names)
