"""What holds for every test: no network, one thread, fixed seeds, no account anywhere."""

from __future__ import annotations

import ipaddress
import os
import random
import signal
import socket

os.environ.update(WANDB_MODE="disabled", HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", OMP_NUM_THREADS="1")

import numpy as np
import pytest
import torch

torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # of a shell's background job; some tests are about Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)
ATTEMPTS: list[str] = []


class NetworkUseError(RuntimeError):
    """A test tried to leave this machine."""


def is_local(host: object) -> bool:
    """Loopback, unspecified, this machine's own name, or no host at all (a Unix socket's path)."""
    name = host.decode() if isinstance(host, bytes) else host
    if not name or name in ("localhost", socket.gethostname()):
        return True
    try:
        address = ipaddress.ip_address(str(name).partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def guard(host: object, what: str) -> None:
    """Record and refuse. The record fails the test even where a library swallows the exception."""
    if not is_local(host):
        ATTEMPTS.append(f"{what} {host!r}")
        raise NetworkUseError(f"A test used the network: {what} {host!r}. Expected none; use a fixture on disk.")


def _guarded_connect(method):
    def connect(self, address):
        if self.family != socket.AF_UNIX:
            guard(address[0], "connect to")
        return method(self, address)

    return connect


def _guarded(function, what: str, host_of):
    def call(first, *args, **kwargs):
        guard(host_of(first), what)
        return function(first, *args, **kwargs)

    return call


@pytest.fixture(autouse=True, scope="session")
def no_network():
    patch = pytest.MonkeyPatch()
    for name in ("connect", "connect_ex"):
        patch.setattr(socket.socket, name, _guarded_connect(getattr(socket.socket, name)))
    patch.setattr(
        socket, "create_connection", _guarded(socket.create_connection, "connect to", lambda address: address[0])
    )
    patch.setattr(socket, "getaddrinfo", _guarded(socket.getaddrinfo, "look up", lambda host: host))
    yield
    patch.undo()


@pytest.fixture(autouse=True)
def fixed_seeds_and_no_network_use(no_network):
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    yield
    attempts = list(ATTEMPTS)
    ATTEMPTS.clear()
    if attempts:
        pytest.fail(f"This test used the network: {', '.join(attempts)}. Expected none.", pytrace=False)


@pytest.fixture
def network_attempts():
    """The attempts recorded so far; a test that provokes some clears the list."""
    return ATTEMPTS
