"""The inputs a model is scored on: the prompted frame, and the controls a gain is stated against (docs/method.md)."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from datamodules.writable import CACHES, say_unwritable, write_problem
from lightning_modules.atomic import replace_file
from lightning_modules.metrics import Scores
from model_zoo import templates

LEVELS = (0.0, 0.5, 1.0)
COLOURS = tuple(itertools.product(LEVELS, LEVELS, LEVELS))  # 27 border colours


@dataclass(frozen=True)
class Control:
    """One unprompted way to fill the frame.

    name: `full` (the image at full frame size), `black`, `constant` (border of one colour) or `replicate`
        (edge pixels repeated: nothing learned). colour: RGB in [0, 1] of a constant border.
    """

    name: str
    frame: int
    pad: int
    colour: tuple[float, float, float] | None = None

    @property
    def image_size(self) -> int:
        return self.frame if self.name == "full" else self.frame - 2 * self.pad

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, image_size, image_size) -> frames (B, 3, frame, frame)."""
        if self.name == "full":
            return images
        sides = [self.pad] * 4
        if self.name == "replicate":
            return F.pad(images, sides, mode="replicate")
        if self.name == "black":
            return F.pad(images, sides)
        border = 1 - F.pad(images.new_ones(images.shape), sides)
        return F.pad(images, sides) + border * images.new_tensor(self.colour).view(1, 3, 1, 1)


def all_controls(frame: int, pad: int) -> list[Control]:
    """full, black, replicate and the 27 constant borders."""
    plain = [Control(name, frame, pad) for name in ("full", "black", "replicate")]
    return plain + [Control("constant", frame, pad, colour) for colour in COLOURS]


def templates_digest() -> str:
    """sha256 of every instruction template: known without loading a model, and an edited one makes new entries."""
    return hashlib.sha256(repr(sorted(templates.TEMPLATES.items())).encode()).hexdigest()


class ControlStore:
    """Scores of controls, computed once and kept under a cache folder: they never change.

    The key covers whatever could change a score: model weights and options, data (ids, images, questions, candidates),
    templates, control geometry and colour, official mode, dtype, and the code and the libraries that computed them
    (code_version.py). Writing is atomic, a damaged entry counts as absent.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def path(self, control: Control, **key: object) -> Path:
        parts = {
            "control": control.name, "frame": control.frame, "pad": control.pad, "colour": control.colour,
            **key,
        }  # fmt: skip
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        return self.folder / digest[:2] / f"{digest}.npz"

    def load(self, control: Control, **key: object) -> Scores | None:
        try:
            return read_scores(self.path(control, **key))
        except (OSError, ValueError, KeyError, EOFError):
            return None

    def save(self, scores: Scores, control: Control, **key: object) -> None:
        """Where the folder cannot be written or is full, that is said once and the run goes on without."""
        path = self.path(control, **key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_scores(path, scores)
        except OSError as error:
            say_unwritable(self.folder.parent, write_problem(self.folder) or error, CACHES["controls"])


def write_scores(path: Path, scores: Scores) -> None:
    """One record as a compressed npz of plain arrays, written atomically."""
    buffer = io.BytesIO()
    columns: dict[str, Any] = {"ids": np.array(scores.ids), "labels": scores.labels, "scores": scores.scores}
    columns |= {"groups": np.array(scores.groups)} | ({"units": np.array(scores.units)} if scores.units else {})
    columns |= {"unanswered": np.array(scores.unanswered)} if scores.unanswered else {}
    columns |= {"written": np.array(True)} if scores.written else {}
    np.savez_compressed(buffer, **columns)
    replace_file(path, buffer.getvalue(), sync=False)


def read_scores(path: Path) -> Scores:
    """Inverse of `write_scores`; plain arrays only, never pickles."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as data:
            ids, groups = ([str(word) for word in data[name]] for name in ("ids", "groups"))
            units, unanswered = (
                [str(word) for word in data[name]] if name in data else () for name in ("units", "unanswered")
            )
            return Scores(ids, data["labels"], data["scores"], groups, units, unanswered, "written" in data)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is damaged ({error}). Delete it; it is computed again.") from error
