"""A sweep of two real cells, small enough for tests of engines, and actors that only pretend to compute; no test."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from experiments.sweep.collect import collect
from experiments.sweep.engines.ray_actor import SweepActor
from experiments.sweep.folder import SweepFolder
from experiments.sweep.leases import Leases

TINY = {"sources": "embedded_minigpt4", "targets": "embedded_minigpt4,embedded_llava"}
TINY |= {"seeds": "0", "train.epochs": "2", "data.n_train": "16", "data.n_test": "16", "targets.n": "16"}
TINY |= {"train.checkpoint_every": "1", "train.eval_batch_size": "16"}


def tiny_sweep(out: Path, methods: str = "none,evp") -> tuple[SweepFolder, list, str]:
    """(folder, cells, digest of the plan) of these methods on one source."""
    from omegaconf import OmegaConf

    from experiments.sweep.cells import build_cells
    from experiments.sweep.identity import identified
    from experiments.sweep.recipe import load_sweep

    sweep = load_sweep("embedded_smoke", [*TINY.items(), ("methods", methods)])
    cells, missing = identified(build_cells(sweep))
    assert not missing
    folder = SweepFolder(out, create="tiny")
    return folder, cells, folder.write_plan(cells, OmegaConf.to_container(sweep, resolve=True))


def results(folder: SweepFolder, cells: list) -> dict[str, bytes]:
    """matrix.csv and samples/ as bytes."""
    assert set(collect(folder, cells).values()) == {"finished"}
    files = [folder.matrix, *sorted(folder.samples.iterdir())]
    assert len(files) == 1 + len(cells)
    return {path.name: path.read_bytes() for path in files}


class PretendingActor(SweepActor):
    """Does what a cell's method says: deadly, once (deadly the first time), slow, ok."""

    def work(self) -> int:
        folder = SweepFolder(self.out)
        self.working = True
        leases = Leases(folder.leases, self.name)
        for cell in folder.read_plan(self.plan)[0]:
            if folder.states().get(cell.id, {}).get("state") or not leases.take(cell.id, label=cell.label):
                continue
            marks = folder.path / f"died-{cell.label}"
            if cell.method == "deadly" or (cell.method == "once" and not marks.exists()):
                marks.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                time.sleep(300 if cell.method == "slow" else 0.1)
                folder.record(cell, "finished", seconds=0.1, worker=self.name)
            except KeyboardInterrupt:
                (folder.path / f"stopped-{cell.label}").touch()
            leases.give_up()
            return 1
        return 0
