"""Downloads arrive whole and right or not at all, whatever the server, the disk or the user does."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import datamodules.whole_files.http as transfer_module
from datamodules.whole_files.download import PausedError, download

pytest_plugins = ["support.data_server"]
ROOT = Path(__file__).resolve().parents[1]
DATA = hashlib.shake_256(b"data").digest(500_000)


def is_data(path: Path) -> None:
    if path.read_bytes() != DATA:
        raise ValueError("has another digest")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def get(mirror, path: Path, **options):
    said = []
    download((mirror["f.bin"],), path, show=said.append, **{"check": is_data, **options})
    assert path.read_bytes() == DATA and names(path.parent) == [path.name]
    return said


@pytest.fixture
def path(tmp_path, mirror):
    mirror.files["f.bin"] = DATA
    return tmp_path / "downloads" / "f.bin"


def test_a_file_arrives_whole_and_only_under_its_name(mirror, path):
    assert get(mirror, path, size=len(DATA)) == ["Downloading f.bin."]


def test_a_broken_connection_is_resumed_where_it_broke(mirror, path):
    mirror.break_after = [100_000, 50_000]
    said = get(mirror, path)
    assert [asked for _, asked in mirror.requests] == [None, "bytes=100000-", "bytes=150000-"]
    assert "broke off after 100,000 of 500,000 bytes. Attempt 2 of 5" in said[1]


def test_a_server_that_ignores_ranges_sends_it_again_and_it_is_right(mirror, path):
    mirror.break_after, mirror.ranges = [100_000], False
    get(mirror, path)


@pytest.mark.parametrize("etag", ['"two"', None])
def test_a_file_that_changes_between_two_attempts_is_never_joined(etag, mirror, path):
    mirror.files["f.bin"], mirror.break_after = b"x" * 400_000, [100_000]
    with pytest.raises(PausedError):
        download((mirror["f.bin"],), path, show=_stop_at("Attempt"), check=is_data)
    mirror.files["f.bin"], mirror.etag = DATA, etag
    get(mirror, path, trusted=False)


def test_a_changed_file_of_the_same_size_without_validators_is_caught_by_its_digest(mirror, path):
    mirror.etag, mirror.files["f.bin"], mirror.break_after = None, b"x" * len(DATA), [100_000]
    with pytest.raises(PausedError):
        download((mirror["f.bin"],), path, show=_stop_at("Attempt"), check=is_data)
    mirror.files["f.bin"] = DATA
    said = get(mirror, path)
    assert "once more from its beginning" in "\n".join(said)


def _stop_at(word):
    def show(line):
        if word in line:
            raise KeyboardInterrupt

    return show


def test_ctrl_c_keeps_the_part_and_says_how_to_go_on(mirror, path):
    mirror.break_after = [200_000]
    with pytest.raises(PausedError, match=r"Stopped\. 0\.2 MB of 'f\.bin' are kept in '.*f\.bin\.part'; the same comm"):
        download((mirror["f.bin"],), path, show=_stop_at("Attempt"))
    assert names(path.parent) == ["f.bin.part", "f.bin.part.json"]
    get(mirror, path)
    assert mirror.requests[-1][1] == "bytes=200000-"


def test_mirrors_are_tried_in_order_and_each_failure_is_named(mirror, path):
    mirror.status["gone"] = 404
    download((mirror["gone"], mirror["f.bin"]), path, check=is_data, show=print)
    assert path.read_bytes() == DATA
    mirror.status["busy"] = 503
    with pytest.raises(ConnectionError) as caught:
        download((mirror["gone"], mirror["busy"]), path.with_name("g"), show=print)
    text = str(caught.value)
    assert "Cannot download 'g'. No mirror gave it:" in text and "gone: answered 404 Not Found" in text
    assert "busy: answered 503 Service Unavailable (the last of 5 attempts)" in text


def test_the_next_mirror_goes_on_where_a_digest_will_tell(mirror, other_mirror, path):
    other = other_mirror
    other.files["f.bin"] = DATA
    mirror.break_after = [100_000, 0, 0, 0, 0, 0]
    download((mirror["f.bin"], other["f.bin"]), path, check=is_data, show=print)
    assert path.read_bytes() == DATA and other.requests == [("f.bin", "bytes=100000-")]


def test_without_a_digest_no_bytes_of_two_mirrors_are_joined(mirror, other_mirror, path):
    other = other_mirror
    other.files["f.bin"] = DATA
    mirror.break_after = [100_000, 0, 0, 0, 0, 0]
    download((mirror["f.bin"], other["f.bin"]), path, trusted=False, show=print)
    assert path.read_bytes() == DATA and other.requests == [("f.bin", None)]


def test_a_wrong_digest_leaves_nothing(mirror, path):
    mirror.files["f.bin"] = b"x" + DATA[1:]
    with pytest.raises(ConnectionError, match=r"f\.bin: has another digest"):
        download((mirror["f.bin"],), path, check=is_data, show=print)
    assert names(path.parent) == []


def test_another_size_than_published_is_refused_before_it_is_fetched(mirror, path):
    with pytest.raises(ConnectionError, match="offers 500,000 bytes; the published file has 499,999"):
        download((mirror["f.bin"],), path, size=499_999, show=print)
    assert names(path.parent) == []


def test_an_answer_without_a_length_is_measured_by_the_published_size(mirror, path):
    mirror.length, mirror.break_after = False, [100_000]
    get(mirror, path, size=len(DATA))


@pytest.mark.parametrize(
    ("name", "data", "kind", "message"),
    [
        ("f.zip", b"<html>Sign in", "text/html; charset=utf-8", r"a web page instead of the file \('<html>Sign in'\)"),
        ("f.zip", b"\n<!DOCTYPE html><html>", "application/zip", "sent a web page instead of the file"),
        ("f.zip", b"{}", "application/zip", "does not begin like a .zip file"),
        ("f.tar.gz", b"PK\3\4", "application/x-gzip", "does not begin like a .gz file"),
        ("f.tar", b"", "application/x-tar", "sent an empty file"),
    ],
)
def test_what_is_no_archive_is_refused(name, data, kind, message, mirror, tmp_path):
    mirror.files[name], mirror.content_type = data, kind
    with pytest.raises(ConnectionError, match=message):
        download((mirror[name],), tmp_path / "d" / name, show=print)
    assert names(tmp_path / "d") == []


@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://127.0.0.1/x", "//user:word@127.0.0.1/x"])
def test_a_redirect_to_another_scheme_or_with_a_password_is_refused(place, mirror, path):
    mirror.redirect["away"] = place
    with pytest.raises(
        ConnectionError, match=r"which is not followed|not a plain http or https address|is not allowed"
    ):
        download((mirror["away"],), path, show=print)
    assert names(path.parent) == []


def test_a_redirect_from_https_to_http_is_refused():
    request = transfer_module.urllib.request.Request("https://publisher.example/x")
    with pytest.raises(transfer_module.RefusedError, match="redirects from https to http"):
        transfer_module._Redirects().redirect_request(request, None, 302, "Found", {}, "http://publisher.example/x")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/x", "http://user:word@127.0.0.1/x", "data:,x"])
def test_other_addresses_than_plain_http_are_refused(url, tmp_path):
    with pytest.raises(ConnectionError, match="is not a plain http or https address"):
        download((url,), tmp_path / "x", show=print)


def test_a_redirect_within_http_is_followed(mirror, path):
    mirror.redirect["moved"] = mirror["f.bin"]
    download((mirror["moved"],), path, check=is_data, show=print)
    assert path.read_bytes() == DATA


def test_a_full_disk_keeps_the_part_and_says_so(mirror, path, monkeypatch):
    def full(answer, part, start, total, on_bytes):
        part.write_bytes(DATA[:1000])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(transfer_module, "_receive", full)
        with pytest.raises(
            OSError, match=r"The disk is full: 'f\.bin' cannot .* are kept in .*Free some space and run"
        ):
            download((mirror["f.bin"],), path, show=print)
    assert names(path.parent) == ["f.bin.part", "f.bin.part.json"]
    get(mirror, path)
    assert mirror.requests[-1][1] == "bytes=1000-"


def test_no_network_is_said_per_mirror(tmp_path, mirror):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/f.bin"
        with pytest.raises(
            ConnectionError, match=r"f\.bin: cannot be reached \(.*refused\) \(the last of 5 attempts\)"
        ):
            download((url,), tmp_path / "d/f.bin", show=print)
    assert names(tmp_path / "d") == []


def test_a_download_killed_at_any_moment_is_resumed_and_right(mirror, path):
    code = "import sys; from pathlib import Path; from datamodules.whole_files.download import download; "
    code += "download((sys.argv[1],), Path(sys.argv[2]))"
    mirror.files["f.bin"], mirror.pause = DATA * 20, 0.02
    part = path.with_name("f.bin.part")
    for stop in (1_000_000, 4_000_000):
        child = subprocess.Popen(
            [sys.executable, "-c", code, mirror["f.bin"], str(path)], cwd=ROOT, env=dict(os.environ)
        )
        deadline = time.monotonic() + 60
        while not (part.exists() and part.stat().st_size > stop):
            assert child.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert not path.exists()
    mirror.pause = 0.0
    download((mirror["f.bin"],), path, show=print)
    assert path.read_bytes() == DATA * 20 and names(path.parent) == ["f.bin"]
    starts = [int(asked.strip("bytes=-")) if asked else 0 for _, asked in mirror.requests]
    assert starts[0] == 0 and 1_000_000 < starts[1] < 4_000_000 < starts[2]


def test_a_token_goes_to_its_host_and_to_no_other(mirror, other_mirror, path):
    token = {"Authorization": "Bearer secret"}
    other_mirror.files["f.bin"] = DATA
    mirror.redirect |= {"near": mirror["f.bin"], "far": other_mirror["f.bin"]}
    for name in ("near", "far"):
        download((mirror[name],), path, check=is_data, show=print, private=token)
        assert path.read_bytes() == DATA
    assert [name for name, _ in mirror.requests] == ["near", "f.bin", "far"]
    assert mirror.tokens == ["Bearer secret"] * 3
    assert other_mirror.tokens == [None]


def test_the_offered_size_is_known_before_the_file_is_fetched(mirror, path):
    assert transfer_module.offered_size(mirror["f.bin"]) == len(DATA)
    mirror.length = False
    assert transfer_module.offered_size(mirror["f.bin"]) is None
