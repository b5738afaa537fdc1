"""Test pictures with the prompt on, drawn from the run's own data set, and the words of its answers."""

from __future__ import annotations

import base64
import io
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf
from PIL import Image

from experiments.report.load import Run, read_prompt
from experiments.run.build import build_datamodule
from experiments.run.folder import CONFIG
from lightning_modules.apply_prompt import frame_to_pil

LARGE = 96
"""Frames wider than this are stored with loss (WebP) where they illustrate; a page must stay small."""


class Picture(NamedTuple):
    """A picture inside the page. url: its bytes as `data:image/...`. alt: the words for those who do not see it."""

    url: str
    width: int
    height: int
    alt: str


def inline(image: Image.Image, alt: str, *, lossy: bool = False) -> Picture:
    """PNG, or WebP where `lossy`."""
    buffer = io.BytesIO()
    kind, options = ("webp", {"quality": 82, "method": 6}) if lossy else ("png", {"optimize": True})
    image.save(buffer, format=kind, **options)
    data = base64.b64encode(buffer.getvalue()).decode()
    return Picture(f"data:image/{kind};base64,{data}", image.width, image.height, alt)


class Gallery:
    """Pictures and answers of all runs, a data set loaded once; where it is not here, `reasons` says why."""

    def __init__(self) -> None:
        self._data: dict[str, tuple[Any, dict[str, int]]] = {}
        self._prompts: dict[str, Any] = {}
        self._reasons: dict[str, str] = {}

    def answer(self, run: Run, key: str, index: int) -> str:
        """The candidate's words, or its number where the data are not here."""
        data, places = self._of(run)
        options = (data.rows("test")[places[key]].candidates or data.candidates) if key in places else None
        return str(options[index]) if options and index < len(options) else f"candidate {index}"

    def frame(self, run: Run, key: str, alt: str) -> Picture | None:
        """The prompted frame; None where it cannot be drawn."""
        data, places = self._of(run)
        if run.cell.label not in self._prompts:
            self._prompts[run.cell.label] = read_prompt(run)
        prompt = self._prompts[run.cell.label]
        if key not in places or prompt is None:
            return None
        try:
            image = data.with_image_size(prompt.image_size).image("test", places[key])
        except Exception as error:  # one damaged file is no reason to lose the page
            self._reasons[run.cell.data] = f"{type(error).__name__}: {error}"
            return None
        shown = frame_to_pil(prompt(image[None].float())[0])
        if shown.width > 2 * LARGE:
            shown = shown.resize((2 * LARGE, 2 * LARGE))
        return inline(shown, alt, lossy=True)

    def _of(self, run: Run) -> tuple[Any, dict[str, int]]:
        """The data set of a run and the place of each test row by id; no place where the data are not here."""
        name = run.cell.data
        if name not in self._data:
            self._data[name] = None, {}
            try:
                config = OmegaConf.load(run.folder / CONFIG)
                assert isinstance(config, DictConfig)
                data = build_datamodule(config)
                data.setup("test")
                self._data[name] = data, {row.id: i for i, row in enumerate(data.rows("test"))}
            except Exception as error:  # absent files, another machine's root, an older configuration: the page goes on
                self._reasons[name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        return self._data[name]

    def reasons(self) -> str:
        """Why some data sets' pictures are absent, as a sentence; "" where none is."""
        said = [f"{name}: {reason}" for name, reason in sorted(self._reasons.items())]
        return f" Pictures are absent where the data are not here: {'; '.join(said)}." if said else ""
