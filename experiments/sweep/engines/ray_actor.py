"""A worker in a process of Ray: a driver calls it to work, and it stops when the driver takes that call back."""

from __future__ import annotations

import errno
import os
import signal
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import ray

from experiments.sweep.folder import SweepFolder
from experiments.sweep.leases import this_process
from experiments.sweep.worker import work
from lightning_modules.code_version import ROOT

SEEN = 10.0  # seconds that a shared folder may take to show a new file


class Call:
    """A context: a file that actors on all hosts see for as long as their driver wants them to work."""

    def __init__(self, folder: Path) -> None:
        self.token = uuid.uuid4().hex
        self.path = call_path(folder, self.token)

    def __enter__(self) -> Call:
        self.path.touch()
        return self

    def off(self, *error: object) -> None:
        self.path.unlink(missing_ok=True)

    __exit__ = off


def call_path(leases: Path, token: str) -> Path:
    return leases / f".call-{token}"


class SweepActor:
    """A worker. It computes in the main thread of its process, so that it can be interrupted as by Ctrl-C.

    Args:
        out: the sweep's folder. plan: digest. name: what leases call this worker. call: token of the driver's `Call`.
        home: folder that relative paths are meant from; the checkout where this host has none of that name.
    """

    def __init__(self, out: str, plan: str, name: str, call: str, home: str) -> None:
        self.out, self.plan, self.name = Path(out), plan, name
        self.call, self.home = call_path(self.out / "leases", call), Path(home)
        self.working = self.stopped = False

    def hello(self) -> dict[str, Any]:
        """host, boot, pid, mark as in leases, and the Ray node.

        Raises:
            ValueError: this host does not see the driver's folder.
        """
        self._check_shared()
        os.chdir(self.home if self.home.is_dir() else ROOT)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])  # Ray starts its processes deaf to it
        threading.Thread(target=self._listen, daemon=True).start()
        return this_process() | {"node": ray.get_runtime_context().get_node_id()}

    def _check_shared(self) -> None:
        until = time.time() + SEEN
        while not self._called():
            if time.time() > until:
                raise ValueError(
                    f"Host {socket.gethostname()} does not see the sweep's folder '{self.out}' as the host that runs "
                    "the sweep does. All hosts of a cluster must share it under one path: choose an out=DIR that they "
                    "share, or engine=local."
                )
            time.sleep(0.5)
        SweepFolder(self.out)

    def work(self) -> int:
        """The next cell; 0 when all have ended or the driver called off. The source stays loaded between calls."""
        self.working = True
        try:
            return work(self.out, self.plan, self.name, stop=lambda: self.stopped, limit=1)
        except KeyboardInterrupt:
            self.stopped = True
            return 0
        finally:
            self.working = False

    # ---- being called off --------------------------------------------------------------------------------------------
    def _listen(self) -> None:
        """In a thread: interrupt the cell when the call is gone."""
        while self._called():
            time.sleep(1)
        self.stopped = True
        if self.working:
            main = threading.main_thread().ident
            assert main is not None  # it was started
            signal.pthread_kill(main, signal.SIGINT)  # also out of a wait

    def _called(self) -> bool:
        """Opened, not looked up: network file systems answer that from the server. A fault of theirs is no answer."""
        try:
            open(self.call, "rb").close()
        except OSError as error:
            return error.errno not in (errno.ENOENT, errno.ENOTDIR)
        return True
