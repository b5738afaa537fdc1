"""A data set is read from wherever its publisher's archive, Kaggle or the hub put it; its rows stay the same."""

import json
import shutil

import pytest
from support import data_files, vqa_files

from datamodules import load_datamodule
from datamodules.places import find_folder
from datamodules.text_files import read_jsonl

OTHER_PLACES = [
    ("cifar10", "cifar-10-batches-py", "cifar-10-batches-py/cifar-10-batches-py"),
    ("cifar10", "cifar-10-batches-py", "cifar-10-python/cifar-10-batches-py"),
    ("cifar10", "cifar-10-batches-py", "cifar10"),
    ("cifar100", "cifar-100-python", "cifar100/cifar-100-python"),
    ("imagenette", "imagenette2", "imagenette2/imagenette2"),
    ("imagenette", "imagenette2", "imagenette/imagenette2"),
    ("svhn", "svhn", "SVHN"),
    ("svhn", "svhn", "svhn/archive"),
    ("fashion_mnist", "fashion-mnist", "FashionMNIST/raw"),
    ("fashion_mnist", "fashion-mnist", "fashion_mnist"),
    ("eurosat", "eurosat/2750", "EuroSAT_RGB"),
    ("eurosat", "eurosat/2750", "eurosat/EuroSAT_RGB"),
    ("eurosat", "eurosat/2750", "EuroSAT"),
    ("eurosat", "eurosat/2750", "EuroSAT/2750"),
    ("eurosat", "eurosat/2750", "EuroSAT_RGB/EuroSAT_RGB"),
    ("oxford_pets", "oxford-iiit-pet", "oxford-iiit-pet/oxford-iiit-pet"),
    ("oxford_pets", "oxford-iiit-pet", "Oxford-Pets"),
    ("dtd", "dtd/dtd", "dtd"),
    ("dtd", "dtd/dtd", "dtd-r1.0.1/dtd"),
    ("clevr", "CLEVR_v1.0", "CLEVR_v1.0/CLEVR_v1.0"),
    ("clevr", "CLEVR_v1.0", "clevr"),
    ("hateful_memes", "hateful_memes", "hateful_memes/data"),
    ("hateful_memes", "hateful_memes", "data"),
    ("pope", "coco/val2014", "val2014"),
    ("pope", "coco/val2014", "coco/val2014/val2014"),
    ("pope", "coco/val2014", "coco/images/val2014"),
    ("pope", "pope", "POPE/output/coco"),
]


def written(name, root):
    writer = getattr(data_files, f"write_{name}", None) or getattr(vqa_files, f"write_{name}")
    return writer(root)


@pytest.mark.parametrize(("name", "old", "new"), OTHER_PLACES, ids=[f"{n}-{new}" for n, _, new in OTHER_PLACES])
def test_a_copy_in_another_folder_has_the_same_rows_and_pictures(name, old, new, tmp_path):
    kwargs = written(name, tmp_path)
    usual = load_datamodule(name, **kwargs)
    expected = usual.rows("test"), usual.original("test", 0).tolist()
    shutil.move(tmp_path / old, tmp_path / "aside")
    if old in ("eurosat/2750", "dtd/dtd"):
        (tmp_path / old).parent.rmdir()
    (tmp_path / new).parent.mkdir(parents=True, exist_ok=True)
    shutil.move(tmp_path / "aside", tmp_path / new)
    moved = load_datamodule(name, **kwargs)
    assert moved.missing() == []
    assert (moved.rows("test"), moved.original("test", 0).tolist()) == expected


@pytest.mark.parametrize("name", ["cifar10", "svhn", "eurosat", "oxford_pets", "dtd", "clevr", "hateful_memes"])
def test_the_root_may_be_the_data_set_itself(name, tmp_path):
    kwargs = written(name, tmp_path)
    usual = load_datamodule(name, **kwargs)
    inner = {"cifar10": "cifar-10-batches-py", "eurosat": "eurosat/2750", "dtd": "dtd/dtd", "clevr": "CLEVR_v1.0"}
    root = tmp_path / (inner | {"oxford_pets": "oxford-iiit-pet"}).get(name, name)
    moved = load_datamodule(name, **kwargs | {"root": str(root)})
    assert moved.rows("train") == usual.rows("train")
    assert moved.original("train", 0).equal(usual.original("train", 0))


def test_pets_packed_twice_are_found(tmp_path):
    kwargs = data_files.write_oxford_pets(tmp_path)
    expected = load_datamodule("oxford_pets", **kwargs).rows("test")
    for part in ("images", "annotations"):
        folder = tmp_path / "oxford-iiit-pet" / part
        folder.rename(tmp_path / "aside")
        folder.mkdir()
        (tmp_path / "aside").rename(folder / part)
    data = load_datamodule("oxford_pets", **kwargs)
    assert data.missing() == [] and data.rows("test") == expected and data.original("test", 0).ndim == 3


def test_a_hub_copy_under_its_repositorys_name_is_found(tmp_path):
    kwargs, _ = data_files.write_eurosat_parquet(tmp_path / "hub", tmp_path / "files")
    expected = load_datamodule("eurosat", **kwargs).rows("test")
    (tmp_path / "hub" / "eurosat").rename(tmp_path / "hub" / "EuroSAT_RGB")
    assert load_datamodule("eurosat", **kwargs).rows("test") == expected


def test_two_copies_in_one_folder_are_refused_and_both_named(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "SVHN" / name).mkdir(parents=True)
        (tmp_path / "SVHN" / name / "train_32x32.mat").touch()
    with pytest.raises(ValueError, match="holds the same data set twice, in 'a' and 'b'"):
        find_folder(tmp_path, ("svhn",), "train_32x32.mat")


def test_the_13_bands_of_eurosat_are_not_taken_for_its_pictures(tmp_path):
    (tmp_path / "EuroSAT_MS" / "AnnualCrop").mkdir(parents=True)
    (tmp_path / "EuroSAT_MS" / "AnnualCrop" / "AnnualCrop_1.tif").touch()
    assert "eurosat/2750" in load_datamodule("eurosat", root=str(tmp_path)).missing()[0]


# ---- JSON lines or an array -----------------------------------------------------------------------------------------
def as_array(path, to=None, indent=None):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.unlink()
    (to or path).write_text(json.dumps(rows, indent=indent))


@pytest.mark.parametrize("indent", [None, 2])
def test_pope_as_one_array_has_the_rows_of_its_lines(indent, tmp_path):
    kwargs = vqa_files.write_pope(tmp_path)
    (tmp_path / "pope" / "train_manifest.json").unlink()  # it holds the digest of the lines
    expected = {split: load_datamodule("pope", **kwargs).rows(split) for split in ("train", "test")}
    for path in (tmp_path / "pope").glob("*.json"):
        as_array(path, indent=indent)
    data = load_datamodule("pope", **kwargs)
    assert {split: data.rows(split) for split in expected} == expected


@pytest.mark.parametrize("ending", ["jsonl", "json"])
@pytest.mark.parametrize("files", [("data",), ("train", "test"), ("train", "val", "test")])
def test_ones_own_questions_may_be_an_array_under_either_ending(files, ending, tmp_path):
    kwargs = vqa_files.write_vqa_jsonl(tmp_path, files=files)
    expected = load_datamodule("vqa_jsonl", **kwargs).rows("test")
    for path in tmp_path.glob("*.jsonl"):
        as_array(path, to=path.with_suffix(f".{ending}"))
    assert load_datamodule("vqa_jsonl", **kwargs).rows("test") == expected


def test_lines_may_end_in_json(tmp_path):
    kwargs = vqa_files.write_vqa_jsonl(tmp_path, files=("train", "test"))
    expected = load_datamodule("vqa_jsonl", **kwargs).rows("train")
    for path in tmp_path.glob("*.jsonl"):
        path.rename(path.with_suffix(".json"))
    assert load_datamodule("vqa_jsonl", **kwargs).rows("train") == expected


def test_memes_may_be_an_array(tmp_path):
    kwargs = vqa_files.write_hateful_memes(tmp_path)
    expected = load_datamodule("hateful_memes", **kwargs).rows("test")
    as_array(tmp_path / "hateful_memes" / "dev_seen.jsonl")
    assert load_datamodule("hateful_memes", **kwargs).rows("test") == expected


def test_both_forms_of_one_split_are_refused(tmp_path):
    kwargs = vqa_files.write_vqa_jsonl(tmp_path, files=("train", "test"))
    (tmp_path / "train.json").write_text("[]")
    with pytest.raises(ValueError, match=r"two files of the split 'train': 'train.json' and 'train.jsonl'"):
        load_datamodule("vqa_jsonl", **kwargs).rows("train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1}, 3]', "item 2 is a int. Expected an object"),
        ('[{"a": 1},', "is not JSON"),
        ('{\n "questions": [{"a": 1}],\n "version": 1\n}', "one JSON object over several lines"),
        ('{\n "questions": [{"a": 1}],\n "version": 1\n}', "Its lists are under 'questions': save one of them alone"),
        ('{"a": 1}\n{"a": ', "line 2 is not JSON"),
    ],
)
def test_what_is_neither_lines_nor_an_array_is_named(text, message, tmp_path):
    (tmp_path / "x.jsonl").write_text(text)
    with pytest.raises(ValueError, match=r"x\.jsonl") as caught:
        read_jsonl(tmp_path / "x.jsonl")
    assert message in str(caught.value)


def test_info_that_is_no_object_is_named(tmp_path):
    kwargs = vqa_files.write_vqa_jsonl(tmp_path)
    (tmp_path / "info.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"info\.json' is a list\. Expected an object with task and candidates"):
        load_datamodule("vqa_jsonl", **kwargs)


def test_questions_and_memes_may_have_the_other_ending(tmp_path):
    pope, memes = vqa_files.write_pope(tmp_path / "a"), vqa_files.write_hateful_memes(tmp_path / "b")
    expected = load_datamodule("pope", **pope).rows("test"), load_datamodule("hateful_memes", **memes).rows("train")
    for path in (tmp_path / "a" / "pope").glob("coco_pope_*.json"):
        path.rename(path.with_suffix(".jsonl"))
    for path in (tmp_path / "b" / "hateful_memes").glob("*.jsonl"):
        path.rename(path.with_suffix(".json"))
    found = load_datamodule("pope", **pope).rows("test"), load_datamodule("hateful_memes", **memes).rows("train")
    assert found == expected


def test_ones_own_questions_a_folder_deeper_are_pointed_at(tmp_path):
    vqa_files.write_vqa_jsonl(tmp_path / "mine")
    assert f"give data.root={tmp_path / 'mine'}" in load_datamodule("vqa_jsonl", root=str(tmp_path)).missing()[0]
