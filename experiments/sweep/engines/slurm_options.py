"""`slurm=` of a sweep: parameters of its jobs, as submitit names them."""

from __future__ import annotations

import math
import subprocess
from typing import Any

import submitit

from datamodules.whole_files.command_line import suggest

GENERIC = ("timeout_min", "mem_gb", "cpus_per_task", "gpus_per_node", "name")
OURS = ("nodes", "tasks_per_node", "ntasks_per_node", "map_count", "num_gpus", "stderr_to_stdout")
TABLES = ("additional_parameters",)  # cannot be said in words
LISTS = ("setup", "teardown", "srun_args")
DEFAULTS = {"timeout_min": 240, "cpus_per_task": 1, "name": "transfer_sweep", "stderr_to_stdout": True}


def read_options(text: str) -> tuple[str, dict[str, Any]]:
    """`partition=gpu,timeout_min=600` as (cluster, parameters of submitit's AutoExecutor); defaults where it is silent.

    A comma separates parameters only where a `key=` follows (`nodelist=n[1,2]` is one); `;` separates commands of
    `setup` and `teardown`.

    Raises:
        ValueError: an unknown parameter, or one that the engine sets itself.
    """
    words = _words(text)
    cluster = words.pop("cluster", "slurm")
    if cluster not in ("slurm", "local"):
        raise ValueError(f"Expected cluster=slurm, or cluster=local for a trial on this host, got cluster={cluster}.")
    known = _known()
    parameters = dict(DEFAULTS)
    for key, value in words.items():
        if key not in known:
            raise ValueError(
                f"Unknown SLURM parameter '{key}'.{suggest(key, known)} Available: cluster, {', '.join(known)}."
            )
        parameters[key if key in GENERIC else f"slurm_{key}"] = value.split(";") if key in LISTS else _typed(value)
    return cluster, parameters


def _words(text: str) -> dict[str, str]:
    words: dict[str, str] = {}
    last = ""
    for part in filter(None, text.split(",")):
        key, given, value = part.partition("=")
        if given and key.isidentifier():
            last = key
            words[key] = value
        elif last:
            words[last] += f",{part}"
        else:
            raise ValueError(f"Expected slurm=key=value,key=value, got '{part}'. For example: slurm=partition=gpu.")
    return words


def _known() -> list[str]:
    own = submitit.SlurmExecutor._valid_parameters()
    return sorted({*GENERIC, *own} - {*OURS, *TABLES, "job_name"})


def _typed(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def gpu_parameters(gpus: float, cluster: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """GPUs and workers of one job: 0.5 puts two workers into a job with one GPU. None where the cluster has none."""
    asked = any("gpu" in key or key == "slurm_gres" for key in parameters)
    if asked or not gpus or cluster == "local" or not _has_gpus(parameters.get("slurm_partition")):
        return {}
    return {"gpus_per_node": math.ceil(gpus), "tasks_per_node": max(1, int(1 / gpus + 1e-6))}


def _has_gpus(partition: str | None) -> bool:
    """Whether the nodes say so; a cluster that does not answer is believed to have some."""
    words = ["sinfo", "--noheader", "--format=%G", *([f"--partition={partition}"] if partition else [])]
    try:
        said = subprocess.run(words, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return True
    return "gpu" in said
