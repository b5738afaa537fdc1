"""Test pictures with the prompt on, drawn from the run's own data set, and the words of its answers."""

from __future__ import annotations

from typing import Any

from experiments.report.load import Run
from experiments.report.markup import LARGE, picture
from experiments.report.sections.prompts import load


class DataPictures:
    """The test rows of a data set by id. Where the data are not here, `reason` says why and every picture is empty."""

    def __init__(self, run: Run) -> None:
        self.reason = ""
        self.places: dict[str, int] = {}
        self.data: Any = None
        try:
            self.data = build(run)
            self.places = {row.id: i for i, row in enumerate(self.data.rows("test"))}
        except Exception as error:  # absent files, another machine's root, an older configuration: the page goes on
            self.reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"

    def answer(self, key: str, index: int) -> str:
        """The candidate's words, or its number where the data are not here."""
        place = self.places.get(key)
        options = None if place is None else self.data.rows("test")[place].candidates or self.data.candidates
        return str(options[index]) if options and index < len(options) else f"candidate {index}"

    def question(self, key: str) -> str:
        place = self.places.get(key)
        return "" if place is None else self.data.rows("test")[place].question

    def frame(self, prompt: Any, key: str, alt: str) -> str:
        """The prompted frame as an inline picture; "" where it cannot be drawn."""
        place = self.places.get(key)
        if place is None or prompt is None:
            return ""
        from lightning_modules.apply_prompt import frame_to_pil

        try:
            image = self.data.with_image_size(prompt.image_size).image("test", place)
        except Exception as error:  # one damaged file is no reason to lose the page
            self.reason = f"{type(error).__name__}: {error}"
            return ""
        shown = frame_to_pil(prompt(image[None].float())[0])
        if shown.width > 2 * LARGE:
            shown = shown.resize((2 * LARGE, 2 * LARGE))
        return picture(shown, alt, lossy=True)


def build(run: Run) -> Any:
    """The run's data set, set up for its test split."""
    from omegaconf import OmegaConf

    from experiments.run.build import build_datamodule
    from experiments.run.folder import CONFIG

    data = build_datamodule(OmegaConf.load(run.folder / CONFIG))
    data.setup("test")
    return data


class Gallery:
    """Pictures of all runs, a data set loaded once."""

    def __init__(self) -> None:
        self._by_data: dict[str, DataPictures] = {}
        self._prompts: dict[str, Any] = {}

    def of(self, run: Run) -> DataPictures:
        if run.cell.data not in self._by_data:
            self._by_data[run.cell.data] = DataPictures(run)
        return self._by_data[run.cell.data]

    def frame(self, run: Run, key: str, alt: str) -> str:
        if run.cell.label not in self._prompts:
            self._prompts[run.cell.label] = load(run)
        return self.of(run).frame(self._prompts[run.cell.label], key, alt)

    def reasons(self) -> list[str]:
        """Why some data set's pictures are absent."""
        return [f"{name}: {pictures.reason}" for name, pictures in sorted(self._by_data.items()) if pictures.reason]
