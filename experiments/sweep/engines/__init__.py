"""The engines behind one interface: `run(folder, plan, options, watch)` returns when all cells have ended."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from experiments.cli import unknown

ENGINES = {
    "local": "experiments.sweep.engines.local:run_local",
    "ray": "experiments.sweep.engines.ray_engine:run_ray",
    "slurm": "experiments.sweep.engines.slurm:run_slurm",
}
NEEDS = {"ray": "ray", "slurm": "submitit"}

Engine = Callable[[Any, str, dict[str, Any], Callable[[], None]], None]


class SweepStopped(RuntimeError):
    """Workers cannot start, or end without getting anything done; the text says so, and what to do."""


def load_engine(name: str) -> Engine:
    """The engine's function.

    Raises:
        ValueError: no such engine, or its package is not installed; says how to install it.
    """
    if name not in ENGINES:
        raise unknown("engine", name, list(ENGINES))
    module, function = ENGINES[name].split(":")
    try:
        if name in NEEDS:
            import_module(NEEDS[name])
    except ImportError:
        raise ValueError(
            f"engine={name} needs the package {NEEDS[name]}. Install it with `pip install -e '.[{name}]'`, or use "
            "engine=local."
        ) from None
    return getattr(import_module(module), function)


def worker_gpus(gpus: float) -> float:
    """`gpus=`: a share of one GPU, or whole ones. Raises ValueError for anything else."""
    if gpus < 0 or (gpus > 1 and gpus != int(gpus)):
        raise ValueError(f"Expected gpus= a share of one GPU (0.5) or a whole number of them, got gpus={gpus}.")
    return gpus
