"""Many ordinary runs in one folder: each is made once, continued when it was cut short, skipped when finished."""

from __future__ import annotations

import atexit
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple, cast

from omegaconf import DictConfig

from experiments.recipes import load_experiment, read_yaml
from experiments.run.folder import CONFIG, STATUS, plain_config, read_status


class NamedRun(NamedTuple):
    """One run of a comparison: its folder name and the `key=value` words that make it."""

    name: str
    words: Sequence[tuple[str, str]]


def state_of(folder: Path) -> str:
    """`absent`, or the state in run.json."""
    return read_status(folder).get("state", "absent") if (folder / STATUS).exists() else "absent"


def ensure_run(cell: NamedRun, out: Path) -> Path:
    """Finish the run of a cell, whatever state it is in, and return its folder.

    Raises:
        ValueError: the folder holds a run of other settings.
    """
    from experiments.run.start import resume_run, start_run

    folder = out / cell.name
    config = load_experiment([*cell.words, ("out", str(folder))])
    if not (folder / CONFIG).exists():
        _remove_empty(folder)
        return start_run(config)
    _check_same(config, folder)
    if state_of(folder) != "finished":
        resume_run(folder)
    return folder


def _remove_empty(folder: Path) -> None:
    """A run killed before it wrote its configuration leaves a lock file at most."""
    if folder.is_dir() and {p.name for p in folder.iterdir()} <= {".lock"}:
        (folder / ".lock").unlink(missing_ok=True)
        folder.rmdir()


def _check_same(config: DictConfig, folder: Path) -> None:
    made, wanted = plain_config(cast(DictConfig, read_yaml(folder / CONFIG))), plain_config(config)
    different = [key for key in wanted if key not in ("out", "log", "resume") and wanted[key] != made.get(key)]
    if different:
        raise ValueError(
            f"'{folder}' holds a run of other settings (different: {', '.join(different)}). Choose another out=DIR, or "
            "remove that run to make it again."
        )


def ensure_all(
    cells: Iterable[NamedRun], out: Path, *, jobs: int = 1, failures: dict[str, str] | None = None
) -> dict[str, Path]:
    """Every cell, `jobs` at a time, with a line as each is done; what a cell prints goes to OUT/<cell>.log.

    Each job is a process with one thread, so that results do not depend on how many run or on the machine's cores.
    Ctrl-C lets the running cells stop; the same call continues them.

    Args:
        failures: takes `cell: error` of the cells that failed, and the others go on. Without it the first error is
            raised; errors of the system (a full disk, a missing file, a killed worker) always are.
    """
    cells = list(cells)
    todo = [cell for cell in cells if not _is_finished(cell, out)]
    print(f"{len(cells) - len(todo)} of {len(cells)} runs in '{out}' are finished.", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    if todo:
        pool = ProcessPoolExecutor(min(jobs, len(todo)), mp_context=get_context("spawn"), initializer=_start_worker)
        with pool:
            running = {pool.submit(_ensure_logged, cell, out): cell for cell in todo}
            try:
                for i, done in enumerate(as_completed(running), 1):
                    failed = _failure(done, collected=failures is not None)
                    if failures is not None and failed:
                        failures[running[done].name] = failed
                    print(f"[{i}/{len(todo)}] {running[done].name} {'failed' if failed else 'finished'}", flush=True)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return {cell.name: out / cell.name for cell in cells}


def _failure(done: Future, *, collected: bool) -> str:
    """What a cell failed with, empty where it did not; raised unless it is collected and the cell's own."""
    try:
        done.result()
    except (OSError, BrokenExecutor):
        raise
    except Exception as error:
        if not collected:
            raise
        return f"{type(error).__name__}: {error}"
    return ""


def _start_worker() -> None:
    import torch

    from experiments.run.kept_models import keep_models

    torch.set_num_threads(1)
    process = ExitStack()
    process.enter_context(keep_models())
    atexit.register(process.close)


def _ensure_logged(cell: NamedRun, out: Path) -> None:
    with logged(out / f"{cell.name}.log"):
        ensure_run(cell, out)


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """What is printed inside goes to the end of a file."""
    with open(path, "a", encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
        yield


def _is_finished(cell: NamedRun, out: Path) -> bool:
    """Whether the run is there and done. Raises ValueError where the folder holds a run of other settings."""
    folder = out / cell.name
    if (folder / CONFIG).exists():
        _check_same(load_experiment([*cell.words, ("out", str(folder))]), folder)
    return state_of(folder) == "finished"
