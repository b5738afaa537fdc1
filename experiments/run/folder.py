"""One folder per run: who owns it, what state it is in, and everything needed to say later what was run."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from omegaconf import DictConfig, OmegaConf

from datamodules.folder_scan import scan
from lightning_modules.atomic import replace_file
from lightning_modules.records import read_rows
from lightning_modules.vocabulary import file_part

if TYPE_CHECKING:
    from lightning_modules.metrics import Scores


FOLDER_OF_RANK_ZERO = "TVP_RUN_FOLDER"
CONFIG, STATUS, RESULTS = "config.yaml", "run.json", "results.jsonl"
PACKAGES = ("torch", "lightning", "transformers", "open_clip_torch", "torchmetrics", "omegaconf", "pillow", "numpy")


class RunFolder:
    """An exclusively held run folder. The lock dies with the process, so a killed run never blocks its own resume."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path, self._lock = path, lock
        self.checkpoints, self.prompt = path / "checkpoints", path / "prompt"
        self.prompts = path / "prompts"  # of `train.keep_prompts`
        self.results, self.scores = path / RESULTS, path / "scores"

    def write_status(self, state: str, **entries: object) -> None:
        """state: `running`, `finished`, `interrupted` or `failed`; written atomically, merged with what is there."""
        status = read_status(self.path) | {"state": state, "updated": round(time.time(), 3)} | entries
        replace_file(self.path / STATUS, (json.dumps(status, indent=1) + "\n").encode())

    def release(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)


def plain_config(config: DictConfig) -> dict[str, Any]:
    """A configuration as plain dictionaries, lists and values."""
    return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))


def run_id(config: DictConfig) -> str:
    """Names every factor: method, source, seed, and a digest of all that can change the result."""
    plain = plain_config(config)
    for key in ("out", "resume", "log"):
        plain.pop(key)
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:8]
    return f"{config.method.name}_{file_part(config.source.name)}_s{config.seed}_{digest}"


def create_run_folder(config: DictConfig, **entries: object) -> RunFolder:
    """A new folder for a new run: `out`, or runs/<exp>/<id> with -2, -3... when that run was made before.

    entries: more of its status.

    Raises:
        FileExistsError: `out` is given and holds something.
        OSError: not writable.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return RunFolder(Path(os.environ[FOLDER_OF_RANK_ZERO]), lock=-1)
    if config.out is not None:
        path = Path(config.out)
        if path.exists() and (not path.is_dir() or scan(path)):
            raise FileExistsError(
                f"'{path}' already holds files. A run needs a folder of its own: choose another out=DIR, or continue "
                f"that run with resume={path}."
            )
        folder = _claim(path)
    else:
        base = Path("runs") / config.exp / run_id(config)
        names = [base, *(base.with_name(f"{base.name}-{i}") for i in range(2, 1000))]
        folder = next(_claim(path) for path in names if not path.exists())
    plain = plain_config(config) | {"out": str(folder.path)}
    replace_file(folder.path / CONFIG, OmegaConf.to_yaml(OmegaConf.create(plain)).encode())
    folder.write_status("running", **describe(), **entries)
    os.environ[FOLDER_OF_RANK_ZERO] = str(folder.path)  # inherited by the ranks Lightning starts
    return folder


def open_run_folder(path: str | Path) -> tuple[RunFolder, DictConfig]:
    """Take an existing run to continue it; ranks started by Lightning join rank 0's without a lock.

    Raises:
        FileNotFoundError: no run there. ValueError: its config is damaged. BlockingIOError: it is running.
    """
    path = Path(path)
    if not (path / CONFIG).is_file():
        around = next((folder for folder in path.parents if (folder / CONFIG).is_file()), None)
        hint = f" That is part of the run '{around}': give resume={around}." if around and path.exists() else ""
        raise FileNotFoundError(
            f"No run in '{path}': expected {CONFIG} there, as `make train` writes it. Give resume= the folder printed "
            f"at the start of a run, or start a new run without resume.{hint}"
        )
    try:
        config = cast(DictConfig, OmegaConf.load(path / CONFIG))
    except Exception as error:
        raise ValueError(f"'{path / CONFIG}' is damaged ({error}). Start a new run with the same words.") from None
    follower = os.environ.get("LOCAL_RANK", "0") != "0"
    return (RunFolder(path, lock=-1) if follower else _claim(path)), config


def read_status(path: Path) -> dict:
    try:
        return json.loads((path / STATUS).read_text())
    except (FileNotFoundError, ValueError):
        return {}


def _claim(path: Path) -> RunFolder:
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = os.open(path / ".lock", os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise OSError(
            error.errno, f"Cannot write the run folder '{path}' ({error.strerror}). Choose another out=DIR"
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise FileExistsError(
            f"Another process is writing the run '{path}'. Two runs never share a folder: wait for it, or choose "
            "another out=DIR."
        ) from None
    return RunFolder(path, lock)


def describe() -> dict:
    """Where and with what this run is made: code, versions, machine."""
    return {
        "started": round(time.time(), 3),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "system": platform.system()},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *words], capture_output=True, text=True, timeout=10, check=True, cwd=Path(__file__).parent
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def run_scores(folder: Path, split: str = "test") -> dict[str, dict[str, Scores]]:
    """mllm -> input -> per-sample record of a finished run."""
    from lightning_modules.controls import read_scores

    records: dict[str, dict[str, Scores]] = {}
    rows = [row for row in read_rows(folder / "results.jsonl") if row["split"] == split]
    for name in dict.fromkeys(row["mllm"] for row in rows):
        inputs = dict.fromkeys(row["input"] for row in rows if row["mllm"] == name)
        records[name] = {
            given: read_scores(folder / "scores" / f"{split}_{file_part(name)}_{given}.npz") for given in inputs
        }
    return records


def run_roles(folder: Path) -> Mapping[str, str]:
    """mllm -> role of a run."""
    return {row["mllm"]: row["role"] for row in read_rows(folder / "results.jsonl")}
