"""Getting everything a name stands for below one weights root, in order: what is lacking, room for it, the files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from datamodules.whole_files.disk import check_room, locked, megabytes
from model_zoo.fetch.items import items_of
from model_zoo.fetch.plan import ItemPlan, plan
from model_zoo.fetch.record import FetchRecord
from model_zoo.registry import canonical
from model_zoo.weights.catalogue import missing_lines
from model_zoo.weights.origins import ByHand

LOCK = ".fetch.lock"


def fetch(name: str, weights: Path, *, revision: str | None = None, show: Callable[[str], None] = print) -> list[str]:
    """Fetch what is lacking of a model; returns what is left to do by hand, a text per item.

    Args:
        name: a published model, a CLIP, or `hf:ORG/MODEL`, which goes to `weights/ORG/MODEL`.
        revision: branch, tag or commit of `hf:ORG/MODEL`; by default the recorded commit, at first that of `main`.

    Raises:
        ValueError: an unknown name, repository or revision; a repository without weights that are read.
        PermissionError: a gated model. ConnectionError: no network, no answer, or a file that is not as stated.
        FileExistsError: another file in the way. BlockingIOError: another fetch at work. OSError: no room.
    """
    items = items_of(name, weights, revision)
    if not items:
        show(f"{name}: complete without a download (it ships with the package, or was converted into one folder).")
        return []
    with locked(weights / LOCK, "fetch", weights, "weights=DIR"):
        records: dict[Path, FetchRecord] = {}
        plans = [plan(item, weights, records, show) for item in items if not isinstance(item.origin, ByHand)]
        _fetch_lacking(plans, weights, show)
    absent = [item for item in items if isinstance(item.origin, ByHand) and missing_lines([item], weights)]
    if not absent and not any(each.lacking for each in plans):
        show(f"{canonical(name)}: complete below '{weights}'; nothing was fetched.")
    return [f"{item.path}: {item.origin.instructions(weights, item.path)}" for item in absent]  # type: ignore[union-attr]


def _fetch_lacking(plans: list[ItemPlan], weights: Path, show: Callable[[str], None]) -> None:
    lacking = [file for each in plans for file in each.lacking]
    if lacking:
        size = sum(file.remaining() for file in lacking)
        more = " and files of unstated size" if any(file.size is None for file in lacking) else ""
        show(f"To fetch: {len(lacking)} files, {megabytes(size)}{more}.")
        for each in plans:
            if each.lacking:
                commit = f" at {each.commit.commit}" if each.commit else ""
                show(f"  {each.item.path}: {each.item.source}{commit}; licence: {each.item.licence}")
        check_room(weights, size, "the weights", "weights=DIR")
    for each in plans:
        for file in each.lacking:
            file.path.parent.mkdir(parents=True, exist_ok=True)
            if each.commit:
                each.record.write()  # from here on, until the last file is there, the folder is not loaded
            file.fetch(show)
        for name in each.finish():
            show(f"'{each.record.folder / name}' belonged to another revision and is not kept.")
