"""The prompt and prompted samples at every validation epoch, to every logger that takes pictures."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import lightning as L
import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image

from datamodules.folder_scan import scan
from experiments.tracking.logger import WandbRun, wandb_runs
from experiments.tracking.session import quiet_wandb
from lightning_modules.artefact import read_manifest
from lightning_modules.drawing import contact_sheet, examples, magnify
from lightning_modules.metrics import estimate, paired_gain
from lightning_modules.prompts import Prompt
from lightning_modules.vocabulary import CONTROLS

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
            prompt = cast(Prompt, pl_module.result)
            pictures = {"pictures/prompt": draw_prompt(prompt)}
            if self.samples:
                pictures["pictures/samples"] = draw_samples(self.transfer, prompt, "val", "validation samples")
            log_pictures(takers, pictures, trainer.global_step)


def picture_takers(trainer: L.Trainer) -> list[Any]:
    """The loggers that take pictures: W&B and TensorBoard."""
    return [logger for logger in trainer.loggers if isinstance(logger, WandbRun | TensorBoardLogger)]


def log_pictures(loggers: list[Any], pictures: dict[str, Image.Image], step: int) -> None:
    for logger in loggers:
        if isinstance(logger, WandbRun):
            logger.log_made(partial(_wandb_images, pictures), step)
        else:
            for key, picture in pictures.items():
                pixels = np.asarray(picture.convert("RGB"))
                logger.experiment.add_image(key, pixels, step, dataformats="HWC")


def _wandb_images(pictures: dict[str, Image.Image]) -> dict[str, Any]:
    wandb = quiet_wandb()
    return {key: wandb.Image(picture) for key, picture in pictures.items()}


def draw_prompt(prompt: Prompt) -> Image.Image:
    """The border, or whatever is added to pictures, magnified."""
    return magnify(prompt.delta.detach().cpu(), SIZE, signed=prompt.lowest < 0)


def draw_samples(transfer: Any, prompt: Prompt, split: str, what: str) -> Image.Image:
    """The first samples of the split as the source sees them, with its answers before and after; titled `what`."""
    frames, before, after, truth = examples(transfer, prompt, split)
    title, names = f"{transfer.sources[0].name}: {what}", ("black border", "prompted")
    return contact_sheet(frames, before, after, truth, title=title, names=names)


INPUTS = (*CONTROLS, "prompt", "png")
LINEAGE = (
    *("method", "mode", "task", "data", "source", "source_fingerprints", "train_data_fingerprint", "seed", "steps"),
    *("kind", "frame", "pad", "bounds", "prompt", "prompt_png", "scores", "licence"),
)


def log_results(trainer: L.Trainer, callback: Any, folder: Path, *, samples: bool, config: Mapping[str, Any]) -> None:
    """Everything above, from the files of the finished run; called on rank zero.

    callback: the TransferCallback; with data.n_test=0 the table holds the last validation.
    """
    takers = picture_takers(trainer)
    if not takers:
        return
    log_pictures(takers, final_pictures(folder, samples=samples), trainer.global_step)
    for logger in wandb_runs(trainer.loggers):
        logger.log_made(partial(_wandb_table, *target_table(callback)), trainer.global_step)
        logger.use(lambda run: log_prompt(run, folder / "prompt", config))


def final_pictures(folder: Path, *, samples: bool) -> dict[str, Image.Image]:
    """The run's pictures by key, as `summary.draw_pictures` left them."""
    pictures = {}
    for key in ("pictures/prompt", "pictures/examples") if samples else ("pictures/prompt",):
        path = folder / f"{key}.png"
        if path.is_file():
            with Image.open(path) as picture:
                pictures[key] = picture.convert("RGB")
    return pictures


def target_table(callback: Any) -> tuple[list[str], list[list[Any]]]:
    """(columns, rows): a model a row, scores as fractions, every gain with its 95 % interval; None where not scored."""
    # With data.n_test=0 nothing was tested: the last validation stands in, and the column says so.
    split = "test" if callback.latest.get("test") else "val"
    metric = callback.scorer.metric
    # The records know names only; a prompt's own source must not be read as a target it transferred to.
    roles = {spec.name: spec.role for spec in callback.models}
    bounds = [f"gain_{control}{end}" for control in CONTROLS for end in ("", "_low", "_high")]
    columns = ["model", "role", "split", "metric", "n", *INPUTS, *bounds]
    rows = []
    for name, records in callback.latest.get(split, {}).items():
        # One column an input, also where this run left the input out: tables of several runs can be put together.
        scores = [estimate(metric, records[given]).value if given in records else None for given in INPUTS]
        gains: list[float | None] = []
        for control in CONTROLS:
            # Paired on the same samples, so the interval is of the difference, not of two scores apart.
            gain = paired_gain(metric, records["prompt"], records[control]) if control in records else None
            gains += [None] * 3 if gain is None else [gain.value, gain.low, gain.high]
        rows.append([name, roles[name], split, metric, len(records["prompt"].ids), *scores, *gains])
    return columns, rows


def _wandb_table(columns: list[str], rows: list[list[Any]]) -> dict[str, Any]:
    return {"table/targets": quiet_wandb().Table(columns=[*columns], data=rows)}


def log_prompt(run: Any, folder: Path, config: Mapping[str, Any]) -> None:
    """The prompt artefact as a W&B Artifact `prompt-<run id>`, made from its sources and data.

    Its metadata names what it was made from by fingerprint (weights, training rows) with the whole configuration. With
    a server the same things are inputs of the run, as artifacts that hold the fingerprint alone: no weight and no
    image leaves this machine.
    """
    wandb = quiet_wandb()
    manifest = read_manifest(folder)
    lineage = {key: manifest[key] for key in LINEAGE if key in manifest}
    made = lineage | {"config": dict(config), "run": run.id}
    artifact = wandb.Artifact(prompt_name(run.id), type="prompt", metadata=made)
    for path in scan(folder):
        artifact.add_file(str(path), name=path.name, policy="immutable")
    if not run.offline:
        for name, fingerprint in zip(manifest["source"], manifest["source_fingerprints"], strict=True):
            run.use_artifact(_fingerprint_artifact(name, "model", fingerprint))
        run.use_artifact(_fingerprint_artifact(manifest["data"], "dataset", manifest["train_data_fingerprint"]))
    run.log_artifact(artifact, aliases=["latest", "chosen"])


def prompt_name(run_id: str) -> str:
    """Name of the artifact that holds a run's prompt; whoever consumes it asks for `<name>:latest`."""
    return f"prompt-{run_id}"


def _fingerprint_artifact(name: str, kind: str, fingerprint: str) -> Any:
    artifact = quiet_wandb().Artifact(name, type=kind, metadata={"fingerprint": fingerprint})
    with artifact.new_file("fingerprint.txt") as file:
        file.write(f"{fingerprint}\n")
    return artifact
