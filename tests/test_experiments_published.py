"""Every published MLLM is a source and a target: real commands on tiny checkpoints in the original file layout.

All models share one weights root, as docs/models.md says; the checkpoints are those of the golden set at hand.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support.golden import FORCED, golden_root
from test_golden import HERE as FOLDERS

from experiments.train import main
from lightning_modules.prompts import Prompt
from model_zoo.registry import canonical

NAMES = [canonical(name) for name in FOLDERS]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One weights root with the files of all golden folders; where two hold the same path, the last one's."""
    target = tmp_path_factory.mktemp("weights")
    for name in FOLDERS:
        shutil.copytree(golden_root() / name / "weights", target, dirs_exist_ok=True, copy_function=shutil.copyfile)
        for folder in (path for path in target.rglob("*") if path.is_dir()):
            folder.chmod(0o755)
    shutil.copyfile(golden_root() / "minigpt4" / "config.json", target / "config.json")
    return target


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control scores of earlier runs must not stand in for scoring."""
    monkeypatch.setenv("TVP_CACHE", str(tmp_path / "cache"))


def run(root: Path, out: Path, source: str, *words: str) -> list[dict]:
    """Two updates from a source's recipe on four emoji scenes a batch; its result rows."""
    small = ["source.dtype=float32", "targets.dtype=float32", "targets.n=2", "data.name=emoji_recognition"]
    small += [
        "data.n_train=8",
        "data.n_test=2",
        "data.workers=0",
        "train.batch_size=4",
        "method.tse=0",
        "log.wandb=off",
    ]
    argv = [f"exp=cifar10_{source}", f"source.weights={root}", f"out={out}", "log.progress=false", *small, *words]
    assert main(argv) == 0
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("source", NAMES)
def test_a_prompt_is_learned_on_every_published_mllm(root: Path, tmp_path: Path, source: str) -> None:
    rows = run(root, tmp_path / "run", source)
    prompt = Prompt.load(tmp_path / "run" / "prompt")
    assert prompt.delta.abs().sum() > 0
    assert {(row["mllm"], row["role"]) for row in rows} == {(source, "source")}
    assert {row["input"] for row in rows} >= {"prompt", "png", "full", "black", "constant", "replicate"}


@pytest.mark.slow
def test_one_prompt_is_scored_on_all_the_others(root: Path, tmp_path: Path) -> None:
    targets = [name for name in NAMES if name != "minigpt4"]
    rows = run(root, tmp_path / "run", "minigpt4", f"targets.names=[{','.join(targets)}]")
    scored = {row["mllm"] for row in rows if row["kind"] == "test" and row["input"] == "png"}
    assert scored == set(NAMES) and (len(NAMES) == 7 or not FORCED)
    assert len({row["model_fp"] for row in rows}) == len(NAMES)
