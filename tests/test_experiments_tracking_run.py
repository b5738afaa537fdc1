"""What a real run records: killed by SIGKILL, resumed, read back. Every key documented, every documented key there."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.recorded_run import RUN_WORDS, offline, rank_environment
from support.wandb_records import history, logged_keys, matching_key, records

from experiments.tracking.keys import KEYS
from experiments.tracking.logger import sessions, summary
from lightning_modules.vocabulary import CONTROLS

ROOT = Path(__file__).parent.parent
MODELS = {"embedded_minigpt4": "source", "embedded_instructblip": "select", "embedded_llava": "heldout"}
OWN_COLUMNS = {"step"}  # what Lightning's CSV calls its x axis
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:.*ModelCheckpoint with manual optimization"),
]


ANCHOR_WORDS = ("method.anchors=[embedded_instructblip]", "method.anchor=0.1")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tvp run with both transfer losses and an anchor, killed after its first checkpoint and resumed to its end."""
    folder = tmp_path_factory.mktemp("tracked")
    out = folder / "run"
    with offline(folder):
        words = [sys.executable, "-m", "experiments.train", *RUN_WORDS, *ANCHOR_WORDS, f"out={out}"]
        words += ["train.checkpoint_every=1"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(words, cwd=ROOT, env=rank_environment(), **quiet)
        try:
            deadline = time.time() + 240
            while not (out / "checkpoints/last.ckpt").exists() and time.time() < deadline and process.poll() is None:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
        finally:
            process.kill()
            process.wait()
        from experiments.train import main

        main([f"resume={out}"])
    return out


@pytest.fixture(scope="module")
def last(run):
    return summary(sessions(run)[-1])


def test_every_logged_key_is_documented(run):
    assert [key for key in sorted(logged_keys(run)) if matching_key(key) is None] == []


def test_every_documented_key_is_logged(run):
    found = {matching_key(key).pattern for key in logged_keys(run)}
    assert {key.pattern for key in KEYS if key.of == "run"} - found == set()


def test_a_killed_run_continues_under_its_own_id_with_increasing_steps(run):
    logs = sessions(run)
    assert len(logs) == 2
    headers = [record["run"] for log in logs for record in records(log) if record["type"] == "run"]
    assert len({header["run_id"] for header in headers}) == 1 and headers[0]["run_id"].startswith("run-")
    assert all(header["run_group"] == "night" and header["tags"] == ["embedded", "try"] for header in headers)
    steps = [row["_step"] for log in logs for row in history(log)]
    assert steps == sorted(set(steps))
    updates = [row["trainer/global_step"] for row in history(logs[-1]) if "train/loss" in row]
    assert updates and updates == sorted(updates)


def test_the_run_is_recorded_as_finished_with_its_configuration(last):
    assert last["state"] == "finished" and last["config"]["method"]["fca"] == 0.1 and "out" not in last["config"]
    assert last["config"]["source"]["name"] == "embedded_minigpt4" and last["console"] == []


def test_gains_and_drift_are_recorded_per_model_and_agree_with_the_rows(run, last):
    rows = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    for name in MODELS:
        value = {r["input"]: r["value"] for r in rows if (r["mllm"], r["split"], r["metric"]) == (name, "test", "top1")}
        for control in CONTROLS:
            gain = last["summary"][f"test/gain/{control}/{name}"]
            assert gain == pytest.approx(value["prompt"] - value[control], abs=1e-6)
        assert last["summary"][f"val/drift/{name}"] > 0


def test_the_table_has_a_row_per_model_with_role_scores_and_intervals(run, last):
    entry = last["summary"]["table/targets"]
    table = json.loads((sessions(run)[-1].parent / "files" / entry["path"]).read_text())
    rows = {row[0]: dict(zip(table["columns"], row, strict=True)) for row in table["data"]}
    assert {name: row["role"] for name, row in rows.items()} == MODELS
    for row in rows.values():
        assert row["n"] == 24 and row["split"] == "test" and row["metric"] == "top1"
        for control in CONTROLS:
            low, gain, high = (row[f"gain_{control}{end}"] for end in ("_low", "", "_high"))
            assert low <= gain <= high and gain == pytest.approx(row["prompt"] - row[control])


def test_the_prompt_is_an_artifact_that_says_what_it_was_made_from(run, last):
    found = [r["artifact"] for log in sessions(run) for r in records(log) if r["type"] == "artifact"]
    (artifact,) = [a for a in found if a["type"] == "prompt"]
    manifest = json.loads((run / "prompt/manifest.json").read_text())
    metadata = json.loads(artifact["metadata"])
    assert artifact["name"] == f"prompt-{last['run_id']}" and "chosen" in artifact["aliases"]
    for key in ("prompt", "train_data_fingerprint", "source_fingerprints", "source", "seed", "scores"):
        assert metadata[key] == manifest[key]
    assert metadata["config"]["method"]["name"] == "tvp"
    files = {entry["path"]: Path(entry["local_path"]) for entry in artifact["manifest"]["contents"]}
    assert set(files) == {"prompt.png", "prompt.safetensors", "manifest.json"}
    assert all(path.is_relative_to(run / "prompt") for path in files.values()), "no second copy is kept"


def test_the_prompt_and_samples_are_drawn_at_every_validation_epoch_and_at_the_end(run):
    rows = [row for log in sessions(run) for row in history(log)]
    steps = {
        key: {row["trainer/global_step"] for row in rows if f"pictures/{key}._type" in row}
        for key in ("prompt", "samples", "examples")
    }
    assert steps["samples"] == {4, 8} and steps["prompt"] == {4, 8} and steps["examples"] == {8}
    assert sum("pictures/prompt._type" in row for row in rows) >= 3  # twice at update 8: validated, finished


def test_csv_and_tensorboard_hold_the_same_numbers_under_the_same_keys(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    numbers = {key for key in logged_keys(run) if matching_key(key).kind == "number"} - {"trainer/global_step"}
    columns = set()
    for path in run.glob("csv*/metrics.csv"):
        with path.open() as file:
            columns |= set(next(csv.reader(file), ()))  # the killed session may have been cut before its first line
    assert columns - OWN_COLUMNS == numbers
    tags: set[str] = set()
    for path in (run / "tensorboard").glob("events*"):
        events = EventAccumulator(str(path)).Reload()
        tags |= set(events.Tags()["scalars"]) | set(events.Tags()["images"])
    pictures = {"pictures/prompt", "pictures/samples", "pictures/examples"}
    assert tags - {"hp_metric"} == numbers | pictures
