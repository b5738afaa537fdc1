"""`prepare` after a copy that was no good: nothing of it blocks a good one, and what `verify` advises works."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
from support.cifar_files import FOLDER, write_cifar10
from support.command_line import run
from support.vqa_files import write_hateful_memes

import datamodules.cifar10
from datamodules.prepare.catalogue import PUBLISHED
from datamodules.prepare.catalogue_entry import Archive, Count, Digest
from datamodules.prepare.disk import STATE

pytest_plugins = ["support.data_server"]
PICTURES = "hateful_memes/img"


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def tarred(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture
def memes(tmp_path, monkeypatch) -> dict[str, bytes]:
    """The files of a tiny Hateful Memes by path below its folder; the catalogue counts them."""
    folder = Path(write_hateful_memes(tmp_path / "made")["root"], "hateful_memes")
    part = PUBLISHED["hateful_memes"].archives[0]
    counts = (Count("train.jsonl", 60, lines=True), part.counts[1])
    small = PUBLISHED["hateful_memes"]._replace(archives=(part._replace(counts=counts),))
    monkeypatch.setitem(PUBLISHED, "hateful_memes", small)
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def pictures(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if name.startswith("img/")}


def texts(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if not name.startswith("img/")}


def below(folder: str, files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{folder}/{name}": data for name, data in files.items()}


def in_memory(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


NESTED = {
    "pictures in an inner tar": lambda f: {**texts(f), "img.tar.gz": tarred(pictures(f))},
    "pictures in an inner zip": lambda f: {**texts(f), "img.zip": in_memory(pictures(f))},
    "inner zip without its folder": lambda f: {
        **texts(f),
        "img.zip": in_memory({name.removeprefix("img/"): data for name, data in pictures(f).items()}),
    },
    "a tar in a zip": lambda f: {"hateful_memes.tar.gz": tarred(below("hateful_memes", f))},
    "below data": lambda f: below("data", {**texts(f), "img.tar.gz": tarred(pictures(f))}),
    "two deep": lambda f: {"memes.zip": in_memory({**texts(f), "img.tar.gz": tarred(pictures(f))})},
    "one folder deeper": lambda f: below("archive/data", f),
    "with a Mac's folder": lambda f: {**below("data", f), **below("__MACOSX/data", {"._train.jsonl": b"x"})},
}


@pytest.mark.parametrize("form", NESTED)
def test_archives_in_the_archive_are_opened(form, memes, tmp_path, capsys):
    root, archive = tmp_path / "data", zipped(tmp_path / "XjiOc5.zip", NESTED[form](memes))
    assert "train 54, val 6, test 20" in run(capsys, "prepare", "hateful_memes", f"root={root}", f"from={archive}")
    assert len(list((root / PICTURES).iterdir())) == len(pictures(memes))
    run(capsys, "verify", "hateful_memes", f"root={root}")


@pytest.mark.parametrize(
    "form", ["unpacked", "unpacked, pictures packed", "called like the archive", "a folder deeper"]
)
def test_a_folder_is_as_good_as_an_archive(form, memes, tmp_path, capsys):
    source = tmp_path / ("hateful_memes.zip" if form == "called like the archive" else "mine")
    files = {**texts(memes), "img.tar.gz": tarred(pictures(memes))} if "packed" in form[10:] else memes
    for name, data in files.items():
        path = source / "some/where" / name if form == "a folder deeper" else source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    before = sorted(source.rglob("*"))
    run(capsys, "prepare", "hateful_memes", f"root={tmp_path / 'data'}", f"from={source}")
    assert sorted(source.rglob("*")) == before
    run(capsys, "verify", "hateful_memes", f"root={tmp_path / 'data'}")


def without(files: dict[str, bytes], *gone: str) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if not name.startswith(gone)}


HALF = {
    "no pictures": (lambda f: without(f, "img/"), "names 60 pictures, and 60 are not there, as 'img/10000.png'"),
    "the test's pictures missing": (
        lambda f: without(f, "img/02"),
        "dev_seen.jsonl names 20 pictures, and 20 are not there",
    ),
    "one picture missing": (lambda f: without(f, "img/10007"), "1 are not there, as 'img/10007.png'"),
    "no test": (lambda f: without(f, "dev_seen"), "files in dev*.jsonl: 0. Expected at least 1"),
    "train cut": (
        lambda f: f | {"train.jsonl": f["train.jsonl"][:-200]},
        "lines in train.jsonl: 5",
    ),
}


def spoilt(form: str, memes: dict[str, bytes], path: Path) -> Path:
    zipped(path, HALF[form][0](memes) if form in HALF else memes)
    if form == "truncated":
        path.write_bytes(path.read_bytes()[:-3000])
    if form == "inner truncated":
        zipped(path, {**texts(memes), "img.tar.gz": tarred(pictures(memes))[:-500]})
    return path


@pytest.mark.parametrize("form", [*HALF, "truncated", "inner truncated"])
def test_half_a_copy_leaves_nothing_and_the_next_good_one_goes_through(form, memes, tmp_path, capsys):
    root, words = tmp_path / "data", ["hateful_memes", f"root={tmp_path / 'data'}"]
    bad, good = (
        spoilt(form, memes, tmp_path / "hateful_memes.zip"),
        zipped(tmp_path / "good.zip", below("data", memes)),
    )
    said = run(capsys, "prepare", *words, f"from={bad}", code=2)
    assert HALF.get(form, (0, "is damaged or cut short"))[1] in said
    assert not [path for path in root.rglob("*") if path.is_file() and path.name not in ("lock", "digests.json")]
    assert "run `prepare hateful_memes from=COPY" in run(capsys, "verify", *words, code=1)
    run(capsys, "prepare", *words, f"from={good}")
    run(capsys, "verify", *words)


def leave_half(root: Path, memes: dict[str, bytes]) -> None:
    """What an earlier version left of a copy without pictures: files, manifest, digest of the "first copy"."""
    target = root / "hateful_memes"
    target.mkdir(parents=True)
    listed = {}
    for name, data in texts(memes).items():
        (target / name).write_bytes(data)
        listed[name] = [len(data), hashlib.sha256(data).hexdigest()]
    lines = "".join(f"{sha256} {size} {path}\n" for path, (size, sha256) in sorted(listed.items()))
    source = {"file": "hateful_memes.zip", "stated": "nobody; recorded as the first copy"}
    part = {"source": source, "date": "2026-01-01", "files": listed}
    part["listing"] = hashlib.sha256(lines.encode()).hexdigest()
    (root / STATE).mkdir()
    manifest = {"name": "hateful_memes", "parts": {"hateful_memes": part}}
    (root / STATE / "hateful_memes.json").write_text(json.dumps(manifest))
    first = {"hateful_memes.zip": {"sha256": "0" * 64, "size": 1, "recorded": "2026-01-01"}}
    (root / "digests.json").write_text(json.dumps({"files": first}))


def test_what_was_left_half_is_replaced_by_a_good_copy_and_kept_aside(memes, tmp_path, capsys):
    root, words = tmp_path / "data", ["hateful_memes", f"root={tmp_path / 'data'}"]
    leave_half(root, memes)
    said = run(capsys, "verify", *words, code=1)
    assert "60 are not there" in said and "run `prepare hateful_memes from=COPY with a good copy`; it takes" in said
    assert "It is never downloaded for you" in run(capsys, "prepare", *words, code=2)
    good = zipped(tmp_path / "hateful_memes.zip", memes)
    assert "It is kept in" in run(capsys, "prepare", *words, f"from={good}")
    assert (root / STATE / "replaced" / "hateful_memes-1" / "train.jsonl").is_file()
    run(capsys, "verify", *words)
    assert "there since" in run(capsys, "prepare", *words, f"from={good}")
    assert not (root / STATE / "replaced" / "hateful_memes-2").exists()


def test_a_bad_copy_does_not_replace_what_is_there(memes, tmp_path, capsys):
    root, words = tmp_path / "data", ["hateful_memes", f"root={tmp_path / 'data'}"]
    leave_half(root, memes)
    (root / "digests.json").unlink()
    before = (root / "hateful_memes" / "train.jsonl").read_bytes()
    bad = zipped(tmp_path / "hateful_memes.zip", without(memes, "img/1"))
    assert "does not hold what 'hateful_memes' should" in run(capsys, "prepare", *words, f"from={bad}", code=2)
    assert (root / "hateful_memes" / "train.jsonl").read_bytes() == before


def test_a_file_that_has_the_folders_name_makes_way(memes, tmp_path, capsys):
    root = tmp_path / "data"
    root.mkdir()
    (root / "hateful_memes").write_text("a note")
    run(capsys, "prepare", "hateful_memes", f"root={root}", f"from={zipped(tmp_path / 'x.zip', memes)}")
    assert (root / STATE / "replaced" / "hateful_memes-1").read_text() == "a note"


def test_what_the_datamodule_cannot_read_is_not_left_in_place(memes, tmp_path, capsys):
    rows = [json.loads(line) for line in memes["train.jsonl"].splitlines()]
    broken = memes | {"train.jsonl": "\n".join(json.dumps(row | {"label": "?"}) for row in rows).encode()}
    root, words = tmp_path / "data", ["hateful_memes", f"root={tmp_path / 'data'}"]
    said = run(capsys, "prepare", *words, f"from={zipped(tmp_path / 'hateful_memes.zip', broken)}", code=2)
    assert "'label' is '?'" in said and "hateful_memes was not left in place" in said
    assert not (root / "hateful_memes").exists()
    run(capsys, "prepare", *words, f"from={zipped(tmp_path / 'hateful_memes.zip', memes)}")
    run(capsys, "verify", *words)


# ---- with a publisher who can be asked -------------------------------------------------------------------------------
@pytest.fixture
def cifar(tmp_path, mirror, monkeypatch) -> Path:
    """A tiny CIFAR-10, served by `mirror`; returns the unpacked folder."""
    digests = write_cifar10(tmp_path / "publisher")
    archive = tmp_path / "publisher" / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(tmp_path / "publisher" / FOLDER, FOLDER)
    mirror.files[archive.name] = archive.read_bytes()
    monkeypatch.setattr(datamodules.cifar10, "MD5", digests)
    monkeypatch.setattr(datamodules.cifar10.CIFAR10, "counts", {"train": 200, "test": 200})
    files = {name: Digest("md5", value, "this test") for name, value in digests.items()}
    digest = Digest("md5", hashlib.md5(archive.read_bytes()).hexdigest(), "this test")
    part = Archive(archive.name, FOLDER, (mirror[archive.name],), archive.stat().st_size, digest, files=files)
    monkeypatch.setitem(PUBLISHED, "cifar10", PUBLISHED["cifar10"]._replace(archives=(part,)))
    return tmp_path / "publisher" / FOLDER


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-50])


def _alter(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-100] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("spoil", [_cut, _alter, Path.unlink])
def test_what_verify_advises_works_when_prepare_put_it_there(spoil, cifar, tmp_path, capsys):
    words = ["cifar10", f"root={tmp_path / 'data'}"]
    run(capsys, "prepare", *words)
    spoil(tmp_path / "data" / FOLDER / "data_batch_2")
    assert "run `prepare cifar10`; it takes the place of this one" in run(capsys, "verify", *words, code=1)
    run(capsys, "prepare", *words)
    run(capsys, "verify", *words)


def test_what_verify_advises_works_when_the_user_put_it_there(cifar, tmp_path, capsys):
    root, words = tmp_path / "data", ["cifar10", f"root={tmp_path / 'data'}"]
    shutil.copytree(cifar, root / FOLDER)
    _alter(root / FOLDER / "test_batch")
    assert "run `prepare cifar10 from=COPY with a good copy`" in run(capsys, "verify", *words, code=1)
    said = run(capsys, "prepare", *words, code=2)
    assert "it was left as it is" in said and "from=COPY` with a good copy, which takes its place" in said
    run(capsys, "prepare", *words, f"from={cifar}")
    assert (root / STATE / "replaced" / f"{FOLDER}-1" / "test_batch").is_file()
    run(capsys, "verify", *words)


def test_a_damaged_kept_archive_is_removed_and_asked_for_again(cifar, tmp_path, capsys):
    words = ["cifar10", f"root={tmp_path / 'data'}"]
    run(capsys, "prepare", *words, "keep=true")
    kept = tmp_path / "data" / STATE / "downloads" / "cifar-10-python.tar.gz"
    _alter(kept)
    run(capsys, "verify", *words, code=1)
    run(capsys, "prepare", *words)
    assert not kept.exists()
    run(capsys, "verify", *words)
    kept.write_bytes(b"\x1f\x8b")
    shutil.rmtree(tmp_path / "data" / FOLDER)
    run(capsys, "prepare", *words)


def test_a_download_of_other_content_is_not_kept_for_the_next_try(cifar, mirror, tmp_path, monkeypatch, capsys):
    (part,) = PUBLISHED["cifar10"].archives
    part = part._replace(digest=None, size=None)
    monkeypatch.setitem(PUBLISHED, "cifar10", PUBLISHED["cifar10"]._replace(archives=(part,)))
    good, words = mirror.files[part.file], ["cifar10", f"root={tmp_path / 'data'}"]
    mirror.files[part.file] = tarred({f"{FOLDER}/data_batch_1": b"half"})
    assert "does not hold what" in run(capsys, "prepare", *words, code=2)
    mirror.files[part.file] = good
    run(capsys, "prepare", *words)
    run(capsys, "verify", *words)
