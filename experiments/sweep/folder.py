"""A sweep's folder: the name of the sweep, its plans, and the ledger that says which cells ended.

The ledger is append-only with fsync, one file per process, so that no two writers ever share one; what is known of a
cell is merged from all of them. A row's `attempt` counts how often a cell was asked for: `retry` raises it.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from datamodules.folder_scan import scan
from datamodules.whole_files.disk import write_bytes
from experiments.sweep.cells import SweepCell, made_with
from lightning_modules.atomic import replace_file

FORMAT = 1
MARKER = "sweep.json"
RANK = {"waiting": 0, "failed": 1, "finished": 2}


class States(dict[str, dict[str, Any]]):
    """Cell id -> the ledger's row that counts, as all ledgers stood at one moment."""

    def of(self, cell: SweepCell) -> str:
        """`waiting` (also where no row is known), `failed` or `finished`."""
        return self.get(cell.id, {}).get("state", "waiting")

    def counts(self, cells: Iterable[SweepCell]) -> Counter[str]:
        return Counter(map(self.of, cells))

    def seconds(self, cells: Iterable[SweepCell]) -> list[float]:
        """What each finished cell took."""
        rows = [self[cell.id] for cell in cells if self.of(cell) == "finished"]
        return [row["seconds"] for row in rows if "seconds" in row]


class SweepFolder:
    """OUT of a sweep.

    Raises:
        FileExistsError: the folder holds something else. ValueError: another sweep, or one of another format version.
        OSError: not writable.
    """

    def __init__(self, path: str | Path, *, create: str | None = None) -> None:
        """create: the sweep's name, to make the folder where there is none."""
        self.path = Path(path)
        self.cells, self.leases, self.logs = (self.path / name for name in ("cells", "leases", "logs"))
        self.ledger, self.samples, self.matrix = self.path / "ledger", self.path / "samples", self.path / "matrix.csv"
        self._own: Path | None = None
        if not (self.path / MARKER).is_file():
            self._create(create)
        self._check_marker()
        if create not in (None, self.name):
            raise ValueError(
                f"'{self.path}' holds the sweep '{self.name}', whose matrix that of '{create}' would replace. Choose "
                "another out=DIR."
            )

    def _create(self, name: str | None) -> None:
        if name is None:
            raise FileNotFoundError(
                f"No sweep in '{self.path}': expected {MARKER} there, as `python -m experiments.transfer_sweep out="
                f"{self.path}` writes it."
            )
        strangers = [path.name for path in scan(self.path)] if self.path.is_dir() else []
        if self.path.is_file() or strangers:
            raise FileExistsError(
                f"'{self.path}' holds files that are no sweep ({', '.join(strangers[:3]) or 'a file'}). A sweep needs "
                "a folder of its own: choose another out=DIR."
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(
                error.errno, f"Cannot write '{self.path}' ({error.strerror}). Choose another out=DIR"
            ) from None
        replace_file(self.path / MARKER, (json.dumps({"format": FORMAT, "sweep": name}) + "\n").encode())

    def _check_marker(self) -> None:
        try:
            marker = json.loads((self.path / MARKER).read_text())
            found = marker["format"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"'{self.path / MARKER}' is damaged. Expected {{\"format\": {FORMAT}, ...}}; finished cells are in "
                "ledger/ and cells/. Write that line again, or choose another out=DIR."
            ) from None
        if found != FORMAT:
            raise ValueError(
                f"'{self.path}' was made by another version of this tool (format {found}, this one writes {FORMAT}). "
                "Use that version, or choose another out=DIR."
            )
        self.name = marker["sweep"]
        for folder in (self.cells, self.leases, self.logs, self.ledger, self.path / "plans"):
            folder.mkdir(exist_ok=True)

    # ---- plans -----------------------------------------------------------------------------------------------------
    def write_plan(self, cells: Sequence[SweepCell], recipe: dict[str, Any]) -> str:
        """Keep the identified cells of a recipe; its digest names the plan to workers on any host."""
        plan = {"sweep": recipe["sweep"], "label": recipe["label"], "recipe": recipe, **made_with()}
        plan["cells"] = [cell._asdict() for cell in cells]
        text = json.dumps(plan, indent=1, sort_keys=True) + "\n"
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        replace_file(self.path / "plans" / f"{digest}.json", text.encode())
        replace_file(self.path / "plan", f"{digest}\n".encode())
        return digest

    def read_plan(self, digest: str | None = None) -> tuple[list[SweepCell], dict[str, Any]]:
        """(cells, the rest of the plan); the latest one by default.

        Raises:
            FileNotFoundError: nothing was planned here yet.
        """
        try:
            digest = digest or (self.path / "plan").read_text().strip()
            plan = json.loads((self.path / "plans" / f"{digest}.json").read_text())
        except FileNotFoundError:
            raise FileNotFoundError(
                f"'{self.path}' has no plan yet. Start it: `python -m experiments.transfer_sweep run out={self.path}`."
            ) from None
        return [SweepCell.from_dict(row) for row in plan.pop("cells")], plan

    # ---- ledger ----------------------------------------------------------------------------------------------------
    def record(self, cell: SweepCell, state: str, **entries: Any) -> None:
        """Append what became of a cell and wait until it is on disk.

        Raises:
            OSError: the disk is full; says what to do.
        """
        row = {"id": cell.id, "label": cell.label, "state": state, **entries, "time": round(time.time(), 3)}
        row.setdefault("attempt", self.states().get(cell.id, {}).get("attempt", 0))
        if self._own is None:
            self._own = self.ledger / f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}.jsonl"
            replace_file(self._own, b"")
        try:
            write_bytes(self._own, (json.dumps(row) + "\n").encode(), append=True)
        except OSError as error:
            raise OSError(
                error.errno,
                f"Cannot write to '{self.ledger}' ({error.strerror}). Finished cells are safe: free space, then start "
                "the same command again",
            ) from error

    def states(self) -> States:
        """Of every cell the row of the latest attempt, finished before failed. Torn lines are skipped."""
        known = States()
        for path in scan(self.ledger, "*.jsonl"):
            for line in path.read_bytes().splitlines():
                try:
                    row = json.loads(line)
                    key, order = row["id"], (row["state"] == "finished", row["attempt"], RANK[row["state"]])
                except (ValueError, KeyError, TypeError):
                    continue
                before = known.get(key)
                if before is None or order > (before["state"] == "finished", before["attempt"], RANK[before["state"]]):
                    known[key] = row
        return known

    def ask_again(self, cells: Sequence[SweepCell]) -> list[SweepCell]:
        """Put failed cells back in line; returns them."""
        states = self.states()
        failed = [cell for cell in cells if states.of(cell) == "failed"]
        for cell in failed:
            self.record(cell, "waiting", attempt=states[cell.id]["attempt"] + 1)
        return failed

    def ended(self, cells: Iterable[SweepCell]) -> bool:
        """Whether every cell has finished or failed."""
        return self.states().counts(cells)["waiting"] == 0


def latest_plan(folder: Path) -> dict[str, Any]:
    """The sweep's latest plan, which OUT/plan names; empty where there is none that can be read."""
    try:
        digest = (folder / "plan").read_text().strip()
        plan = json.loads((folder / "plans" / f"{digest}.json").read_text())
    except (OSError, ValueError):
        return {}
    return plan if isinstance(plan, dict) else {}
