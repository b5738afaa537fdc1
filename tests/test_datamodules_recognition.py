"""The eight recognition sets and CIFAR-10-C in their true on-disk formats."""

import hashlib
from collections import Counter
from pathlib import Path

import pytest
import torch
import torchvision
from scipy.io import savemat
from support import data_files
from support.cifar_files import python2_pickle

from datamodules import load_datamodule
from datamodules.cifar100 import MD5 as CIFAR100_MD5
from datamodules.svhn import MD5 as SVHN_MD5
from datamodules.svhn import read_mat

NAMES = ("cifar10", "cifar100", "svhn", "fashion_mnist", "imagenette", "eurosat", "oxford_pets", "dtd", "cifar10c")
TREES = ("imagenette", "eurosat", "oxford_pets", "dtd")
CLASSES = {"cifar10": 10, "cifar100": 100, "svhn": 10, "imagenette": 10, "eurosat": 10, "oxford_pets": 37, "dtd": 47}
SIZES = {
    "cifar10": (180, 20, 200),
    "cifar100": (900, 100, 200),
    "svhn": (110, 10, 50),
    "fashion_mnist": (180, 20, 50),
    "imagenette": (90, 10, 30),
    "eurosat": (80, 10, 10),
    "oxford_pets": (333, 37, 74),
    "dtd": (188, 94, 94),
    "cifar10c": (180, 20, 200),
}
PUBLISHED = {
    "cifar10": {"train": 50_000, "test": 10_000},
    "cifar100": {"train": 50_000, "test": 10_000},
    "svhn": {"train": 73_257, "test": 26_032},
    "fashion_mnist": {"train": 60_000, "test": 10_000},
    "imagenette": {"train": 9_469, "val": 3_925},
    "eurosat": {"all": 27_000},
    "oxford_pets": {"trainval": 3_680, "test": 3_669},
    "dtd": {"train": 1_880, "val": 1_880, "test": 1_880},
}
SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    made = {}

    def write(name):
        if name not in made:
            made[name] = getattr(data_files, f"write_{name}")(tmp_path_factory.mktemp(name))
        return made[name]

    return write


def load(name, kwargs, **more):
    return load_datamodule(name, **({"image_size": 24} | kwargs | more))


@pytest.mark.parametrize("name", NAMES)
def test_splits_have_the_sizes_of_the_rule_and_share_no_picture(name, written):
    data = load(name, written(name))
    assert tuple(data.n(split) for split in SPLITS) == SIZES[name]
    pictures = Counter(
        hashlib.sha256(data.content(*at)).digest() for split in SPLITS for at in data._table(split).sources
    )
    assert max(pictures.values()) == 1
    ids = [row.id for split in SPLITS for row in data.rows(split)]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("eurosat", "dtd")])
def test_val_is_the_first_tenth_of_each_class_of_train_by_hash(name, written):
    data = load(name, written(name))
    held, pool = {row.id for row in data.rows("val")}, data.rows("train") + data.rows("val")
    for label in {row.label for row in pool}:
        ids = sorted(
            (row.id for row in pool if row.label == label), key=lambda i: hashlib.sha256(f"42:{i}".encode()).hexdigest()
        )
        k = int(0.1 * len(ids) + 0.5)
        assert set(ids[:k]) == held & set(ids) and k >= 1


@pytest.mark.parametrize("name", NAMES)
def test_labels_answers_captions_and_candidates_agree(name, written):
    data = load(name, written(name))
    assert len(data.candidates) == len(set(data.candidates)) == CLASSES.get(name, 10)
    for split in SPLITS:
        assert {row.label for row in data.rows(split)} == set(range(len(data.candidates)))
        for row in data.rows(split):
            assert row.answer == data.candidates[row.label] and row.question == "This is a photo of a"
            assert row.caption == f"this is a photo of a {row.answer}" and row.candidates is None


@pytest.mark.parametrize("name", NAMES)
def test_batches_are_rgb_in_range_and_the_last_may_be_odd(name, written):
    data = load(name, written(name))
    batches = list(data.loader("test", n=7, batch_size=4))
    assert [len(batch.ids) for batch in batches] == [4, 3]
    for batch in batches:
        assert batch.images.shape[1:] == (3, 24, 24) and batch.images.dtype == torch.float32
        assert batch.images.min() >= 0 and batch.images.max() <= 1 and batch.images.std() > 0
    assert next(iter(data.train_dataloader())).images.shape == (16, 3, 24, 24)


@pytest.mark.parametrize("name", TREES)
def test_pictures_belong_to_their_labels(name, written):
    """Stem and class of a row's file: the label is read from the path a second time, here."""
    kwargs = written(name)
    data = load(name, kwargs, names="raw")
    files = {path.stem: path for path in Path(kwargs["root"]).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg")}
    for split in SPLITS:
        for i, row in enumerate(data.rows(split)):
            assert row.answer in str(files[row.id])
            assert data.content(*data._table(split).sources[i]) == files[row.id].read_bytes()


@pytest.mark.parametrize("name", ["cifar10", "oxford_pets", "eurosat"])
def test_workers_and_processes_do_not_change_anything(name, written):
    plain, workers = (load(name, written(name), workers=count) for count in (0, 2))
    for one, two in zip(plain.val_dataloader(), workers.val_dataloader(), strict=True):
        assert one.ids == two.ids and torch.equal(one.images, two.images)
    first = [next(iter(data.train_dataloader())) for data in (plain, workers)]
    assert first[0].ids == first[1].ids and torch.equal(first[0].images, first[1].images)


@pytest.mark.parametrize("name", NAMES)
def test_two_ranks_see_each_row_once(name, written):
    data = load(name, written(name))
    shares = [[i for batch in data.loader("val", shard=(rank, 2)) for i in batch.ids] for rank in (0, 1)]
    assert sorted(shares[0] + shares[1]) == sorted(row.id for row in data.rows("val"))


@pytest.mark.parametrize("name", ["cifar100", "svhn"])
def test_images_and_labels_are_torchvisions(name, written):
    kwargs = written(name)
    ours = load(name, kwargs, official=True)
    if name == "svhn":
        lists = {part: ["", f"{part}_32x32.mat", md5] for part, md5 in kwargs["md5"].items()}
        reader = type("Reader", (torchvision.datasets.SVHN,), {"split_list": lists})
        theirs = reader(str(Path(kwargs["root"], "svhn")), split="train")
        labels, pictures = theirs.labels.tolist(), theirs.data
    else:
        lists = {f"{part}_list": [[part, md5]] for part, md5 in kwargs["md5"].items()}
        meta = Path(kwargs["root"], "cifar-100-python", "meta")
        lists["meta"] = {
            "filename": "meta",
            "key": "fine_label_names",
            "md5": hashlib.md5(meta.read_bytes()).hexdigest(),
        }
        theirs = type("Reader", (torchvision.datasets.CIFAR100,), lists)(kwargs["root"], train=True)
        labels, pictures = theirs.targets, theirs.data.transpose(0, 3, 1, 2)
        assert theirs.classes == load(name, kwargs, names="raw").candidates
    assert [row.label for row in ours.rows("train")] == labels
    for i in (0, 5, len(labels) - 1):
        assert torch.equal(ours.original("train", i), torch.from_numpy(pictures[i].copy()))


def test_the_published_digests_are_torchvisions():
    theirs = torchvision.datasets.CIFAR100
    assert dict(theirs.train_list + theirs.test_list) == CIFAR100_MD5
    assert {part: torchvision.datasets.SVHN.split_list[part][2] for part in SVHN_MD5} == SVHN_MD5


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_wrong_count_is_named_with_the_published_one(name, written):
    data = load(name, {key: value for key, value in written(name).items() if key != "counts"})
    assert data.counts == PUBLISHED[name]
    part = data.parts.get("train", "all")
    found = rf"The part '{part}' of {name} in '.*' has [\d,]+ images\. "
    with pytest.raises(ValueError, match=found + f"Expected the published {PUBLISHED[name][part]:,}; get .* again"):
        data.rows("train")


@pytest.mark.parametrize("name", NAMES)
def test_missing_files_say_where_they_go_and_come_from(name, tmp_path):
    more = {"corruption": "fog:1"} if name == "cifar10c" else {}
    with pytest.raises(
        FileNotFoundError, match=rf"No {name}.* data in '{tmp_path}'\. Expected:\n  {tmp_path}/"
    ) as error:
        load(name, {"root": str(tmp_path)}, **more).rows("test")
    assert "http" in str(error.value)
    assert name == "cifar10c" or f"or {tmp_path}/{name}/<split>-*.parquet" in str(error.value)


def test_a_listed_image_that_is_missing_is_named(tmp_path):
    data = load("oxford_pets", data_files.write_oxford_pets(tmp_path))
    gone = tmp_path / "oxford-iiit-pet" / "images" / f"{data.rows('test')[5].id}.jpg"
    gone.unlink()
    with pytest.raises(FileNotFoundError, match=f"No image '{gone}'"):
        list(data.test_dataloader())


@pytest.mark.parametrize("name", TREES)
def test_an_unreadable_image_stops_the_run_or_is_left_out_and_named(name, tmp_path):
    kwargs = getattr(data_files, f"write_{name}")(tmp_path)
    data = load(name, kwargs)
    damaged = data.rows("test")[4].id
    data.image_path("test", 4).write_bytes(b"\xff\xd8\xff")
    with pytest.raises(ValueError, match=f"Cannot read image '.*{damaged}"):
        list(data.test_dataloader())
    tolerant = load(name, kwargs, max_corrupt=1)
    assert tolerant.n("test") == data.n("test") - 1 and damaged not in {row.id for row in tolerant.rows("test")}
    assert sum(len(batch.ids) for batch in tolerant.test_dataloader()) == tolerant.n("test")


@pytest.mark.parametrize(
    ("name", "file", "line", "message"),
    [
        ("oxford_pets", "oxford-iiit-pet/annotations/test.txt", "Abyssinian_9 2 1 1", "line 76: 'Abyssinian_9 2 1 1'"),
        ("oxford_pets", "oxford-iiit-pet/annotations/test.txt", "Griffin_9 38 1 1", "the number of its breed"),
        ("dtd", "dtd/dtd/labels/test1.txt", "furry/furry_0001.jpg", "line 95: 'furry/furry_0001.jpg'"),
        ("dtd", "dtd/dtd/labels/test1.txt", "banded/../../secret.jpg", "Expected <texture>/<file>"),
    ],
)
def test_a_line_of_a_list_that_is_wrong_is_quoted(name, file, line, message, tmp_path):
    kwargs = getattr(data_files, f"write_{name}")(tmp_path)
    (tmp_path / file).write_text((tmp_path / file).read_text() + line + "\n")
    with pytest.raises(ValueError, match=r"get .* again") as error:
        load(name, kwargs).rows("test")
    assert message in str(error.value) and str(tmp_path / file) in str(error.value)


def test_a_folder_that_is_no_class_is_named(tmp_path):
    kwargs = data_files.write_eurosat(tmp_path)
    (tmp_path / "eurosat" / "2750" / "Desert").mkdir()
    with pytest.raises(ValueError, match=r"has the folder 'Desert', which is no class\. Expected only: AnnualCrop, "):
        load("eurosat", kwargs).rows("train")


def test_imagenette_has_the_same_splits_at_every_size(tmp_path):
    large = data_files.write_imagenette(tmp_path)
    small = data_files.write_imagenette(tmp_path, "imagenette2-160")
    a, b = load("imagenette", large), load("imagenette", small, size="160")
    assert [row.id for row in a.rows("val")] == [row.id for row in b.rows("val")]
    assert "imagenette2-160" in str(b.files()[0]) and "imagenette2/" in str(a.files()[0])
    with pytest.raises(ValueError, match="Unknown size '64'"):
        load("imagenette", small, size="64")


def test_a_png_named_jpg_and_a_grey_jpeg_are_rgb(written):
    pets, nette = load("oxford_pets", written("oxford_pets")), load("imagenette", written("imagenette"))
    for data, wanted in ((pets, "Egyptian_Mau_1"), (nette, "n01440764_1")):
        split, i = next((s, i) for s in SPLITS for i, row in enumerate(data.rows(s)) if row.id == wanted)
        assert data.original(split, i).shape[0] == 3


@pytest.mark.parametrize("split", SPLITS)
def test_the_digit_ten_is_zero(split, written):
    data = load("svhn", written("svhn"))
    assert {row.answer for row in data.rows(split) if row.label == 0} == {"0"}


@pytest.mark.parametrize(
    "arrays",
    [{"X": [[1]], "y": [[1]]}, {"y": [[1]]}, {"X": torch.zeros(32, 32, 3, 1).numpy(), "y": [[1]]}],
    ids=["shape", "no X", "type"],
)
def test_another_matlab_file_is_refused(arrays, tmp_path):
    path = tmp_path / "train_32x32.mat"
    savemat(path, arrays)
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    with pytest.raises(ValueError, match=r"is not an SVHN file\. Expected X, uint8 \(32, 32, 3, N\)"):
        read_mat(path, md5)
    with pytest.raises(ValueError, match=r"has MD5 \w+\. Expected e26dedcc\w+; it is damaged"):
        read_mat(path, SVHN_MD5["train"])


def test_a_cifar100_batch_without_fine_labels_is_refused(tmp_path):
    kwargs = data_files.write_cifar100(tmp_path)
    path = tmp_path / "cifar-100-python" / "test"
    path.write_bytes(python2_pickle({b"data": 1, b"labels": [0]}))
    kwargs["md5"]["test"] = hashlib.md5(path.read_bytes()).hexdigest()
    with pytest.raises(ValueError, match=r"is not a CIFAR-100 batch\. .*'fine_labels', N numbers from 0 to 99"):
        load("cifar100", kwargs).rows("test")


# ---- subsets --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [name for name in NAMES if name != "cifar10c"])
def test_few_shots_are_so_many_of_every_class_seeded_and_nested(name, written):
    full = {row.id for row in load(name, written(name)).rows("train")}
    two, one, other = (
        load(name, written(name), shots=shots, split_seed=seed).rows("train")
        for shots, seed in ((2, 42), (1, 42), (2, 7))
    )
    assert set(Counter(row.label for row in two).values()) == {2} and len({row.id for row in two}) == len(two)
    assert {row.id for row in one} < {row.id for row in two} <= full
    assert {row.id for row in other} != {row.id for row in two}


def test_a_tenth_of_train_is_balanced_and_two_choices_are_refused(written):
    rows = load("cifar10", written("cifar10"), n_train=0.5).rows("train")
    assert len(rows) == 90 and set(Counter(row.label for row in rows).values()) == {9}
    with pytest.raises(ValueError, match=r"Got n_train=5 and shots=1\. Expected one of them"):
        load("cifar10", written("cifar10"), n_train=5, shots=1)
    with pytest.raises(ValueError, match=r"Cannot take 19 rows of every class"):
        load("cifar10", written("cifar10"), shots=19).rows("train")


def test_official_val_comes_from_test_and_leaves_train_whole(written):
    data = load("oxford_pets", written("oxford_pets"), n_train=None, val="official")
    assert data.n("train") == 370
    data = load("cifar10", written("cifar10"), val="official")
    assert {row.id for row in data.rows("val")} <= {row.id for row in data.rows("test")}


def test_an_option_that_a_set_has_not_is_named(written):
    with pytest.raises(
        ValueError, match=r"Data set 'emoji_presence' has no option 'names'\. Expected some of: augment"
    ):
        load_datamodule("emoji_presence", names="raw")


# ---- CIFAR-10-C -----------------------------------------------------------------------------------------------------
def test_other_words_take_the_place_of_the_set_s_own_in_the_splits_they_are_for(written):
    plain = load("cifar10", written("cifar10"))
    names = [f"thing {i}" for i in range(10)]
    worded = load(
        "cifar10", written("cifar10"), question="", eval_question="What?", caption="<{}>", caption_names=names
    )
    for split, question in (("train", ""), ("val", "What?"), ("test", "What?")):
        for row, own in zip(worded.rows(split), plain.rows(split), strict=True):
            assert (row.question, row.caption) == (question, f"<thing {row.label}>")
            assert row._replace(question=own.question, caption=own.caption) == own
    assert plain.fingerprint("test") != worded.fingerprint("test")
    only = load("cifar10", written("cifar10"), question="Which?")
    assert {row.question for split in SPLITS for row in only.rows(split)} == {"Which?"}
    assert [row.caption for row in only.rows("test")] == [row.caption for row in plain.rows("test")]
    with pytest.raises(ValueError, match=r"has 10 classes; got data.caption=None and 1 data.caption_names"):
        load("cifar10", written("cifar10"), caption_names=["one"]).rows("test")


def test_one_question_for_rows_that_ask_their_own_is_refused():
    with pytest.raises(ValueError, match=r"different questions.*Expected a data set with one question for all rows"):
        load_datamodule("emoji_presence", question="Is it there?").rows("val")


def test_cifar10c_is_cifar10_with_another_test(written):
    kwargs = written("cifar10c")
    plain = load("cifar10", {key: value for key, value in kwargs.items() if key != "corruption"})
    for severity in (1, 5):
        data = load("cifar10c", kwargs, corruption=f"fog:{severity}")
        assert data.name == f"cifar10c_fog_{severity}"
        assert data.fingerprint("val") == plain.fingerprint("val")
        assert [row[:2] for row in data.subset("test", 9)] == [row[:2] for row in plain.subset("test", 9)]
        clean = plain.original("test", 11).int()
        assert torch.equal(data.original("test", 11).int(), (clean + 5 * severity).clamp(0, 255))
    assert load("cifar10c", kwargs, corruption="spatter:2").n("test") == 200


def test_cifar10c_says_what_it_needs(written, tmp_path):
    kwargs = written("cifar10c")
    with pytest.raises(ValueError, match=r"cifar10c needs data\.corruption=<name>:<severity>"):
        load("cifar10c", kwargs, corruption=None).rows("test")
    with pytest.raises(ValueError, match=r"Unknown corruption 'rain:1'.* saturate"):
        load("cifar10c", kwargs, corruption="rain:1")
    kwargs = data_files.write_cifar10c(tmp_path)
    (tmp_path / "CIFAR-10-C" / "fog.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(ValueError, match=r"Cannot read '.*fog\.npy'"):
        load("cifar10c", kwargs).rows("test")
    (tmp_path / "CIFAR-10-C" / "labels.npy").replace(tmp_path / "CIFAR-10-C" / "fog.npy")
    with pytest.raises(FileNotFoundError, match=r"labels\.npy \(from CIFAR-10-C\.tar from https://zenodo\.org"):
        load("cifar10c", kwargs).rows("test")
