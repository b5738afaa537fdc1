"""Workers take a cell by writing its lease, under a lock, and give it up afterwards, so that no cell is done twice.

A lease is held by a live process: it says where (host, boot, PID namespace, pid, start of that process) and is
refreshed every few seconds. A process of the same host and namespace that is gone has left its lease free at once,
however it died. From another host, or another container that calls itself by the same host name (its pids are not
ours), it is free when it was not refreshed for `EXPIRES` seconds, by the file server's own clock.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from datamodules.folder_scan import scan
from lightning_modules.atomic import replace_file

REFRESH, EXPIRES = 2.0, 60.0
HOLDER = ("host", "boot", "space", "pid", "mark", "worker")


def process_mark(pid: int) -> str | None:
    """When a process of this host began, in ticks since boot (a pid alone may be used again); None where none is."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None if Path("/proc/self/stat").exists() else _alive(pid)
    return None if fields[0] in "ZX" else fields[19]


def _alive(pid: int) -> str | None:
    """Where there is no /proc: whether the pid is in use is all that can be known."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "alive"


def boot_id() -> str:
    """Names this boot of this machine, so that a copied folder or a restarted host is not mistaken."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def pid_space() -> str:
    """Names the set of processes a pid of ours belongs to: containers have sets of their own, on one host and boot."""
    with suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""


def this_machine() -> dict[str, Any]:
    """host, boot and space: where the pids of leases mean what they mean here."""
    return {"host": socket.gethostname(), "boot": boot_id(), "space": pid_space()}


def this_process() -> dict[str, Any]:
    """`this_machine`, pid and mark, as leases name the process that holds them."""
    return this_machine() | {"pid": os.getpid(), "mark": process_mark(os.getpid())}


class Leases:
    """The leases below a folder, for one worker.

    worker: its name in these leases (`w0`, an actor's name).
    """

    def __init__(self, folder: Path, worker: str) -> None:
        self.folder, self.worker, self.token = folder, worker, uuid.uuid4().hex
        self.me = this_process() | {"worker": worker, "token": self.token}
        self._held = ""
        self._progress: dict[str, Any] = {}
        self._stop = threading.Event()

    # ---- taking and giving up --------------------------------------------------------------------------------------
    def take(self, cell_id: str, **about: Any) -> bool:
        """Take a free lease; False where another live worker holds it. about: what others may read of the cell."""
        with locked(self.folder):
            if not self.is_free(cell_id):
                return False
            self._held, self._progress = cell_id, {"before": self._left_by(cell_id), **about}
            self._write()
        self._stop.clear()
        threading.Thread(target=self._refresh, args=(self._stop,), daemon=True).start()
        return True

    def give_up(self) -> None:
        """Let go of the lease that is held, if it is still ours."""
        self._stop.set()
        if self._held:
            with locked(self.folder):
                if self._is_mine():
                    self._path(self._held).unlink(missing_ok=True)
            self._held = ""

    @contextmanager
    def still_mine(self) -> Iterator[bool]:
        """Whether the lease is still ours, held fixed while the block runs: for writing down a result exactly once."""
        with locked(self.folder):
            yield self._is_mine()

    def report(self, **progress: Any) -> None:
        """Note phase and step of the cell, for others to read in the lease; written with the next refresh."""
        self._progress |= progress

    # ---- looking ---------------------------------------------------------------------------------------------------
    def is_free(self, cell_id: str) -> bool:
        """No lease, or one whose holder is gone."""
        path = self._path(cell_id)
        lease = read_lease(path)
        if lease is None:
            return True
        if this_machine().items() <= lease.items():
            return process_mark(lease["pid"]) != lease["mark"]
        try:
            return self._server_time() - path.stat().st_mtime > EXPIRES
        except FileNotFoundError:
            return True

    def _server_time(self) -> float:
        """The file server's clock: this host's may be wrong."""
        probe = self.folder / f".clock-{self.token}"
        probe.touch()
        try:
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)

    # ---- inside ----------------------------------------------------------------------------------------------------
    def _left_by(self, cell_id: str) -> list[dict[str, Any]]:
        """The workers that died with this cell in hand, so that an engine can still tell whose it was."""
        lease = read_lease(self._path(cell_id))
        return [*lease.get("before", []), {key: lease.get(key) for key in HOLDER}][-8:] if lease else []

    def _path(self, cell_id: str) -> Path:
        return self.folder / f"{cell_id}.json"

    def _is_mine(self) -> bool:
        lease = read_lease(self._path(self._held)) if self._held else None
        return lease is not None and lease["token"] == self.token

    def _write(self) -> None:
        replace_file(self._path(self._held), json.dumps(self.me | self._progress).encode(), sync=False)

    def _refresh(self, stop: threading.Event) -> None:
        while not stop.wait(REFRESH):
            with suppress(OSError), locked(self.folder):  # a full disk must not end a cell that is nearly done
                if stop.is_set() or not self._is_mine():
                    return
                self._write()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time, on all hosts that share the folder; the lock dies with its process."""
    with open(folder / ".lock", "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_held_by(lease: Mapping[str, Any], worker: Mapping[str, Any]) -> bool:
    """worker: what a lease of its says of it, all or some of `HOLDER`."""
    return all(lease.get(key) == value for key, value in worker.items())


def drop_leases(folder: Path, worker: Mapping[str, Any]) -> None:
    """Free at once what a worker held that is known to be dead, wherever it ran."""
    with locked(folder):
        for key, lease in read_leases(folder).items():
            if is_held_by(lease, worker):
                (folder / f"{key}.json").unlink(missing_ok=True)


def read_lease(path: Path) -> dict[str, Any] | None:
    """A lease, or None where there is none (or a damaged one, which nobody can be holding)."""
    try:
        lease = json.loads(path.read_text())
        return lease if {"host", "boot", "pid", "mark", "token"} <= lease.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def read_leases(folder: Path) -> dict[str, dict[str, Any]]:
    """cell id -> lease, of all that are written down (their holders may be gone)."""
    found = {path.stem: read_lease(path) for path in scan(folder, "*.json")}
    return {key: lease for key, lease in found.items() if lease is not None}
