"""The W&B run of a folder as a Lightning logger. It may break; the run it describes may not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from experiments.tracking.keys import STEP
from experiments.tracking.session import quiet_wandb, settings, stable_id


class WandbRun(Logger):
    """Lightning's own WandbLogger leaves WANDB_MODE set, adopts whatever run is open, and lets wandb's errors through.

    Rows carry `trainer/global_step`, the x axis of every chart: after a resume it continues where the checkpoint was,
    while W&B's own counter must only increase, and does: it starts past what earlier sessions of the folder wrote.
    When wandb fails (full disk, dead service, refused upload) one line says so and everything later is dropped.

    Args:
        folder: its `wandb/` is written; the run's id is kept there, so resuming the folder continues the run.
        mode: `online` or `offline`; online falls back to offline where the server cannot be reached.
        config: shown beside the run, see `session.public`.
        system: record hardware, resource use, console text, git state and packages too.
    """

    def __init__(
        self,
        folder: Path,
        *,
        mode: str,
        project: str,
        group: str | None = None,
        tags: Sequence[str] = (),
        config: Mapping[str, Any] | None = None,
        job_type: str = "train",
        system: bool = False,
    ) -> None:
        super().__init__()
        self.folder, self.mode, self.broken = Path(folder), mode, False
        self._project, self._system, self._run = project, system, None
        self._given = {"group": group, "tags": list(tags), "config": dict(config or {}), "job_type": job_type}

    # ---- what Lightning asks for -----------------------------------------------------------------------------------
    @property
    def name(self) -> str:
        return self._project

    @property
    def version(self) -> str | None:
        return None if self._run is None else self._run.id

    @property
    def save_dir(self) -> str:
        return str(self.folder)

    @property
    def experiment(self) -> Any:
        """The wandb.Run, started on first use; None on other ranks and once W&B has failed."""
        if self._run is None and not self.broken and getattr(rank_zero_only, "rank", None) in (0, None):
            self._run = self._guarded(self._start)
        return None if self.broken else self._run

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.log(metrics, step)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.use(lambda run: run.config.update(dict(params), allow_val_change=True))

    # ---- what the tracking callback and the sweep use --------------------------------------------------------------
    def log(self, row: Mapping[str, Any], step: int | None = None) -> None:
        """One row of the history, at this many updates."""
        self.use(lambda run: run.log(dict(row) | ({} if step is None else {STEP: step})))

    def log_made(self, make: Callable[[], Mapping[str, Any]], step: int) -> None:
        """Log a row of pictures or tables; making them writes files, which may fail as logging may."""
        self.use(lambda run: self.log(make(), step))

    def use(self, call: Callable[[Any], Any]) -> Any:
        """`call(run)`, guarded: its answer, or None where W&B is broken or this is not rank zero."""
        run = self.experiment
        return None if run is None else self._guarded(lambda: call(run))

    def close(self, exit_code: int = 0) -> None:
        """Finish the run; exit_code 0 is success. Online it waits a minute at most, the rest stays for `wandb sync`."""
        run, self._run = self._run, None
        if run is not None and not self.broken:
            self._guarded(lambda: run.finish(exit_code=exit_code))

    # ---- how -------------------------------------------------------------------------------------------------------
    def _start(self) -> Any:
        if self.mode == "online":
            try:
                return self._init("online")
            except Exception as error:
                print(
                    f"W&B cannot be reached ({_short(error)}): this run is logged offline; upload it with `wandb sync`."
                )
                self.mode = "offline"
                _stop_service()  # it still holds the run that did not start
        return self._init("offline")

    def _init(self, mode: str) -> Any:
        wandb = quiet_wandb()
        first = last_step(self.folder) + 1
        run = wandb.init(
            id=stable_id(self.folder),
            name=self.folder.resolve().name,
            project=self._project,
            dir=self.folder,
            mode=mode,
            resume="allow",
            settings=wandb.Settings(**settings(system=self._system)),
            **self._given,
        )
        if self._given["job_type"] == "train":  # a sweep is logged once, over no axis
            run.define_metric(STEP)
            run.define_metric("*", step_metric=STEP, step_sync=True)
        if first > run.step:
            run.log({}, step=first)
        return run

    def _guarded(self, call: Callable[[], Any]) -> Any:
        try:
            with _staging_in(self.folder):
                return call()
        except Exception as error:
            self.broken, self._run = True, None
            print(f"W&B stopped ({_short(error)}). The run goes on without it; its numbers are in '{self.folder}'.")
            _stop_service()
            return None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_run": None}  # a spawned rank starts its own session of the same run


def _stop_service() -> None:
    """End wandb's process, dead or alive: the next run of this process starts its own."""
    with suppress(Exception):
        quiet_wandb().teardown()


def _short(error: BaseException) -> str:
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words[:150]}".rstrip(": ")


@contextmanager
def _staging_in(folder: Path) -> Iterator[None]:
    """Files of tables wait in the run folder: the home directory may be read-only, or another machine's."""
    given = os.environ.get("WANDB_DATA_DIR")
    if given is None:
        os.environ["WANDB_DATA_DIR"] = str(folder.resolve() / "wandb" / "data")
    try:
        yield
    finally:
        if given is None:
            os.environ.pop("WANDB_DATA_DIR", None)


def wandb_runs(loggers: Sequence[Any]) -> list[WandbRun]:
    return [logger for logger in loggers if isinstance(logger, WandbRun)]


@contextmanager
def closing(loggers: Sequence[Any]) -> Iterator[None]:
    """Finish the W&B runs among these loggers as the block ends: finished, or failed where it raised."""
    try:
        yield
    except BaseException:
        for logger in wandb_runs(loggers):
            logger.close(exit_code=1)
        raise
    for logger in wandb_runs(loggers):
        logger.close()


def sessions(folder: Path) -> list[Path]:
    """The transaction logs below FOLDER/wandb, oldest first: one per start or resume of the run."""
    return sorted((folder / "wandb").glob("*run-*/run-*.wandb"), key=lambda log: log.parent.name.partition("run-")[2])


def summary(log: Path) -> dict[str, Any]:
    """State, run id, config, tags, last value of every key of one session."""
    return json.loads(inspect(log, "--summary"))


def last_step(folder: Path) -> int:
    """The highest value W&B's counter reached in any session of the folder; -1 where there was none or none is read."""
    steps = [-1]
    for log in sessions(folder):
        try:
            steps.append(int(summary(log)["step"]))
        except (OSError, ValueError, KeyError, TypeError, subprocess.SubprocessError):
            continue
    return max(steps)


def inspect(log: Path, *words: str) -> str:
    """What `wandb leet inspect`, its own reader, says of a transaction log."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", *words, str(log)]
    env = os.environ | {"WANDB_ERROR_REPORTING": "false"}
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=env).stdout
