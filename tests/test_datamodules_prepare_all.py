"""Every published data set, packed as its publisher packs it, is prepared into what its DataModule reads."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
from support import data_files, vqa_files

import datamodules.pope_questions
import datamodules.registry
import datamodules.whole_files.disk
from datamodules.__main__ import main
from datamodules.prepare.catalogue import PUBLISHED
from datamodules.prepare.catalogue_entry import Archive, Count
from datamodules.prepare.content import count_of
from datamodules.prepare.disk import STATE

WRITERS = {
    **{
        name: getattr(data_files, f"write_{name}")
        for name in (
            "cifar10",
            "cifar100",
            "svhn",
            "fashion_mnist",
            "imagenette",
            "eurosat",
            "oxford_pets",
            "dtd",
            "cifar10c",
        )
    },
    "clevr": vqa_files.write_clevr,
    "hateful_memes": vqa_files.write_hateful_memes,
    "pope": vqa_files.write_pope,
}


def pack(archive: Archive, made: Path, folder: Path) -> None:
    """The published file, from the unpacked tree below `made`: one top folder, named as the target."""
    source = made / archive.target
    if not archive.packed:
        shutil.copy(source, folder / archive.file)
        return
    form = {".zip": "zip", ".tar": "tar"}.get(Path(archive.file).suffix, "gztar")
    packed = shutil.make_archive(str(folder / "packed"), form, source.parent, source.name)
    Path(packed).rename(folder / archive.file)


def shrink(archive: Archive, made: Path) -> Archive:
    """As published, but with the counts of a tiny fixture and without its digests."""
    counts = tuple(Count(c.pattern, count_of(made / archive.target, c), c.lines) for c in archive.counts)
    return archive._replace(counts=counts, files={}, digest=None)


@pytest.fixture(params=sorted(WRITERS))
def publisher(request, tmp_path, monkeypatch):
    """(name, the fixture's root, a folder with the archives made of it)."""
    name, made, folder = request.param, tmp_path / "made", tmp_path / "archives"
    folder.mkdir()
    # A copy asks for the room that it takes, not for that of the published files: CLEVR's are 40 GB.
    free = shutil._ntuple_diskusage(10**9, 0, 300 * 10**6)
    monkeypatch.setattr(datamodules.whole_files.disk.shutil, "disk_usage", lambda place: free)
    kwargs = {key: value for key, value in WRITERS[name](made).items() if key != "root"}
    parts = [choices[0] for choices in PUBLISHED[name].parts()]
    for archive in parts:
        pack(archive, made, folder)
    small = PUBLISHED[name]._replace(archives=tuple(shrink(archive, made) for archive in parts))
    monkeypatch.setitem(PUBLISHED, name, small)
    load = partial(datamodules.registry.load_datamodule, **kwargs)
    monkeypatch.setattr(datamodules.registry, "load_datamodule", load)
    write = partial(datamodules.pope_questions.write_questions, images=20)
    monkeypatch.setattr(datamodules.pope_questions, "write_questions", write)
    if name == "pope":
        shutil.copytree(made / "coco", folder / "coco")
    if name == "cifar10c":  # it needs CIFAR-10's own files too
        shutil.copytree(made / "cifar-10-batches-py", tmp_path / "data" / "cifar-10-batches-py")
    return name, made, folder


def test_what_prepare_makes_of_the_archives_is_what_the_datamodule_reads(publisher, tmp_path, capsys):
    name, made, folder = publisher
    root = tmp_path / "data"
    assert main(["prepare", name, f"root={root}", f"from={folder}"]) == 0, capsys.readouterr()
    for archive in PUBLISHED[name].archives:
        for path in [made / archive.target] if not archive.packed else (made / archive.target).rglob("*"):
            if path.is_file():
                assert (root / path.relative_to(made)).read_bytes() == path.read_bytes()
    assert main(["verify", name, f"root={root}"]) == 0, capsys.readouterr()
    index = root / STATE / f"{name}.index.json"
    assert index.is_file() == (name in datamodules.registry.DATAMODULES)
    if index.is_file():
        data = datamodules.registry.load_datamodule(name, root=str(root))
        assert data.missing() == []
        for split, ids in json.loads(index.read_text())["splits"].items():
            assert ids == [row.id for row in data.rows(split)]
            assert data.image(split, 0).shape == (3, 164, 164)


@pytest.mark.parametrize("around", ["archive", "some/where"])
def test_a_zip_from_elsewhere_one_folder_deeper_gives_the_same_data(around, publisher, tmp_path, capsys):
    """As Kaggle hands it out: archive.zip, whatever is in it."""
    name, made, folder = publisher
    if name == "cifar10c":
        shutil.rmtree(made / "cifar-10-batches-py")
    shutil.move(made, tmp_path / "elsewhere" / around)
    packed = shutil.make_archive(str(tmp_path / "archive"), "zip", tmp_path / "elsewhere")
    source = Path(packed)
    if name == "pope":  # its pictures are never taken from inside an archive of another name
        source = tmp_path / "with pictures"
        source.mkdir()
        Path(packed).rename(source / "archive.zip")
        shutil.copytree(folder / "coco", source / "coco")
    assert main(["prepare", name, f"root={tmp_path / 'data'}", f"from={source}"]) == 0, capsys.readouterr()
    assert main(["verify", name, f"root={tmp_path / 'data'}"]) == 0, capsys.readouterr()
    assert not list((tmp_path / "data" / STATE).glob(".opened*"))


def test_a_wrong_form_makes_way_for_another_form_that_is_right(tmp_path, monkeypatch, capsys):
    """imagenette2 is read before imagenette2-160, so that half of it would hide the other."""
    small = data_files.write_imagenette(tmp_path / "made", "imagenette2-160")
    forms = [
        archive._replace(
            counts=tuple(c._replace(n=count_of(tmp_path / "made" / "imagenette2-160", c)) for c in archive.counts)
        )
        for archive in PUBLISHED["imagenette"].archives
    ]
    monkeypatch.setitem(PUBLISHED, "imagenette", PUBLISHED["imagenette"]._replace(archives=tuple(forms)))
    monkeypatch.setattr("datamodules.imagenette.Imagenette.counts", small["counts"])
    root = tmp_path / "data"
    shutil.copytree(tmp_path / "made" / "imagenette2-160", root / "imagenette2")
    shutil.rmtree(root / "imagenette2" / "val")
    assert main(["prepare", "imagenette", f"root={root}", f"from={tmp_path / 'made'}"]) == 0, capsys.readouterr()
    assert main(["verify", "imagenette", f"root={root}"]) == 0, capsys.readouterr()
    assert (root / STATE / "replaced" / "imagenette2-1" / "train").is_dir()


def test_cifar10c_is_prepared_alone(tmp_path, monkeypatch, capsys):
    """Its train rows are CIFAR-10's, which need not be there, and no corruption has to be chosen."""
    made = Path(data_files.write_cifar10c(tmp_path / "made")["root"])
    small = PUBLISHED["cifar10c"]._replace(archives=(shrink(PUBLISHED["cifar10c"].archives[0], made),))
    monkeypatch.setitem(PUBLISHED, "cifar10c", small)
    load = partial(datamodules.registry.load_datamodule, counts={"train": 200, "test": 200})
    monkeypatch.setattr(datamodules.registry, "load_datamodule", load)
    assert main(["prepare", "cifar10c", f"root={tmp_path / 'data'}", f"from={made}"]) == 0, capsys.readouterr()
    assert main(["verify", "cifar10c", f"root={tmp_path / 'data'}"]) == 0, capsys.readouterr()


@pytest.mark.parametrize("file", ["EuroSAT_RGB.zip", "EuroSAT.zip", "archive.zip"])
def test_eurosat_is_taken_under_its_name_of_today(file, tmp_path, monkeypatch, capsys):
    made = Path(data_files.write_eurosat(tmp_path / "made")["root"])
    small = PUBLISHED["eurosat"]._replace(archives=(shrink(PUBLISHED["eurosat"].archives[0], made),))
    monkeypatch.setitem(PUBLISHED, "eurosat", small)
    monkeypatch.setattr("datamodules.eurosat.EuroSAT.counts", {"all": 100})
    (made / "eurosat" / "2750").rename(tmp_path / "EuroSAT_RGB")
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path, "EuroSAT_RGB")
    (tmp_path / "downloads").mkdir()
    Path(packed).rename(tmp_path / "downloads" / file)
    for source in (tmp_path / "downloads" / file, tmp_path / "downloads", tmp_path / "EuroSAT_RGB"):
        root = tmp_path / f"data of {source.name}"
        assert main(["prepare", "eurosat", f"root={root}", f"from={source}"]) == 0, capsys.readouterr()
        assert len(list((root / "eurosat" / "2750").rglob("*.jpg"))) == 100


def test_the_unpacked_files_give_the_same_index_as_the_archives(publisher, tmp_path, capsys):
    name, made, folder = publisher
    indexes = []
    for root, source in ((tmp_path / "data", folder), (tmp_path / "again", made)):
        if name == "cifar10c" and source == made:
            shutil.copytree(made / "cifar-10-batches-py", root / "cifar-10-batches-py")
        assert main(["prepare", name, f"root={root}", f"from={source}"]) == 0, capsys.readouterr()
        index = root / STATE / f"{name}.index.json"
        indexes.append(index.read_bytes() if index.exists() else b"")
    assert indexes[0] == indexes[1]
