"""The prompt and prompted samples at every validation epoch, to every logger that takes pictures."""

from __future__ import annotations

from typing import Any

import lightning as L
import numpy as np
from PIL import Image

from experiments.tracking.logger import WandbRun
from lightning_modules.prompts import Prompt

SIZE = 512


class PictureCallback(L.Callback):
    """Placed after the TransferCallback: what it has just scored is drawn; a partial validation draws nothing.

    Args:
        transfer: the TransferCallback whose records hold the answers.
        samples: draw prompted samples too, which show the data set's own images.
    """

    def __init__(self, transfer: Any, *, samples: bool) -> None:
        self.transfer, self.samples = transfer, samples
        self._drawn: Any = None

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        scored = self.transfer.latest.get("val")
        if scored is None or scored is self._drawn or not trainer.is_global_zero:
            return
        self._drawn = scored
        takers = picture_takers(trainer)
        if takers:
            pictures = {"pictures/prompt": draw_prompt(pl_module.prompt)}
            if self.samples:
                pictures["pictures/samples"] = draw_samples(self.transfer, pl_module.prompt)
            log_pictures(takers, pictures, trainer.global_step)


def picture_takers(trainer: L.Trainer) -> list[Any]:
    """The loggers that take pictures: W&B and TensorBoard."""
    from lightning.pytorch.loggers import TensorBoardLogger

    return [logger for logger in trainer.loggers if isinstance(logger, WandbRun | TensorBoardLogger)]


def log_pictures(loggers: list[Any], pictures: dict[str, Image.Image], step: int) -> None:
    for logger in loggers:
        if isinstance(logger, WandbRun):
            logger.use(lambda run, logger=logger: logger.log(_wandb_images(pictures), step))
        else:
            for key, picture in pictures.items():
                pixels = np.asarray(picture.convert("RGB"))
                logger.experiment.add_image(key, pixels, step, dataformats="HWC")


def _wandb_images(pictures: dict[str, Image.Image]) -> dict[str, Any]:
    import wandb

    return {key: wandb.Image(picture) for key, picture in pictures.items()}


def draw_prompt(prompt: Prompt) -> Image.Image:
    from lightning_modules.pictures import magnify

    return magnify(prompt.delta.detach().cpu(), SIZE, signed=prompt.kind == "overlay")


def draw_samples(transfer: Any, prompt: Prompt, split: str = "val") -> Image.Image:
    """The first samples of the split as the source sees them, with its answers before and after."""
    from experiments.summary import examples
    from lightning_modules.pictures import contact_sheet

    frames, before, after, truth = examples(transfer, prompt, split)
    title = f"{transfer.source.name}: {'validation' if split == 'val' else split} samples"
    return contact_sheet(frames, before, after, truth, title=title, names=("black border", "prompted"))
