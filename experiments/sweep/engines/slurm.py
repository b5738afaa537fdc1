"""The SLURM engine, through submitit: workers are the jobs of an array, replaced when their time is up."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import submitit

from experiments.sweep.engines import SweepStopped, worker_gpus
from experiments.sweep.engines.pool import PATIENCE, Pool, last_line, python_path, raise_problem
from experiments.sweep.engines.slurm_options import gpu_parameters, read_options
from experiments.sweep.folder import SweepFolder
from experiments.sweep.leases import process_mark
from experiments.sweep.worker import STOPPED, THREADS, main

JOBS = 4  # workers where jobs= does not say
ENDING = 5  # seconds that workers have to end by themselves


def run_slurm(folder: SweepFolder, plan: str, options: dict[str, Any], watch: Callable[[], None]) -> None:
    """Submit workers as one job array, replace those that end too early, return when every cell has ended.

    options: `jobs`, how many workers (0: 4), `gpus` of each, `slurm`: parameters. Logs go to OUT/slurm.

    Raises:
        KeyboardInterrupt: Ctrl-C; the jobs are cancelled. OSError: the disk is full.
        ValueError: a parameter, or other code on a node. SweepStopped: jobs end and nothing gets done.
    """
    cluster, parameters = read_options(options["slurm"])
    parameters |= gpu_parameters(worker_gpus(options["gpus"]), cluster, parameters)
    _Jobs(folder, plan, cluster, parameters, workers=int(options["jobs"]) or JOBS).run(watch)


# ---- in a job --------------------------------------------------------------------------------------------------------
def slurm_worker(out: str, plan: str, driver: tuple[int, str | None] | None) -> int:
    """A worker in a job of submitit; returns the exit code of the worker program.

    driver: (pid, mark) of the process to die with; None: the job is on its own.
    """
    where = submitit.JobEnvironment()
    for name in (signal.SIGUSR1, signal.SIGUSR2):  # the time limit is near, the job is preempted: as Ctrl-C
        signal.signal(name, signal.default_int_handler)
    if driver is not None:
        os.setpgid(0, 0)
        threading.Thread(target=_die_with, args=driver, daemon=True).start()
    return main([out, plan, worker_name(where.job_id, where.global_rank), "0"])


def _die_with(pid: int, mark: str | None) -> None:
    while process_mark(pid) == mark:
        time.sleep(1)
    os._exit(1)


def worker_name(job: str, rank: int) -> str:
    return f"slurm{job}.{rank}"


# ---- the jobs --------------------------------------------------------------------------------------------------------
class _Jobs(Pool):
    """The jobs that were submitted: first one array, then one job for each that was cut short."""

    def __init__(
        self, folder: SweepFolder, plan: str, cluster: str, parameters: dict[str, Any], *, workers: int
    ) -> None:
        logs = folder.path.resolve() / "slurm"
        super().__init__(folder, plan, where=str(logs))
        self.driver = (os.getpid(), process_mark(os.getpid())) if cluster == "local" else None
        self.executor = _executor(logs, cluster, parameters)
        self.first = math.ceil(min(workers, len(self.cells)) / parameters.get("tasks_per_node", 1))
        self.jobs: dict[Any, tuple[int, float]] = {}

    def submit(self, count: int) -> None:
        """Raises ValueError where the cluster refuses; says what it said."""
        before, words = self._progress(), (str(self.folder.path.resolve()), self.plan, self.driver)
        try:
            with _inherited(), self.executor.batch():
                jobs = [self.executor.submit(slurm_worker, *words) for _ in range(count)]
        except Exception as error:
            said = last_line(error).removesuffix(".")
            raise ValueError(
                f"SLURM refused the jobs: {said}. Change slurm=..., see docs/transfer_sweep.md."
            ) from error
        self.jobs |= dict.fromkeys(jobs, before)

    def _progress(self) -> tuple[int, float]:
        """(cells that ended, when a cell last wrote a checkpoint): it grows while jobs get anything done."""
        waiting, times = self.folder.states().counts(self.cells)["waiting"], []
        for cell in self.cells:
            with suppress(OSError):
                times.append((self.folder.cells / cell.folder / "checkpoints" / "last.ckpt").stat().st_mtime)
        return len(self.cells) - waiting, max(times, default=0.0)

    def tend(self) -> None:
        """Submit the array; then replace jobs that were cut short, for as long as anything gets done between."""
        if self.first:
            self.submit(self.first)
            self.first = 0
        for job in [job for job in self.jobs if job.done()]:
            before = self.jobs.pop(job)
            cut_short = [self._outcome(job, rank) for rank in range(job.num_tasks)]
            if self.done() or not any(cut_short):
                continue
            if self._progress() > before or "died" in cut_short:  # deaths are counted, and end in a message too
                self.submit(1)
        if not self.jobs and not self.done():
            raise SweepStopped(
                f"The jobs have ended, nothing was done between, and cells are left. See {self.where} for the reason; "
                "give them more time with slurm=timeout_min=N, then start the same command again."
            )

    def _outcome(self, job: Any, rank: int) -> str:
        """Empty where a worker did all it could, else `stopped` or `died`."""
        task = job.task(rank)
        code = _result(task)
        if code in (0, STOPPED):
            return "stopped" if code else ""
        if code is not None:
            raise_problem(code, last_line(task.stdout() or "") or f"a job ended with exit code {code}")
        self.count_death({"worker": worker_name(job.job_id, rank)}, f"job {job.job_id} ended as {task.state}")
        return "died"

    def stop(self) -> None:
        """Cancel what waits or runs; workers that have just found nothing left end by themselves."""
        if self.done():
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
    try:
        executor = submitit.AutoExecutor(folder=logs, cluster=cluster)
        executor.update_parameters(**parameters)
    except RuntimeError as error:
        raise ValueError(
            f"No SLURM here ({error}). Run this on a node where `sbatch` works, try slurm=cluster=local, or use "
            "engine=local."
        ) from None
    except (AssertionError, TypeError, NameError) as error:
        raise ValueError(f"slurm=: {last_line(error).removesuffix('.')}.") from None
    return executor


def _result(task: Any) -> int | None:
    """What the worker program returned; None where it died."""
    if not task.paths.result_pickle.exists():
        return None
    try:
        return task.result()
    except Exception:
        return None


@contextmanager
def _inherited() -> Iterator[None]:
    """What jobs get from this process: one thread, this checkout, and no Ctrl-C (those of this host are told once)."""
    given = dict.fromkeys(THREADS, "1") | {"PYTHONPATH": python_path()}
    before = {key: os.environ.get(key) for key in given}
    os.environ.update(given)
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})
