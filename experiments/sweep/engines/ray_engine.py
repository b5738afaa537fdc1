"""The Ray engine: actors on every host of a cluster take cells as any worker does, and keep the source they loaded."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray

from datamodules.whole_files.disk import is_full
from experiments.sweep.engines import worker_gpus
from experiments.sweep.engines.pool import PATIENCE, Pool, last_line, python_path
from experiments.sweep.engines.ray_actor import Call, SweepActor
from experiments.sweep.engines.ray_cluster import connected, slots
from experiments.sweep.folder import SweepFolder
from experiments.sweep.worker import THREADS

GROW = 10.0  # seconds between looks at the cluster
FORWARDED = ("TVP_CACHE", "TVP_CACHE_GIB", "WANDB_MODE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


def run_ray(folder: SweepFolder, plan: str, options: dict[str, Any], watch: Callable[[], None]) -> None:
    """Start actors, replace those that die, return when every cell has ended.

    options: `jobs`, how many actors (0: what the cluster has room for). `gpus` of each. `address` of a running cluster
    (`auto`: the one of this host, or RAY_ADDRESS); empty starts one here. watch: called a few times a second.

    Raises:
        KeyboardInterrupt: Ctrl-C; the actors have stopped. OSError: a disk is full.
        ValueError: no such cluster, or a host of it has other code or does not see the sweep's folder.
        SweepStopped: actors cannot start.
    """
    jobs, gpus = int(options["jobs"]), worker_gpus(options["gpus"])
    with connected(options["address"], jobs), Call(folder.leases) as call:
        _Actors(folder, plan, call, jobs=jobs, gpus=gpus).run(watch)


class _Member:
    """One actor. answer: what it was asked last. identity: as leases name its process; None before it answered."""

    def __init__(self, actor: Any, name: str) -> None:
        self.actor, self.name, self.answer = actor, name, actor.hello.remote()
        self.identity: dict[str, Any] | None = None


class _Actors(Pool):
    """As many actors as the cluster has room for, or `jobs` of them."""

    def __init__(self, folder: SweepFolder, plan: str, call: Call, *, jobs: int, gpus: float) -> None:
        super().__init__(folder, plan, where="the logs of Ray below /tmp/ray/session_latest/logs")
        self.call, self.jobs = call, jobs
        self.gpus = gpus if any(node["Resources"].get("GPU") for node in _nodes()) else 0.0
        self.members: list[_Member] = []
        self._made, self._look_again = 0, 0.0

    def tend(self) -> None:
        """Have as many actors as there is room for, and ask each that answered for the next cell."""
        if time.time() >= self._look_again:
            self._look_again = time.time() + GROW
            while len(self.members) < self._wanted():
                self.members.append(self._start())
        answers = [member.answer for member in self.members]
        ready, _ = ray.wait(answers, num_returns=len(answers), timeout=0)
        for member in [member for member in self.members if member.answer in ready]:
            self._heard(member)

    def _wanted(self) -> int:
        """One at least: it starts when there is room for it."""
        return max(1, min(self.jobs or slots(_nodes(), self.gpus), len(self.cells)))

    def _start(self) -> _Member:
        name, self._made = f"ray{self._made}", self._made + 1
        make = ray.remote(
            num_cpus=1,
            num_gpus=self.gpus,
            scheduling_strategy="SPREAD",
            max_restarts=0,  # replaced by us, so that a cell which kills its workers is noticed
            runtime_env={"env_vars": _environment()},
        )(SweepActor)
        return _Member(
            make.remote(str(self.folder.path.resolve()), self.plan, name, self.call.token, os.getcwd()), name
        )

    # ---- what they answer --------------------------------------------------------------------------------------------
    def _heard(self, member: _Member) -> None:
        try:
            said = ray.get(member.answer)
        except ray.exceptions.RayTaskError as error:
            self._fault(member, error.cause)
        except ray.exceptions.RayError as error:
            self._died(member, error)
        else:
            member.identity = member.identity or said
            member.answer = member.actor.work.remote()

    def _fault(self, member: _Member, error: Exception) -> None:
        """Its code raised: what people must see ends the sweep, anything else is as if it had died."""
        if isinstance(error, ValueError) or is_full(error):
            raise error
        ray.kill(member.actor)
        self._replace(member, f"{type(error).__name__}: {error}")

    def _died(self, member: _Member, error: Exception) -> None:
        """Its process is gone, or its whole host is out of reach (then its lease is left to expire: it may go on)."""
        if "failed to import" in str(error) or "ModuleNotFoundError" in str(error):
            raise ValueError(
                f"A worker of the Ray cluster cannot import this project ({last_line(error)}). Install the same "
                "version on every host: `pip install -e '.[ray]'`."
            ) from None
        if member.identity and member.identity["node"] not in {node["NodeID"] for node in _nodes()}:
            self.members[self.members.index(member)] = self._start()
            return
        ray.kill(member.actor)
        self._replace(member, "its process ended, out of memory?")

    def _replace(self, member: _Member, how: str) -> None:
        identity = member.identity or {}
        self.count_death({key: identity.get(key) for key in ("host", "boot", "space", "pid", "mark")}, how)
        self.members[self.members.index(member)] = self._start()

    def stop(self) -> None:
        """Call all actors off, wait until they have stopped where they are, and end those that do not."""
        try:
            self.call.off()
            started = [member.answer for member in self.members if member.identity]
            if started:
                ray.wait(started, num_returns=len(started), timeout=PATIENCE)
        finally:
            for member in self.members:
                ray.kill(member.actor)


def _nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _environment() -> dict[str, str]:
    """One thread, this checkout's sources where a host has them, and the switches that the other engines inherit."""
    kept = {key: os.environ[key] for key in FORWARDED if key in os.environ}
    if "TVP_CACHE" in kept:
        kept["TVP_CACHE"] = str(Path(kept["TVP_CACHE"]).resolve())
    return dict.fromkeys(THREADS, "1") | {"PYTHONPATH": python_path()} | kept
