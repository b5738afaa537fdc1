"""Plant one fault at a time in a copy of the product and see that `make test` goes red: is the suite still awake?

`python tests/support/planted_faults.py [NAME ...]`; each fault runs the quick half of the test files named beside it (a
part of `make test`) and must fail at least one test there. experiments/LOG.md has the list of who caught what.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
COPIED = (
    "model_zoo",
    "datamodules",
    "lightning_modules",
    "experiments",
    "tests",
    "pyproject.toml",
    "README.md",
    "docs",
)


class Fault(NamedTuple):
    """In `file`, `right` becomes `wrong`; `tests` should notice."""

    file: str
    right: str
    wrong: str
    tests: tuple[str, ...]


FAULTS = {
    "two biases swapped": Fault(
        "model_zoo/weights/eva.py",
        "torch.cat([value, torch.zeros_like(v_bias), v_bias])",
        "torch.cat([v_bias, torch.zeros_like(v_bias), value])",
        ("golden", "model_zoo_weights"),
    ),
    "BOS dropped": Fault(
        "model_zoo/minigpt4.py", "return [self.bos_id, *before,", "return [*before,", ("golden", "model_zoo_adapters")
    ),
    "a cache leaks between rounds of candidates": Fault(
        "model_zoo/scoring/packing.py", "    cache.crop(-n)\n", "", ("model_zoo_scoring_packing",)
    ),
    "a candidate's mask off by one": Fault(
        "model_zoo/scoring/packing.py",
        "seen = torch.cat([above, nodes.expand(rows, n, n)], dim=-1)",
        "seen = torch.cat([above, nodes.expand(rows, n, n).roll(1, -1)], dim=-1)",
        ("model_zoo_scoring_packing", "model_zoo_scoring_candidates"),
    ),
    "no projection after the step": Fault(
        "lightning_modules/tvp.py",
        "        optimizer.step()\n        self.prompt.project_()\n",
        "        optimizer.step()\n",
        ("lightning_modules_tvp", "golden"),
    ),
    "the norm over the border alone": Fault(
        "lightning_modules/optim.py",
        "param.grad / (param.grad.norm()",
        "param.grad / (param.grad[:, :8].norm()",
        ("lightning_modules_optim", "golden"),
    ),
    "FCA squared": Fault(
        "lightning_modules/losses.py",
        "torch.ones_like(squared)).sqrt() * moved",
        "torch.ones_like(squared)) * moved",
        ("lightning_modules_losses", "golden"),
    ),
    "resumed without the scheduler": Fault(
        "lightning_modules/trainer_callbacks.py",
        "        torch.save(checkpoint, buffer)\n",
        "        torch.save(checkpoint | {'lr_schedulers': []}, buffer)\n",
        ("experiments_train", "lightning_modules_tvp", "lightning_modules_trainer_callbacks"),
    ),
    "a control cached under too short a key": Fault(
        "lightning_modules/controls.py",
        '"colour": control.colour,\n            **key,',
        '"colour": control.colour,\n            **{k: v for k, v in key.items() if k != "data"},',
        ("lightning_modules_controls", "lightning_modules_scorer"),
    ),
    "validation stays in train": Fault(
        "datamodules/splits.py",
        "return [i for i in range(len(ids)) if i not in held], sorted(held)",
        "return list(range(len(ids))), sorted(held)",
        ("datamodules_splits", "datamodules_contract"),
    ),
    "a lease taken twice": Fault(
        "experiments/sweep/leases.py",
        "            if not self.is_free(cell_id):\n                return False\n",
        "",
        ("experiments_sweep_leases", "experiments_sweep_worker"),
    ),
    "T5's relative bias one further": Fault(
        "model_zoo/scoring/t5.py",
        ".clamp(min=0)\n",
        ".clamp(min=1)\n",
        ("model_zoo_scoring_packing", "golden"),
    ),
    "two ranks count their own tokens": Fault(
        "lightning_modules/tvp.py",
        "            torch.distributed.all_reduce(totals)\n",
        "            pass\n",
        ("experiments_train",),
    ),
    "another interval than Wilson's": Fault(
        "lightning_modules/intervals.py", 'method="wilson"', 'method="normal"', ("lightning_modules_metrics",)
    ),
    "questions about one picture taken for independent": Fault(
        "lightning_modules/metrics.py",
        "return numbers if len(names) < len(units) else None",
        "return None",
        ("lightning_modules_metrics",),
    ),
    "degrees of freedom as if all sources' seeds varied alike": Fault(
        "experiments/statistics/two_way.py",
        "return float(df * parts.sum() ** 2 / squares) if squares > 0 else float(df * len(parts))",
        "return float(df * len(parts))",
        ("experiments_statistics",),
    ),
    "normalised with another model's numbers": Fault(
        "model_zoo/base.py", "0.26862954", "0.229", ("golden", "model_zoo_preprocess")
    ),
}


def planted(fault: Fault, place: Path) -> str:
    """Copy the tree to `place`, plant the fault, run its tests; the first test that failed, or nothing."""
    for name in COPIED:
        if (ROOT / name).exists():
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, place / name)
    path = place / fault.file
    text = path.read_text()
    if text.count(fault.right) < 1:
        raise ValueError(f"{fault.file} no longer holds {fault.right!r}. Plant this fault where its code is now.")
    path.write_text(text.replace(fault.right, fault.wrong, 1))
    files = [f"tests/test_{name}.py" for name in fault.tests]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-n",
        "0",
        "-m",
        "not slow",
        "-p",
        "no:cacheprovider",
        *files,
    ]
    done = subprocess.run(
        command, cwd=place, env=os.environ | {"PYTHONPATH": str(place)}, capture_output=True, text=True
    )
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, flags=re.MULTILINE)
    return failed[0] if done.returncode == 1 and failed else ""


def main(names: list[str]) -> int:
    asleep = 0
    for name in names or FAULTS:
        with tempfile.TemporaryDirectory() as place:
            caught = planted(FAULTS[name], Path(place))
        asleep += not caught
        print(f"* {name}: {caught or 'NOT CAUGHT'}", flush=True)
    return int(asleep > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
