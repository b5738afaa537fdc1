"""The SLURM engine, through submitit: workers are the jobs of an array, replaced when their time is up."""

from __future__ import annotations

import errno
import math
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from experiments.sweep.cells import ROOT
from experiments.sweep.engines import worker_gpus
from experiments.sweep.engines.deaths import Deaths
from experiments.sweep.engines.slurm_options import gpu_parameters, read_options
from experiments.sweep.folder import SweepFolder
from experiments.sweep.leases import process_mark
from experiments.sweep.worker import FULL_DISK, OTHER_CODE, STOPPED, THREADS, main

JOBS = 4  # workers where jobs= does not say
LOOK = 0.5  # seconds between looks at the jobs
ENDING = 5  # seconds that workers have to end by themselves
PATIENCE = 120  # seconds that jobs on this host have to stop after Ctrl-C


def run_slurm(folder: SweepFolder, plan: str, options: dict[str, Any], watch: Callable[[], None]) -> None:
    """Submit workers as one job array, replace those that end too early, return when every cell has ended.

    options: `jobs`, how many workers (0: 4), `gpus` of each, `slurm`: parameters. Logs go to OUT/slurm.

    Raises:
        KeyboardInterrupt: Ctrl-C; the jobs are cancelled. OSError: the disk is full.
        ValueError: a parameter, or other code on a node. RuntimeError: jobs end and nothing gets done.
    """
    cluster, parameters = read_options(options["slurm"])
    parameters |= gpu_parameters(worker_gpus(options["gpus"]), cluster, parameters)
    queue = _Queue(folder, plan, cluster, parameters)
    try:
        wanted = min(int(options["jobs"]) or JOBS, len(queue.cells))
        queue.submit(math.ceil(wanted / parameters.get("tasks_per_node", 1)))
        while not queue.ended():
            queue.tend()
            watch()
            time.sleep(LOOK)
    finally:
        queue.stop()
    watch()


# ---- in a job --------------------------------------------------------------------------------------------------------
def slurm_worker(out: str, plan: str, driver: tuple[int, str] | None) -> int:
    """A worker in a job of submitit; returns the exit code of the worker program.

    driver: (pid, mark) of the process to die with; None: the job is on its own.
    """
    import submitit

    where = submitit.JobEnvironment()
    for name in (signal.SIGUSR1, signal.SIGUSR2):  # the time limit is near, the job is preempted: as Ctrl-C
        signal.signal(name, signal.default_int_handler)
    if driver is not None:
        os.setpgid(0, 0)
        threading.Thread(target=_die_with, args=driver, daemon=True).start()
    return main([out, plan, worker_name(where.job_id, where.global_rank), "0"])


def _die_with(pid: int, mark: str) -> None:
    while process_mark(pid) == mark:
        time.sleep(1)
    os._exit(1)


def worker_name(job: str, rank: int) -> str:
    return f"slurm{job}.{rank}"


# ---- the jobs --------------------------------------------------------------------------------------------------------
class _Queue:
    """The jobs that were submitted and what became of them."""

    def __init__(self, folder: SweepFolder, plan: str, cluster: str, parameters: dict[str, Any]) -> None:
        self.folder, self.plan, self.logs = folder, plan, folder.path.resolve() / "slurm"
        self.cells, _ = folder.read_plan(plan)
        self.deaths = Deaths(folder, self.cells, where=str(self.logs))
        self.driver = (os.getpid(), process_mark(os.getpid())) if cluster == "local" else None
        self.executor = _executor(self.logs, cluster, parameters)
        self.jobs: dict[Any, tuple] = {}

    def ended(self) -> bool:
        states = self.folder.states()
        return all(states.get(cell.id, {}).get("state") in ("finished", "failed") for cell in self.cells)

    def submit(self, count: int) -> None:
        """Raises ValueError where the cluster refuses; says what it said."""
        before, words = self._progress(), (str(self.folder.path.resolve()), self.plan, self.driver)
        try:
            with _inherited(), self.executor.batch():
                jobs = [self.executor.submit(slurm_worker, *words) for _ in range(count)]
        except Exception as error:
            refusal = f"SLURM refused the jobs: {_last_line(error)}. Change slurm=..., see docs/transfer_sweep.md."
            raise ValueError(refusal) from error
        self.jobs |= dict.fromkeys(jobs, before)

    def _progress(self) -> tuple[int, float]:
        """(cells that ended, when a cell last wrote a checkpoint): it grows while jobs get anything done."""
        states = self.folder.states()
        ended = sum(states.get(cell.id, {}).get("state") in ("finished", "failed") for cell in self.cells)
        times = []
        for cell in self.cells:
            with suppress(OSError):
                times.append((self.folder.cells / cell.folder / "checkpoints" / "last.ckpt").stat().st_mtime)
        return ended, max(times, default=0.0)

    def tend(self) -> None:
        """Replace jobs that ended while cells are left: for as long as anything gets done between."""
        for job in [job for job in self.jobs if job.done()]:
            before = self.jobs.pop(job)
            cut_short = [self._outcome(job, rank) for rank in range(job.num_tasks)]
            if self.ended() or not any(cut_short):
                continue
            if self._progress() > before or "died" in cut_short:  # deaths are counted, and end in a message too
                self.submit(1)
        if not self.jobs and not self.ended():
            raise RuntimeError(
                f"The jobs have ended, nothing was done between, and cells are left. See {self.logs} for the reason; "
                "give them more time with slurm=timeout_min=N, then start the same command again."
            )

    def _outcome(self, job: Any, rank: int) -> str:
        """Empty where a worker did all it could, else `stopped` or `died`."""
        task = job.task(rank)
        code = _result(task)
        if code == 0:
            return ""
        if code == STOPPED:
            return "stopped"
        if code in (FULL_DISK, OTHER_CODE):
            said = _last_line(task.stdout() or "") or f"a job ended with exit code {code}"
            raise ValueError(said) if code == OTHER_CODE else OSError(errno.ENOSPC, said)
        name = worker_name(job.job_id, rank)
        self.deaths.count(lambda lease: lease.get("worker") == name, f"job {job.job_id} ended as {task.state}")
        return "died"

    def stop(self) -> None:
        """Cancel what waits or runs; workers that have just found nothing left end by themselves."""
        if self.ended():
            self._wait(ENDING)
        for job in [job for job in self.jobs if not job.done()]:
            with suppress(Exception):
                self._cancel(job)
        if self.driver:
            self._wait(PATIENCE)

    def _cancel(self, job: Any) -> None:
        if self.driver:  # submitit would kill its workers after a second
            os.kill(int(job.job_id), signal.SIGTERM)
        else:
            job.cancel(check=False)

    def _wait(self, seconds: float) -> None:
        until = time.time() + seconds
        while time.time() < until and not all(job.done() for job in self.jobs):
            time.sleep(0.1)


def _executor(logs: Path, cluster: str, parameters: dict[str, Any]) -> Any:
    import submitit

    try:
        executor = submitit.AutoExecutor(folder=logs, cluster=cluster)
        executor.update_parameters(**parameters)
    except RuntimeError as error:
        raise ValueError(
            f"No SLURM here ({error}). Run this on a node where `sbatch` works, try slurm=cluster=local, or use "
            "engine=local."
        ) from None
    except (AssertionError, TypeError, NameError) as error:
        raise ValueError(f"slurm=: {_last_line(error)}.") from None
    return executor


def _result(task: Any) -> int | None:
    """What the worker program returned; None where it died."""
    if not task.paths.result_pickle.exists():
        return None
    try:
        return task.result()
    except Exception:
        return None


def _last_line(text: object) -> str:
    lines = [line.strip() for line in str(text).strip().splitlines() if line.strip()]
    return re.sub(r"\.$", "", lines[-1]) if lines else ""


@contextmanager
def _inherited() -> Iterator[None]:
    """What jobs get from this process: one thread, this checkout, and no Ctrl-C (those of this host are told once)."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    given = dict.fromkeys(THREADS, "1") | {"PYTHONPATH": path}
    before = {key: os.environ.get(key) for key in given}
    os.environ.update(given)
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})
