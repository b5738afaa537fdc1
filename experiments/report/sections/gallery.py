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


class DataPictures:
    """The test rows of a data set by id. Where the data are not here, `reason` says why and every picture is absent."""

    def __init__(self, run: Run) -> None:
        self.reason = ""
        self.places: dict[str, int] = {}
        self.data: Any = None
        try:
            config = OmegaConf.load(run.folder / CONFIG)
            assert isinstance(config, DictConfig)
            self.data = build_datamodule(config)
            self.data.setup("test")
            self.places = {row.id: i for i, row in enumerate(self.data.rows("test"))}
        except Exception as error:  # absent files, another machine's root, an older configuration: the page goes on
            self.reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"

    def answer(self, key: str, index: int) -> str:
        """The candidate's words, or its number where the data are not here."""
        place = self.places.get(key)
        options = None if place is None else self.data.rows("test")[place].candidates or self.data.candidates
        return str(options[index]) if options and index < len(options) else f"candidate {index}"

    def frame(self, prompt: Any, key: str, alt: str) -> Picture | None:
        """The prompted frame; None where it cannot be drawn."""
        place = self.places.get(key)
        if place is None or prompt is None:
            return None
        try:
            image = self.data.with_image_size(prompt.image_size).image("test", place)
        except Exception as error:  # one damaged file is no reason to lose the page
            self.reason = f"{type(error).__name__}: {error}"
            return None
        shown = frame_to_pil(prompt(image[None].float())[0])
        if shown.width > 2 * LARGE:
            shown = shown.resize((2 * LARGE, 2 * LARGE))
        return inline(shown, alt, lossy=True)


class Gallery:
    """Pictures of all runs, a data set loaded once."""

    def __init__(self) -> None:
        self._by_data: dict[str, DataPictures] = {}
        self._prompts: dict[str, Any] = {}

    def answer(self, run: Run, key: str, index: int) -> str:
        return self._of(run).answer(key, index)

    def frame(self, run: Run, key: str, alt: str) -> Picture | None:
        if run.cell.label not in self._prompts:
            self._prompts[run.cell.label] = read_prompt(run)
        return self._of(run).frame(self._prompts[run.cell.label], key, alt)

    def _of(self, run: Run) -> DataPictures:
        if run.cell.data not in self._by_data:
            self._by_data[run.cell.data] = DataPictures(run)
        return self._by_data[run.cell.data]

    def reasons(self) -> str:
        """Why some data sets' pictures are absent, as a sentence; "" where none is."""
        said = [f"{name}: {pictures.reason}" for name, pictures in sorted(self._by_data.items()) if pictures.reason]
        return f" Pictures are absent where the data are not here: {'; '.join(said)}." if said else ""
