"""Joining a Ray cluster, or starting one here: with messages instead of long silences; and what it has room for."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray

from experiments.sweep.engines.pool import last_line
from experiments.sweep.slots import GIB_PER_CPU_SLOT, usable_cores

JOIN = 40  # seconds that a running cluster has to answer
ATTEMPTS = 3  # to start a cluster here
REACH = 5  # seconds to connect to its port
STORE = 100 << 20  # bytes for Ray's object store: nothing large travels
PROBE = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False, logging_level=50); ray.shutdown()"


@contextmanager
def connected(address: str, jobs: int) -> Iterator[None]:
    """Inside, this process is a driver of the cluster at `address`, or of one of its own that ends with it.

    Raises:
        ValueError: nothing answers there within `JOIN` seconds, or another version of Ray does.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address:
        check_reachable(address)
        ray.init(address=address, **quiet)
    else:
        _start_here(jobs, quiet)
    try:
        yield
    finally:
        ray.shutdown()


def _start_here(jobs: int, quiet: dict[str, Any]) -> None:
    """A cluster of this host alone. Ray gives its own helper processes 15 s to start: too few on a busy host.

    Raises:
        ValueError: it did not start.
    """
    own: dict[str, Any] = {
        "num_cpus": max(jobs, usable_cores()),
        "include_dashboard": False,
        "object_store_memory": STORE,
    }
    for attempt in range(ATTEMPTS):
        try:
            ray.init(address="local", **own, **quiet)
            return
        except Exception as error:
            ray.shutdown()
            end_half_started(error)
            if attempt == ATTEMPTS - 1:
                raise ValueError(
                    f"Ray did not start on this host ({error}). See /tmp/ray/session_latest/logs; try again when the "
                    "host is less busy, or use engine=local."
                ) from None


def end_half_started(error: BaseException) -> None:
    """Ray leaves the processes of a start that failed until this one ends; the node that failed is in the traceback."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        end = getattr(frame.f_locals.get("self"), "kill_all_processes", None)
        if end is not None:
            end(check_alive=False, allow_graceful=False, wait=True)
            return


def check_reachable(address: str) -> None:
    """Try it in a process that can be ended: Ray itself waits for minutes, or aborts.

    Raises:
        ValueError: not an address, or nobody answers.
    """
    host, _, port = address.rpartition(":")
    if address != "auto":
        if not (host and port.isdigit()) or "/" in host:
            raise ValueError(f"Expected address=auto or address=HOST:PORT as `ray start` prints it, got '{address}'.")
        try:
            socket.create_connection((host, int(port)), timeout=REACH).close()
        except (OSError, OverflowError) as error:
            raise _unreachable(address, str(error)) from None
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROBE, address], capture_output=True, text=True, timeout=JOIN, check=False
        )
    except subprocess.TimeoutExpired:
        raise _unreachable(address, f"no answer within {JOIN} s") from None
    if done.returncode:
        raise _unreachable(address, last_line(done.stderr) or f"exit code {done.returncode}")


def _unreachable(address: str, why: str) -> ValueError:
    return ValueError(
        f"No Ray cluster at address={address} ({why}). Start one with `ray start --head` and give the address it "
        "prints, or leave address= out to use this host alone."
    )


def slots(nodes: Sequence[dict[str, Any]], gpus: float) -> int:
    """How many workers fit, host by host. nodes: as `ray.nodes()` has them. gpus: of each worker (0: a core each)."""
    return sum(_node_slots(node["Resources"], gpus) for node in nodes)


def _node_slots(room: dict[str, float], gpus: float) -> int:
    cores = int(room.get("CPU", 0))
    if gpus:
        return min(cores, int(room.get("GPU", 0) / gpus + 1e-6))
    return min(cores, int(room.get("memory", 0)) // (GIB_PER_CPU_SLOT << 30))
