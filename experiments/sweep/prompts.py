"""The prompts of a finished sweep, which another sweep scores (`prompts: SWEEP` in its recipe)."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from experiments.sweep.cells import SweepCell, build_cells
from experiments.sweep.folder import MARKER, SweepFolder
from experiments.sweep.recipe import data_label

RUNS = Path("runs/sweeps")


def sweep_cells(sweep: DictConfig, *, planning: bool = False) -> list[SweepCell]:
    """`build_cells`; where the recipe names a finished sweep's `prompts`, cells learn nothing and score those.

    planning: prompts need not be there yet.

    Raises:
        FileNotFoundError, ValueError: as `SweepPrompts`.
    """
    cells = build_cells(sweep)
    if not sweep.prompts:
        return cells
    prompts = None if planning else SweepPrompts(sweep.prompts)
    learned_on = {data_label(data): data.learned_on for data in sweep.data}
    found = []
    for cell in cells:
        words = dict(cell.words)
        if words["method.name"] != "none":
            words["method.name"] = "none"
            if prompts is not None:
                artefact = prompts.find(cell.source, learned_on[cell.data], cell.method, cell.seed)
                words["prompt.artefact"] = str(artefact.resolve())
        found.append(cell._replace(words=tuple(words.items())))
    return found


class SweepPrompts:
    """Where the artefact of each finished cell of a sweep lies.

    Args:
        sweep: its folder, or the name of its recipe where it ran in runs/sweeps/NAME.

    Raises:
        FileNotFoundError: no sweep there.
    """

    def __init__(self, sweep: str) -> None:
        places = [Path(sweep).expanduser(), RUNS / sweep]
        path = next((place for place in places if (place / MARKER).is_file()), None)
        if path is None:
            raise FileNotFoundError(
                f"prompts: no sweep in '{places[0]}' or '{places[1]}'. Run it first "
                f"(`python -m experiments.transfer_sweep sweep={sweep}`), or say where it is: prompts=DIR."
            )
        self.folder = SweepFolder(path)
        cells, _ = self.folder.read_plan()
        states = self.folder.states()
        self._paths = {
            (cell.source, cell.data, cell.method, cell.seed): self.folder.cells / cell.folder / "prompt"
            for cell in cells
            if states.of(cell) == "finished"
        }

    def find(self, source: str, data: str | None, method: str, seed: int) -> Path:
        """The artefact learned on a source, by a method, with a seed.

        data: what that sweep calls the data (null: the only one it has).

        Raises:
            ValueError: that cell is not finished there, or it has several data sets and none is named.
        """
        has = sorted({key[1] for key in self._paths})
        if data is None and len(has) != 1:
            raise ValueError(
                f"The sweep in '{self.folder.path}' learned prompts on {', '.join(has) or 'nothing yet'}. Expected one "
                "data set, or `learned_on: NAME` beside each data set of this sweep."
            )
        key = (source, data or has[0], method, seed)
        if key not in self._paths:
            raise ValueError(
                f"The sweep in '{self.folder.path}' has no finished prompt of {source}, {key[1]}, {method}, seed "
                f"{seed}. Finish it, or narrow this sweep with sources=, methods=, seeds=."
            )
        return self._paths[key]
