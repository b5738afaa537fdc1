"""The loggers of a run, as `log.*` says; the only part of tracking that knows a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import loggers
from omegaconf import DictConfig, OmegaConf

from experiments.tracking.logger import WandbRun
from experiments.tracking.session import public, wandb_mode

DRAWN_HERE = "emoji_"  # data sets whose pictures this code draws: showing them gives nothing away


def build_loggers(config: DictConfig, folder: Path) -> list[Any]:
    """CSV, TensorBoard and W&B; W&B is offline unless the user is logged in or asks for online."""
    log = config.log
    made: list[Any] = []
    if log.csv:
        made.append(loggers.CSVLogger(folder, name="", version=_fresh_name(folder, "csv")))
    if log.tensorboard:
        made.append(loggers.TensorBoardLogger(folder, name="", version="tensorboard"))
    mode = wandb_mode(log.wandb)
    if mode != "off":
        shown = {"project": log.project, "group": log.group, "tags": list(log.tags), "system": log.system}
        made.append(WandbRun(folder, mode=mode, config=public_config(config), **shown))
    return made


def public_config(config: DictConfig) -> dict[str, Any]:
    """The resolved configuration as W&B shows it: everything but this machine's paths."""
    return public(OmegaConf.to_container(config, resolve=True))


def shows_samples(config: DictConfig, made: list[Any]) -> bool:
    """Whether pictures of prompted samples are logged: `log.samples`, or where unset, wherever no image of a data set
    leaves this machine by it: offline runs, and pictures drawn here."""
    if config.log.samples is not None:
        return bool(config.log.samples)
    online = any(getattr(logger, "mode", None) == "online" for logger in made)
    return not online or config.data.name.startswith(DRAWN_HERE)


def _fresh_name(folder: Path, name: str) -> str:
    """`csv`, then `csv-2`... : a resumed run must not overwrite what was logged before the cut."""
    names = [name, *(f"{name}-{i}" for i in range(2, 1000))]
    return next(n for n in names if not (folder / n).exists())
