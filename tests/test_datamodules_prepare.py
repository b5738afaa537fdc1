"""`python -m datamodules`: a data set is there, as published and recorded, or there is a message and nothing else."""

from __future__ import annotations

import errno
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

import datamodules.cifar10
import datamodules.prepare.archives
import datamodules.whole_files.disk
from datamodules.prepare.catalogue import PUBLISHED
from datamodules.prepare.catalogue_entry import Archive, Count, Digest
from datamodules.prepare.disk import STATE, locked_root
from datamodules.registry import DATAMODULES

pytest_plugins = ["support.data_server"]
ROOT = Path(__file__).resolve().parents[1]
LOCK = f"{STATE}/lock"


def tree(root: Path) -> list[str]:
    """Every path below root but the lock and its folder."""
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*")) if root.exists() else []
    return [path for path in paths if path not in (STATE, LOCK)]


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def cifar(tmp_path, mirror, monkeypatch) -> Path:
    """A tiny CIFAR-10 as its publisher would have it: the archive, served by `mirror`. Returns the archive."""
    made = tmp_path / "publisher"
    digests = write_cifar10(made)
    archive = made / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(made / FOLDER, FOLDER)
    mirror.files[archive.name] = archive.read_bytes()
    monkeypatch.setattr(datamodules.cifar10, "MD5", digests)
    monkeypatch.setattr(datamodules.cifar10.CIFAR10, "counts", {"train": 200, "test": 200})
    publish(monkeypatch, mirror, archive, Digest("md5", md5(archive), "this test"), digests)
    return archive


def publish(monkeypatch, mirror, archive: Path, digest: Digest | None, digests: dict[str, str]) -> None:
    files = {name: Digest("md5", value, "this test") for name, value in digests.items()}
    part = Archive(archive.name, FOLDER, (mirror[archive.name],), archive.stat().st_size, digest, files=files)
    monkeypatch.setitem(PUBLISHED, "cifar10", PUBLISHED["cifar10"]._replace(archives=(part,)))


def without_digest(monkeypatch, size: int | None = None) -> None:
    (part,) = PUBLISHED["cifar10"].archives
    monkeypatch.setitem(
        PUBLISHED, "cifar10", PUBLISHED["cifar10"]._replace(archives=(part._replace(digest=None, size=size),))
    )


def test_prepare_makes_what_the_datamodule_reads_and_verify_agrees(cifar, mirror, tmp_path, capsys):
    root = tmp_path / "data"
    said = run(capsys, "prepare", "cifar10", f"root={root}")
    index = root / STATE / "cifar10.index.json"
    assert hashlib.sha256(index.read_bytes()).hexdigest() in said and "train 180, val 20, test 200" in said
    splits = json.loads(index.read_text())["splits"]
    assert {name: len(ids) for name, ids in splits.items()} == {"train": 180, "val": 20, "test": 200}
    assert not set(splits["train"]) & set(splits["val"])
    assert [path for path in tree(root) if "batch" not in path] == [
        f"{STATE}/cifar10.index.json",
        f"{STATE}/cifar10.json",
        f"{STATE}/downloads",
    ]
    shown = run(capsys, "verify", "cifar10", f"root={root}")
    assert "md5 stated by this test" in shown and "all 6 files as recorded" in shown
    assert {line.split()[0] for line in shown.splitlines()[:-2]} == {"ok"}
    assert "there     " in run(capsys, "list", f"root={root}")


def test_prepare_again_fetches_nothing_and_changes_nothing(cifar, mirror, tmp_path, capsys):
    root = tmp_path / "data"
    run(capsys, "prepare", "cifar10", f"root={root}", "keep=true")
    assert (root / STATE / "downloads" / cifar.name).read_bytes() == cifar.read_bytes()
    before = {path: (root / path).stat().st_mtime_ns for path in tree(root) if (root / path).is_file()}
    mirror.requests.clear()
    assert f"{FOLDER}: there since" in run(capsys, "prepare", "cifar10", f"root={root}")
    assert mirror.requests == []
    after = {path: (root / path).stat().st_mtime_ns for path in tree(root) if (root / path).is_file()}
    assert {path for path in before if before[path] != after[path]} == {f"{STATE}/cifar10.index.json"}
    assert f"ok       archive {cifar.name}" in run(capsys, "verify", "cifar10", f"root={root}")


@pytest.mark.parametrize("form", ["archive", "folder with the archive", "unpacked", "folder around it"])
def test_a_local_copy_gives_the_same_data_and_is_not_touched(form, cifar, mirror, tmp_path, capsys):
    sources = {"archive": cifar, "folder with the archive": tmp_path / "local", "unpacked": cifar.parent / FOLDER}
    source = sources.get(form, tmp_path / "around")
    if form == "folder with the archive":
        source.mkdir()
        shutil.copy(cifar, source)
    if form == "folder around it":
        shutil.copytree(cifar.parent / FOLDER, source / FOLDER)
    before = [(path, path.stat().st_mtime_ns) for path in sorted(cifar.parent.rglob("*"))]
    said = run(capsys, "prepare", "cifar10", f"root={tmp_path / 'data'}", f"from={source}")
    assert mirror.requests == [] and "train 180" in said
    assert [(path, path.stat().st_mtime_ns) for path in sorted(cifar.parent.rglob("*"))] == before
    for name in datamodules.cifar10.MD5:
        assert (tmp_path / "data" / FOLDER / name).read_bytes() == (cifar.parent / FOLDER / name).read_bytes()
    run(capsys, "verify", "cifar10", f"root={tmp_path / 'data'}")


def test_files_put_there_by_hand_are_checked_and_recorded(cifar, tmp_path, capsys):
    root = tmp_path / "data"
    shutil.copytree(cifar.parent / FOLDER, root / FOLDER)
    assert "was not put there by `prepare`" in run(capsys, "verify", "cifar10", f"root={root}", code=1)
    assert "was there; 6 files checked and recorded" in run(capsys, "prepare", "cifar10", f"root={root}")
    (root / STATE / "cifar10.json").unlink()
    (root / FOLDER / "test_batch").write_bytes(b"x")
    before = tree(root)
    said = run(capsys, "prepare", "cifar10", f"root={root}", code=2)
    assert "is not the published one; it was left as it is" in said and "test_batch' has md5" in said
    assert tree(root) == before


@pytest.mark.parametrize("way", ["from", "download"])
def test_a_flipped_bit_is_refused_by_the_digest_and_nothing_is_left(way, cifar, mirror, tmp_path, capsys):
    data = bytearray(cifar.read_bytes())
    data[len(data) // 2] ^= 1
    cifar.write_bytes(data)
    mirror.files[cifar.name] = bytes(data)
    words = [f"from={cifar}"] if way == "from" else []
    said = run(capsys, "prepare", "cifar10", f"root={tmp_path / 'data'}", *words, code=2)
    known = PUBLISHED["cifar10"].archives[0].digest.value
    assert f"has md5 {md5(cifar)}. Expected {known} (stated by this test)" in said and "was not used" in said
    assert set(tree(tmp_path / "data")) <= {f"{STATE}/downloads"}


def _truncate(archive: Path) -> None:
    archive.write_bytes(archive.read_bytes()[:-5000])


def _empty(archive: Path) -> None:
    archive.write_bytes(b"")


def _climb(archive: Path) -> None:
    _add(archive, tarfile.TarInfo(f"{FOLDER}/../../evil"))


def _link(archive: Path) -> None:
    info = tarfile.TarInfo(f"{FOLDER}/link")
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    _add(archive, info)


def _add(archive: Path, info: tarfile.TarInfo) -> None:
    with tarfile.open(archive, "w:gz") as file:
        file.add(archive.parent / FOLDER, FOLDER)
        file.addfile(info, io.BytesIO())


def _other_content(archive: Path) -> None:
    (archive.parent / FOLDER / "data_batch_3").write_bytes(b"other")
    _add(archive, tarfile.TarInfo(f"{FOLDER}/more"))


def _other_folder(archive: Path) -> None:
    with tarfile.open(archive, "w:gz") as file:
        file.addfile(tarfile.TarInfo("elsewhere/a"), io.BytesIO())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_truncate, "is damaged or cut short"),
        (_empty, "is empty (0 bytes). Expected an archive"),
        (_climb, "climbs out with '..'"),
        (_link, f"its entry '{FOLDER}/link' is a symbolic link"),
        (_other_content, "does not hold what 'cifar-10-batches-py' should"),
        (_other_folder, "has no folder 'cifar-10-batches-py'. Expected the published cifar-10-python.tar.gz"),
    ],
)
def test_a_bad_archive_without_a_digest_leaves_nothing_and_is_not_recorded(
    spoil, message, cifar, tmp_path, monkeypatch, capsys
):
    without_digest(monkeypatch)
    spoil(cifar)
    assert message in run(capsys, "prepare", "cifar10", f"root={tmp_path / 'data'}", f"from={cifar}", code=2)
    assert tree(tmp_path / "data") == []


def test_where_no_digest_is_published_the_first_copy_is_recorded_and_kept_to(cifar, tmp_path, monkeypatch, capsys):
    without_digest(monkeypatch)
    root = tmp_path / "data"
    said = run(capsys, "prepare", "cifar10", f"root={root}", f"from={cifar}")
    entry = json.loads((root / "digests.json").read_text())["files"][cifar.name]
    assert entry["sha256"] == hashlib.sha256(cifar.read_bytes()).hexdigest() and "recorded as the first copy" in said
    shutil.rmtree(root / FOLDER)
    _add(cifar, tarfile.TarInfo(f"{FOLDER}/more"))
    said = run(capsys, "prepare", "cifar10", f"root={root}", f"from={cifar}", code=2)
    assert f"Expected {entry['sha256']} (stated by the first copy, of {entry['recorded']}" in said
    assert not (root / FOLDER).exists()


@pytest.mark.parametrize("content", ["{", "[]", '{"files": {"a": {"sha256": "short"}}}', '{"files": 3}', "\udcff"])
@pytest.mark.parametrize("command", ["prepare", "verify"])
def test_a_damaged_record_of_digests_is_named(command, content, cifar, tmp_path, capsys):
    root = tmp_path / "data"
    root.mkdir()
    (root / "digests.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    said = run(capsys, command, "cifar10", f"root={root}", code=2)
    assert "digests.json'" in said and "Expected a record" in said and "delete it to accept the next copies" in said
    assert tree(root) == ["digests.json"]


def test_a_full_disk_while_unpacking_leaves_the_archive_only(cifar, tmp_path, monkeypatch, capsys):
    def full(entry, path, budget):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"some")
        raise OSError(errno.ENOSPC, "No space left on device")

    root = tmp_path / "data"
    with monkeypatch.context() as patch:
        patch.setattr(datamodules.prepare.archives, "_write", full)
        said = run(capsys, "prepare", "cifar10", f"root={root}", code=2)
    assert "The disk is full" in said and "What was unpacked is removed and the archive is kept" in said
    assert tree(root) == [f"{STATE}/downloads", f"{STATE}/downloads/{cifar.name}"]
    run(capsys, "prepare", "cifar10", f"root={root}")


def test_too_little_room_is_said_with_numbers_before_a_byte_is_fetched(cifar, mirror, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        datamodules.whole_files.disk.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 10, 1000)
    )
    said = run(capsys, "prepare", "cifar10", f"root={tmp_path / 'data'}", code=2)
    assert "Not enough room for 'cifar10': about" in said and "0.0 MB are free" in said
    assert mirror.requests == [] and not (tmp_path / "data").exists()


@pytest.mark.parametrize("form", ["folder", "cifar-10.zip", "cifar-10.tar", "archive.zip"])
def test_a_copy_asks_for_the_room_that_its_own_files_take(form, cifar, mirror, tmp_path, monkeypatch, capsys):
    """With one byte less nothing is written, and that much is enough."""
    source, needed = cifar.parent / FOLDER, sum(path.stat().st_size for path in (cifar.parent / FOLDER).iterdir())
    if form != "folder":
        packed = shutil.make_archive(str(tmp_path / "packed"), form[-3:], cifar.parent, FOLDER)
        source = Path(packed).rename(tmp_path / form)
        needed = source.stat().st_size if form == "cifar-10.tar" else needed
    if form.startswith("cifar-10"):  # as its publisher calls it; else it is opened first
        publish(monkeypatch, mirror, source, None, {})
    for free in (needed - 1, needed):
        usage = shutil._ntuple_diskusage(2 * needed, 0, free)
        monkeypatch.setattr(datamodules.whole_files.disk.shutil, "disk_usage", lambda folder, usage=usage: usage)
        root, refused = tmp_path / "data", free < needed
        said = run(capsys, "prepare", "cifar10", f"root={root}", f"from={source}", code=2 * refused)
        assert (root / FOLDER).exists() == root.exists() == (not refused)
        assert ("Not enough room for" in said and "Nothing was written" in said) == refused


def test_a_copy_asks_for_no_room_for_files_that_are_not_wanted(cifar, mirror, tmp_path, monkeypatch, capsys):
    packed = Path(shutil.make_archive(str(tmp_path / "cifar-10"), "zip", cifar.parent, FOLDER))
    with zipfile.ZipFile(packed, "a") as file:
        file.writestr(f"{FOLDER}/more", bytes(10 << 20))
    wanted = tuple(datamodules.cifar10.MD5)
    publish(monkeypatch, mirror, packed, None, {})
    (part,) = PUBLISHED["cifar10"].archives
    monkeypatch.setitem(PUBLISHED, "cifar10", PUBLISHED["cifar10"]._replace(archives=(part._replace(only=wanted),)))
    usage = shutil._ntuple_diskusage(10**9, 0, 9 << 20)
    monkeypatch.setattr(datamodules.whole_files.disk.shutil, "disk_usage", lambda folder: usage)
    run(capsys, "prepare", "cifar10", f"root={tmp_path / 'data'}", f"from={packed}")
    assert not (tmp_path / "data" / FOLDER / "more").exists()


def test_a_bomb_is_called_one_however_full_the_disk_is(cifar, tmp_path, monkeypatch, capsys):
    bomb = tmp_path / "archive.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(f"{FOLDER}/data_batch_1", bytes(101 << 20))
    usage = shutil._ntuple_diskusage(10**9, 0, 50 << 20)
    monkeypatch.setattr(datamodules.whole_files.disk.shutil, "disk_usage", lambda folder: usage)
    said = run(capsys, "prepare", "cifar10", f"root={tmp_path / 'data'}", f"from={bomb}", code=2)
    assert "may be a bomb" in said and tree(tmp_path / "data") == []


def test_clevr_is_not_started_without_consent(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        datamodules.whole_files.disk.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(1, 1, 10**12)
    )
    said = run(capsys, "prepare", "clevr", f"root={tmp_path / 'data'}", code=2)
    assert "'clevr' is a download of 19.0 GB and needs about 40.0 GB" in said and "yes=true" in said
    assert not (tmp_path / "data").exists()


def test_no_network_names_the_way_without_it(cifar, mirror, tmp_path, capsys):
    mirror.status[cifar.name] = 404
    said = run(capsys, "prepare", "cifar10", f"root={tmp_path / 'data'}", code=2)
    assert "answered 404" in said
    assert f"get {cifar.name} on another machine and run the same command with from=PATH" in said
    assert set(tree(tmp_path / "data")) <= {f"{STATE}/downloads"}


def test_what_a_killed_prepare_left_is_swept(cifar, tmp_path, capsys):
    leftover = tmp_path / "data" / f".{FOLDER}.unpack-99999" / "in"
    leftover.mkdir(parents=True)
    run(capsys, "prepare", "cifar10", f"root={tmp_path / 'data'}")
    assert not leftover.parent.exists()


def test_two_prepares_in_one_root_do_not_fight(cifar, tmp_path, capsys):
    with locked_root(tmp_path / "data"):
        said = run(capsys, "prepare", "cifar10", f"root={tmp_path / 'data'}", code=2)
    assert "Another `prepare` (process" in said and "wait for it or choose another root=DIR" in said
    run(capsys, "prepare", "cifar10", f"root={tmp_path / 'data'}")


def test_verify_finds_what_is_missing_and_what_was_altered(cifar, tmp_path, capsys):
    root = tmp_path / "data"
    assert f"MISSING  {FOLDER}: not below" in run(capsys, "verify", "cifar10", f"root={root}", code=1)
    run(capsys, "prepare", "cifar10", f"root={root}")
    (root / FOLDER / "data_batch_1").unlink()
    data = bytearray((root / FOLDER / "test_batch").read_bytes())
    data[-100] ^= 1
    (root / FOLDER / "test_batch").write_bytes(data)
    said = run(capsys, "verify", "cifar10", f"root={root}", code=1)
    assert f"MISSING  {FOLDER}/data_batch_1" in said and f"WRONG    {FOLDER}/test_batch" in said
    assert "2 of 6 files are not as recorded" in said and "has other content than when it was prepared" in said
    assert "WRONG    split index" in said and said.splitlines()[-1].endswith("items need attention.")


def test_verify_finds_a_changed_manifest_and_a_changed_index(cifar, tmp_path, capsys):
    root = tmp_path / "data"
    run(capsys, "prepare", "cifar10", f"root={root}")
    index, manifest = root / STATE / "cifar10.index.json", root / STATE / "cifar10.json"
    index.write_text(index.read_text().replace("train-00001", "train-99999"))
    assert "WRONG    split index: the DataModule's rows are not those" in run(
        capsys, "verify", "cifar10", f"root={root}", code=1
    )
    manifest.write_text(manifest.read_text().replace("test_batch", "best_batch"))
    assert "cifar10.json' is damaged" in run(capsys, "verify", "cifar10", f"root={root}", code=2)


def test_a_link_in_a_local_folder_is_not_followed(cifar, tmp_path, capsys):
    (cifar.parent / FOLDER / "extra").symlink_to("/etc/passwd")
    said = run(capsys, "prepare", "cifar10", f"root={tmp_path / 'data'}", f"from={cifar.parent / FOLDER}", code=2)
    assert "extra' is a link or special file, which is not followed" in said and "cp -rL" in said
    assert tree(tmp_path / "data") == []


def test_hateful_memes_says_how_and_is_never_downloaded(tmp_path, capsys):
    said = run(capsys, "prepare", "hateful_memes", f"root={tmp_path / 'data'}", code=2)
    assert "read and accept its licence at https://hatefulmemeschallenge.com" in said and "from=PATH" in said
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("top", ["hateful_memes/", "data/", ""])
@pytest.mark.parametrize("unpacked", [True, False])
def test_hateful_memes_is_taken_from_the_forms_it_is_handed_out_in(top, unpacked, tmp_path, monkeypatch, capsys):
    part = PUBLISHED["hateful_memes"].archives[0]._replace(counts=(Count("train.jsonl", 4, lines=True),))
    monkeypatch.setitem(PUBLISHED, "hateful_memes", PUBLISHED["hateful_memes"]._replace(archives=(part,)))
    monkeypatch.delitem(DATAMODULES, "hateful_memes", raising=False)
    files = {"train.jsonl": b"{}\n" * 4, "dev_seen.jsonl": b"{}\n", "img/1.png": b"png"}
    archive = tmp_path / "XjiOc5.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for name, data in files.items():
            file.writestr(top + name, data)
    source = archive
    if unpacked:
        source = tmp_path / "mine"
        shutil.unpack_archive(archive, source)
    run(capsys, "prepare", "hateful_memes", f"root={tmp_path / 'data'}", f"from={source}")
    folder = tmp_path / "data" / "hateful_memes"
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")} == set(files)
