"""Unpacking: what an archive may not do is refused with the entry's name, and damage is noticed wherever it is."""

from __future__ import annotations

import gzip
import hashlib
import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.prepare.archives import Limits, unpack, unsafe
from datamodules.prepare.disk import scratch_folder

DEFAULT = Limits()
FORMS = ["a.zip", "a.tar", "a.tar.gz", "a.tgz"]
GOOD = {"set/one.txt": b"1" * 1000, "set/deep/two.txt": b"two", "set/empty": b""}


def make(path: Path, files: dict[str, bytes] | list[tuple[str, bytes]]) -> Path:
    """An archive in the form its name says, with these entries in this order."""
    entries = list(files.items()) if isinstance(files, dict) else files
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for name, data in entries:
                file.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
        return path
    with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as file:
        for name, data in entries:
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o7777
            file.addfile(info, io.BytesIO(data))
    return path


def make_tar(path: Path, **fields) -> Path:
    with tarfile.open(path, "w") as file:
        info = tarfile.TarInfo("set/odd")
        for key, value in fields.items():
            setattr(info, key, value)
        file.addfile(info)
    return path


def refuse(archive: Path, message: str, limits: Limits = DEFAULT) -> None:
    """Refused with this text, and nothing is left beside or below the target."""
    before = sorted(archive.parent.rglob("*"))
    with pytest.raises(ValueError, match=message), scratch_folder(archive.parent / "data/target") as scratch:
        unpack(archive, scratch, limits)
    assert sorted(archive.parent.rglob("*")) == before


@pytest.mark.parametrize("form", FORMS)
def test_files_come_out_as_they_went_in_with_plain_permissions(form: str, tmp_path: Path) -> None:
    archive, into = make(tmp_path / form, GOOD), tmp_path / "out"
    into.mkdir()
    written = unpack(archive, into, Limits())
    assert {name: (into / name).read_bytes() for name in written} == GOOD
    assert written == {name: (len(data), hashlib.sha256(data).hexdigest()) for name, data in GOOD.items()}
    modes = {stat.S_IMODE((into / name).stat().st_mode) for name in GOOD}
    assert all(mode & 0o7111 == 0 for mode in modes)


def test_only_wanted_files_are_written_but_all_are_checked(tmp_path: Path) -> None:
    into = tmp_path / "out"
    into.mkdir()
    good = make(tmp_path / "a.zip", GOOD)
    assert list(unpack(good, into, Limits(), lambda path: path == "set/deep/two.txt")) == ["set/deep/two.txt"]
    assert [path.name for path in into.rglob("*") if path.is_file()] == ["two.txt"]
    with pytest.raises(ValueError, match="climbs out"):
        unpack(make(tmp_path / "b.zip", {"../x": b""}), into, Limits(), lambda path: False)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            [("set/ok", b""), ("../evil", b"x")],
            r"its entry '\.\./evil' climbs out with '\.\.'\. Expected paths that stay",
        ),
        ([("set/../../evil", b"x")], r"climbs out with '\.\.'"),
        ([("/etc/evil", b"x")], r"'/etc/evil' is an absolute path"),
        ([("C:/evil", b"x")], r"'C:/evil' starts with a drive letter"),
        ([("set\\evil", b"x")], r"has a backslash or control character"),
        ([("set/a\nb", b"x")], r"has a backslash or control character"),
        ([("set/a", b"1"), ("set/a", b"2")], r"'set/a' occurs twice\. Expected every file once"),
        ([("set/a", b"1"), ("set/./a", b"2")], r"'set/\./a' occurs twice"),
        ([("set/a", b"1"), ("SET/b", b"2")], r"'SET/b' differs from 'set' only in case"),
        ([("set/a", b"1"), ("set/A", b"2")], r"'set/A' differs from 'set/a' only in case"),
        ([("set/a", b"1"), ("set/a/b", b"2")], r"'set/a/b' makes 'set/a' both a file and a folder"),
        ([("set/a/b", b"1"), ("set/a", b"2")], r"'set/a' makes 'set/a' both a file and a folder"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_a_name_that_could_harm_is_refused_and_nothing_is_left(form, entries, message, tmp_path) -> None:
    refuse(make(tmp_path / form, entries), f"was refused: .*{message}")


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "symbolic link"),
        ({"type": tarfile.SYMTYPE, "linkname": "one.txt"}, "symbolic link"),
        ({"type": tarfile.LNKTYPE, "linkname": "set/one.txt"}, "hard link"),
        ({"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}, "device or other special file"),
        ({"type": tarfile.FIFOTYPE}, "device or other special file"),
        ({"type": tarfile.GNUTYPE_SPARSE}, "(sparse file|device|no end marker)"),
    ],
)
def test_links_and_devices_in_a_tar_are_refused(fields, what, tmp_path) -> None:
    refuse(make_tar(tmp_path / "a.tar", **fields), what)


@pytest.mark.parametrize(("mode", "what"), [(stat.S_IFLNK, "symbolic link"), (stat.S_IFIFO, "device or other")])
def test_links_and_devices_in_a_zip_are_refused(mode, what, tmp_path) -> None:
    info = zipfile.ZipInfo("set/odd")
    info.external_attr, info.create_system = (mode | 0o777) << 16, 3
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(info, "/etc/passwd")
    refuse(tmp_path / "a.zip", f"its entry 'set/odd' is a {what}.*Expected only plain files and folders")


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    data = bytearray(make(tmp_path / "a.zip", {"set/a": b"secret"}).read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    refuse(tmp_path / "a.zip", "encrypted with a password")
    refuse(tmp_path / "a.zip", "unpack it yourself and give the folder")


@pytest.mark.parametrize("form", FORMS)
def test_too_many_entries_or_bytes_are_refused(form: str, tmp_path: Path) -> None:
    archive = make(tmp_path / form, GOOD)
    refuse(archive, "is entry 3. Expected at most 2 entries", Limits(max_entries=2))
    refuse(archive, "unpacks to 1,003 bytes.*Expected at most 1,002 bytes", Limits(max_bytes=1002))


@pytest.mark.parametrize("form", ["a.zip", "a.tar.gz"])
def test_a_bomb_is_refused_before_it_is_written(form: str, tmp_path: Path) -> None:
    archive = make(tmp_path / form, {"set/zeros": bytes(120 << 20)})
    assert archive.stat().st_size < 1 << 20
    refuse(archive, "times its size. Expected at most .* and 100 times; it may be a bomb")


def test_a_zip_that_lies_about_a_size_is_damaged_not_unpacked(tmp_path: Path) -> None:
    data = bytearray(make(tmp_path / "a.zip", {"set/zeros": bytes(1 << 20)}).read_bytes())
    at = data.index(b"PK\x01\x02") + 24
    data[at : at + 4] = (1000).to_bytes(4, "little")
    (tmp_path / "a.zip").write_bytes(data)
    refuse(tmp_path / "a.zip", "is damaged or cut short")


@pytest.mark.parametrize("form", FORMS)
def test_an_archive_cut_anywhere_is_refused(form: str, tmp_path: Path) -> None:
    noise = hashlib.shake_256(b"seed").digest(5000)
    whole = make(tmp_path / form, {"set/a": noise, "set/b": noise, "set/c": b"end"}).read_bytes()
    end = len(whole) if form != "a.tar" else whole.rindex(b"end") + 512  # zeros follow, of which one block is needed
    for size in (1, 100, 511, 512, 1000, 5200, 5700, end // 2, end - 3):
        if size < end:
            (tmp_path / form).write_bytes(whole[:size])
            refuse(tmp_path / form, "is damaged or cut short: .*Expected a complete archive")


@pytest.mark.parametrize("form", FORMS)
def test_an_empty_file_is_no_archive(form: str, tmp_path: Path) -> None:
    (tmp_path / form).touch()
    refuse(tmp_path / form, r"is empty \(0 bytes\)\. Expected an archive; get it again")


@pytest.mark.parametrize("form", ["a.zip", "a.tar.gz"])
def test_a_flipped_bit_in_the_content_is_noticed(form: str, tmp_path: Path) -> None:
    data = bytearray(make(tmp_path / form, {"set/a": hashlib.shake_256(b"x").digest(5000)}).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / form).write_bytes(data)
    refuse(tmp_path / form, "is damaged or cut short")


def test_a_damaged_header_in_the_middle_of_a_tar_is_not_taken_for_its_end(tmp_path: Path) -> None:
    data = bytearray(make(tmp_path / "a.tar", GOOD).read_bytes())
    data[data.index(b"set/deep")] ^= 1
    (tmp_path / "a.tar").write_bytes(data)
    refuse(tmp_path / "a.tar", "is damaged or cut short: no end marker after 1 entries")


def test_much_after_the_end_of_a_tar_is_refused(tmp_path: Path) -> None:
    whole = gzip.decompress(make(tmp_path / "a.tgz", GOOD).read_bytes()) + bytes(70 << 20)
    (tmp_path / "a.tgz").write_bytes(gzip.compress(whole, 1))
    refuse(tmp_path / "a.tgz", "more than 64 MiB follow")


@given(st.text(alphabet="ab./\\:\0 C", max_size=12))
def test_a_name_that_is_not_refused_stays_below_the_target(name: str) -> None:
    if unsafe(name) is None:
        target = Path("/somewhere/target")
        assert Path(target, *[part for part in name.split("/") if part]).resolve().is_relative_to(target)
