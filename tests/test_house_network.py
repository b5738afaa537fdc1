"""The guard of conftest.py bites."""

import socket
import urllib.request

import pytest

OUTSIDE = ("192.0.2.1", 80)  # TEST-NET-1: never routed


def outside_connect():
    with socket.socket() as s:
        s.connect(OUTSIDE)


def outside_connect_ex():
    with socket.socket() as s:
        s.connect_ex(OUTSIDE)


@pytest.mark.parametrize(
    "use",
    [
        outside_connect,
        outside_connect_ex,
        lambda: socket.create_connection(OUTSIDE, timeout=1),
        lambda: socket.getaddrinfo("example.com", 80),
        lambda: urllib.request.urlopen("http://example.com", timeout=1),
    ],
    ids=["connect", "connect_ex", "create_connection", "getaddrinfo", "urlopen"],
)
def test_leaving_the_machine_is_refused_and_recorded(use, network_attempts):
    with pytest.raises(Exception, match="used the network"):
        use()
    assert network_attempts
    network_attempts.clear()


def test_loopback_is_allowed(network_attempts):
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()
    assert not network_attempts


def test_a_swallowed_attempt_still_fails_the_test(pytester_free_run):
    assert "used the network" in pytester_free_run


@pytest.fixture
def pytester_free_run(tmp_path):
    """The output of a pytest run over a test that swallows the refusal, with this conftest."""
    import subprocess
    import sys
    from pathlib import Path

    (tmp_path / "conftest.py").write_text(Path(__file__).with_name("conftest.py").read_text())
    (tmp_path / "test_swallow.py").write_text(
        "import socket\n\ndef test_swallow():\n    try:\n        socket.getaddrinfo('example.com', 80)\n"
        "    except Exception:\n        pass\n"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        str(tmp_path),
        "--rootdir",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1, done.stdout
    return done.stdout
