"""`make train`, end to end on the smoke recipe: what it leaves, resuming, two ranks, no network, wrong use."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.whole_files import disk
from experiments.evaluate import main as evaluate
from experiments.report.__main__ import main as report
from experiments.run.folder import read_status
from experiments.train import main
from lightning_modules.artefact import read_manifest
from lightning_modules.prompts import Prompt
from lightning_modules.records import read_rows
from lightning_modules.trainer_callbacks import AtomicCheckpointIO
from lightning_modules.vocabulary import CONTROLS

ROOT = Path(__file__).parent.parent
MODELS = {"embedded_minigpt4": "source", "embedded_instructblip": "select", "embedded_llava": "heldout"}
PROMISED = (
    *("config.yaml", "run.json", "results.jsonl", "table.md", "csv/metrics.csv"),
    *("checkpoints/best.ckpt", "checkpoints/last.ckpt", "pictures/prompt.png", "pictures/examples.png"),
    *("prompt/prompt.png", "prompt/prompt.safetensors", "prompt/manifest.json"),
)
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:.*ModelCheckpoint with manual optimization"),
]


def delta_of(folder):
    return Prompt.load(Path(folder) / "prompt").delta


def smoke(out, *words):
    main(["exp=smoke", f"out={out}", *words])
    return Path(out)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Scores of controls, shared by the runs of this module as they are by a user's."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("TVP_CACHE")
    os.environ["TVP_CACHE"] = str(folder)
    yield folder
    os.environ.pop("TVP_CACHE") if before is None else os.environ.update(TVP_CACHE=before)


@pytest.fixture(scope="module")
def run(cache, tmp_path_factory):
    """One undisturbed run."""
    return smoke(tmp_path_factory.mktemp("runs") / "whole")


def test_a_run_leaves_everything_it_promises(run):
    for name in PROMISED:
        assert (run / name).is_file(), name
    assert read_status(run)["state"] == "finished"
    assert (run / "checkpoints/last.ckpt").stat().st_size < 1_000_000


def test_every_model_is_scored_with_every_control_on_val_and_test(run):
    rows = read_rows(run / "results.jsonl")
    assert {row["mllm"]: row["role"] for row in rows} == MODELS
    for split, inputs in (("val", {*CONTROLS, "prompt"}), ("test", {*CONTROLS, "prompt", "png"})):
        for name in MODELS:
            mine = [row for row in rows if row["split"] == split and row["mllm"] == name]
            assert {row["input"] for row in mine} == inputs and {row["n"] for row in mine} == {24}
    assert {row["epoch"] for row in rows if row["split"] == "val"} == {0, 1}
    assert len({row["data_fp"] for row in rows}) == 2


def test_the_table_states_every_gain_with_its_interval(run):
    table = (run / "table.md").read_text()
    assert all(f"{name} ({role})" in table for name, role in MODELS.items())
    assert "replicate padding | full + offsets | prompted" in table and "labels of the very model" in table
    assert table.count("[") >= 12 and "PNG read back from disk minus float prompt" in table


def test_the_manifest_holds_scores_measured_from_the_png(run):
    manifest = read_manifest(run / "prompt")
    rows = read_rows(run / "results.jsonl")
    for name in MODELS:
        (png,) = [r for r in rows if (r["mllm"], r["input"], r["split"], r["metric"]) == (name, "png", "test", "top1")]
        assert manifest["scores"][name]["png"]["value"] == png["value"]
        assert png["prompt"] == manifest["prompt_png"]


def test_pictures_are_pictures(run):
    with Image.open(run / "pictures/prompt.png") as prompt, Image.open(run / "pictures/examples.png") as sheet:
        low, high = sheet.convert("L").getextrema()
        assert prompt.size == (512, 512) and sheet.width > 500 and high - low > 100


def test_documented_keys_are_logged(run):
    header = (run / "csv/metrics.csv").read_text().splitlines()[0].split(",")
    for key in ("train/loss", "train/task", "train/fca", "train/tse", "train/grad_norm", "train/lr", "val/loss"):
        assert key in header
    for control in CONTROLS:
        assert {f"val/gain/{control}/{name}" for name in (*MODELS, "mean_select")} <= set(header)


def test_the_same_seed_gives_the_same_prompt_and_another_another(run, tmp_path, capsys):
    again = smoke(tmp_path / "again", "log.progress=true")
    assert torch.equal(delta_of(again), delta_of(run))
    told = "".join(capsys.readouterr())  # no terminal: lines instead of a bar, no warning
    assert "update 4 of 8, loss" in told and "update 8 of 8, loss" in told
    assert "\r" not in told and "Warning" not in told
    assert not torch.equal(delta_of(smoke(tmp_path / "other", "seed=1")), delta_of(run))


class Killed(BaseException):
    pass


@pytest.mark.parametrize("step", [6, *(pytest.param(step, marks=pytest.mark.slow) for step in (1, 3, 4))])
def test_a_run_cut_at_any_update_resumes_to_the_same_prompt(run, tmp_path, monkeypatch, step):
    from lightning_modules.tvp import TVPModule

    def cut(self, *_):
        if self.global_step == step:
            raise Killed

    words = ["train.checkpoint_every=1"]
    with monkeypatch.context() as patched:
        patched.setattr(TVPModule, "on_train_batch_start", cut, raising=False)
        with pytest.raises(Killed):
            smoke(tmp_path / "cut", *words)
    assert read_status(tmp_path / "cut")["state"] == "failed"
    if step == 6:  # in the second epoch: the schedule, which moves once an epoch, has moved and is kept
        kept = torch.load(tmp_path / "cut/checkpoints/last.ckpt", weights_only=True)
        assert [schedule["last_epoch"] for schedule in kept["lr_schedulers"]] == [1]
    main([f"resume={tmp_path / 'cut'}"])
    assert torch.equal(delta_of(tmp_path / "cut"), delta_of(run))
    assert (tmp_path / "cut/csv/metrics.csv").exists() or step == 1
    epochs = [r["epoch"] for r in read_rows(tmp_path / "cut/results.jsonl") if r["kind"] == "val"]
    assert sorted(set(epochs)) == [0, 1]


def test_a_cut_run_resumes_to_the_same_average_which_is_what_is_scored_and_exported(cache, tmp_path, monkeypatch):
    from lightning_modules.tvp import TVPModule

    words = ["train.average_last=3", "train.keep_prompts=[1,2,3,4,5,6,7]", "prompt.init=replicate", "data.n_test=0"]
    words += ["targets.select=[]", "targets.heldout=[]", "train.checkpoint_every=1"]
    whole = smoke(tmp_path / "whole", *words)

    def cut(self, *_):
        if self.global_step == 6:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(TVPModule, "on_train_batch_start", cut, raising=False)
        with pytest.raises(Killed):
            smoke(tmp_path / "cut", *words)
    state = torch.load(tmp_path / "cut/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert set(state) == {"prompt.delta", "average.delta"} and not torch.equal(*state.values())
    main([f"resume={tmp_path / 'cut'}"])
    assert torch.equal(delta_of(tmp_path / "cut"), delta_of(whole))
    average, manifest = 0, read_manifest(whole / "prompt")
    for step in range(1, manifest["steps"] + 1):
        kept = [np.load(folder / f"prompts/{step}.npy") for folder in (whole, tmp_path / "cut")]
        assert (kept[0] == kept[1]).all()
        average = average + (kept[0] - average) / min(step, 3)
    torch.testing.assert_close(delta_of(whole), torch.from_numpy(average))
    assert manifest["average_last"] == 3 and manifest["start"]["init"] == "replicate"
    scored = {row["prompt"] for row in read_rows(whole / "results.jsonl") if row["input"] == "prompt"}
    assert manifest["prompt"] in scored and (whole / "prompts/8.npy").is_file()


def test_resuming_a_finished_run_prints_its_table_and_changes_nothing(run, capsys):
    before = (run / "results.jsonl").read_bytes()
    main([f"resume={run}"])
    assert "is finished" in capsys.readouterr().out
    assert (run / "results.jsonl").read_bytes() == before


def test_two_runs_never_write_the_same_folder(run, tmp_path):
    with pytest.raises(FileExistsError, match=r"already holds files.*resume="):
        smoke(run)
    from experiments.run.folder import open_run_folder

    held, _ = open_run_folder(run)
    with pytest.raises(FileExistsError, match="Another process is writing"):
        main([f"resume={run}"])
    held.release()


def test_tuning_never_reads_test(cache, tmp_path, monkeypatch):
    from datamodules.emoji.questions import EmojiRecognition

    scenes = EmojiRecognition.scenes

    def no_test(self, split):
        assert split != "test", "test was read"
        return scenes(self, split)

    monkeypatch.setattr(EmojiRecognition, "scenes", no_test)
    out = smoke(tmp_path / "tuned", "data.n_test=0", "train.epochs=1")
    assert {row["split"] for row in read_rows(out / "results.jsonl")} == {"val"}
    assert read_status(out)["state"] == "finished" and (out / "prompt/prompt.png").is_file()


@pytest.mark.slow
def test_methods_without_training_or_on_the_full_image_run_too(cache, tmp_path):
    none = smoke(tmp_path / "none", "method=none")
    rows = [r for r in read_rows(none / "results.jsonl") if r["split"] == "test" and r["metric"] == "top1"]
    for name in MODELS:
        value = {row["input"]: row["value"] for row in rows if row["mllm"] == name}
        assert value["prompt"] == value["black"] == value["png"]
    vp = smoke(tmp_path / "vp", "method=vp", "train.epochs=1")
    assert read_manifest(vp / "prompt")["kind"] == "overlay" and delta_of(vp).abs().sum() > 0


@pytest.mark.slow
def test_a_run_can_score_its_png_on_the_source_alone_and_says_so(cache, tmp_path):
    out = smoke(tmp_path / "none", "method=none", "targets.png=source", "targets.label_mapping=true")
    rows = [row for row in read_rows(out / "results.jsonl") if row["split"] == "test"]
    assert {row["mllm"] for row in rows if row["input"] == "png"} == {"embedded_minigpt4"}
    assert {row["mllm"] for row in rows if row["input"] == "prompt"} == {*MODELS}
    assert [name for name in MODELS if "png" in read_manifest(out / "prompt")["scores"][name]] == ["embedded_minigpt4"]
    table = (out / "table.md").read_text().splitlines()
    place = next(line for line in table if line.startswith("| model | n |")).split(" | ").index("from PNG")
    lines = {name: next(line for line in table if line.startswith(f"| {name} (")) for name in MODELS}
    assert [name for name, line in lines.items() if line.split(" | ")[place] == "-"] == [*MODELS][1:]
    (mapped,) = [place for place, line in enumerate(table) if "through label maps (top1_mapped)" in line]
    value = {row["mllm"]: row["value"] for row in rows if (row["input"], row["metric"]) == ("full", "top1_mapped")}
    shown = {line.split(" ")[1]: line.split(" | ")[2] for line in table[mapped:] if line.startswith("| embedded_")}
    assert shown == {name: f"{100 * value[name]:.1f}" for name in MODELS}
    assert "png: source" in (out / "config.yaml").read_text()


@pytest.mark.slow
def test_held_out_models_can_be_left_to_the_test_and_models_that_steer_cannot(cache, tmp_path):
    out = smoke(tmp_path / "none", "method=none", "targets.curves=false")
    rows = read_rows(out / "results.jsonl")
    heldout = {row["mllm"] for row in rows if row["role"] == "heldout"}
    assert heldout and not heldout & {row["mllm"] for row in rows if row["split"] == "val"}
    assert {row["mllm"] for row in rows if row["split"] == "val"} == {*MODELS} - heldout
    assert {row["mllm"] for row in rows if row["split"] == "test"} == {*MODELS}


def test_evaluate_gives_the_run_s_own_test_scores(run, cache, tmp_path, capsys):
    evaluate([f"prompt={run / 'prompt'}", "mllm=embedded_instructblip", "n=24", f"out={tmp_path}"])

    def scores(folder):
        rows = [row for row in read_rows(folder / "results.jsonl") if row["split"] == "test"]
        return {(r["input"], r["metric"]): r["value"] for r in rows if r["mllm"] == "embedded_instructblip"}

    assert scores(tmp_path) == scores(run)
    assert "embedded_instructblip" in capsys.readouterr().out


def test_report_rebuilds_the_table_without_a_model(run, capsys, monkeypatch):
    monkeypatch.setattr("model_zoo.registry.load_mllm", lambda *a, **k: pytest.fail("a model was loaded"))
    report([f"run={run}"])
    out = capsys.readouterr().out
    assert "val, update" in out and "embedded_llava (heldout)" in out


def test_missing_weights_and_data_are_all_named_and_nothing_is_created(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as error:
        main(["exp=cifar10_minigpt4"])
    for word in ("eva_vit_g.pth", "prerained_minigpt4_7b.pth", "vicuna-7b-v0", "ViT-B-32", "data_batch_1", "docs/"):
        assert word in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_prints_the_plan_and_creates_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["exp=cifar10_minigpt4", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "lr: 10.0" in out and "GiB" in out and "MISSING hub/checkpoints/eva_vit_g.pth" in out
    assert list(tmp_path.iterdir()) == []


def test_a_held_out_target_may_not_steer():
    with pytest.raises(ValueError, match=r"reads the held-out target 'embedded_llava'"):
        main(["exp=smoke", "monitor=val/top1/embedded_llava"])


def test_an_unwritable_folder_is_one_message(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match=r"Choose another out=DIR|already holds files"):
        smoke(tmp_path / "file" / "run")


def full_while(save):
    """`save`, during which the disk takes only half of what is written."""
    write = disk.write_bytes

    def half(path, data, *, sync):
        write(path, data[: len(data) // 2], sync=sync)
        raise OSError(errno.ENOSPC, "No space left on device")

    def saving(*args, **kwargs):
        disk.write_bytes = half
        try:
            save(*args, **kwargs)
        finally:
            disk.write_bytes = write

    return saving


@pytest.mark.slow
def test_a_full_disk_is_one_message_and_the_run_goes_on_once_there_is_room(run, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(AtomicCheckpointIO, "save_checkpoint", full_while(AtomicCheckpointIO.save_checkpoint))
        with pytest.raises(OSError, match=r"The disk is full .* continue with resume="):
            smoke(tmp_path / "full")
    assert not list((tmp_path / "full/checkpoints").glob("*"))
    assert read_status(tmp_path / "full")["state"] == "failed"
    main([f"resume={tmp_path / 'full'}"])
    assert torch.equal(delta_of(tmp_path / "full"), delta_of(run))


def test_resume_of_nothing_says_what_was_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No run in .*expected config\.yaml"):
        main([f"resume={tmp_path}"])
    with pytest.raises(ValueError, match="keeps its configuration"):
        main([f"resume={tmp_path}", "seed=3"])


def test_resume_of_a_part_of_a_run_names_the_run(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text("exp: smoke\n")
    with pytest.raises(FileNotFoundError, match=rf"part of the run '{tmp_path}/run': give resume={tmp_path}/run"):
        main([f"resume={tmp_path / 'run' / 'checkpoints'}"])


# ---- in processes of their own ---------------------------------------------------------------------------------------
def command(*words, **env):
    variables = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | env
    return {"args": [sys.executable, "-m", "experiments.train", *words], "env": variables, "cwd": ROOT}


@pytest.mark.parametrize("flag", ["--help", "--list"])
def test_help_and_list_load_nothing_heavy(flag):
    code = f"import sys; from experiments.train import main; main(['{flag}']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "exp=NAME" in done.stdout or "embedded" in done.stdout


@pytest.mark.slow
def test_a_killed_process_leaves_a_folder_that_resumes(run, cache, tmp_path):
    out = tmp_path / "killed"
    words = ["exp=smoke", f"out={out}", "train.checkpoint_every=1"]
    process = subprocess.Popen(**command(*words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 120
    while not (out / "checkpoints/last.ckpt").exists() and time.time() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert read_status(out)["state"] == "running"
    main([f"resume={out}"])
    assert torch.equal(delta_of(out), delta_of(run))


def test_an_error_while_ctrl_c_is_handled_is_still_an_interrupt(cache, tmp_path, monkeypatch):
    from lightning.pytorch.loggers import CSVLogger

    from lightning_modules.tvp import TVPModule

    def press(self, *_):
        raise KeyboardInterrupt

    def fail(self, status):
        raise ValueError("dict contains fields not in fieldnames")

    monkeypatch.setattr(TVPModule, "on_train_batch_start", press, raising=False)
    monkeypatch.setattr(CSVLogger, "finalize", fail)
    handler = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt):
            smoke(tmp_path / "run")
    finally:
        signal.signal(signal.SIGINT, handler)
    assert read_status(tmp_path / "run")["state"] == "interrupted"


@pytest.mark.slow
def test_ctrl_c_keeps_results_and_says_how_to_go_on(run, cache, tmp_path):
    out = tmp_path / "interrupted"
    words = ["exp=smoke", f"out={out}", "train.checkpoint_every=1", "train.epochs=200"]
    hears = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}  # tests in the background ignore it
    process = subprocess.Popen(**command(*words), **hears, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.time() + 120
    try:
        while not (out / "results.jsonl").exists() and time.time() < deadline and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130 and f"resume={out}" in printed and "Traceback" not in printed, printed[-2000:]
    assert read_status(out)["state"] == "interrupted" and read_rows(out / "results.jsonl")


@pytest.mark.slow
def test_two_ranks_equal_one_rank_with_the_doubled_batch(cache, tmp_path):
    common = ["exp=smoke", "train.max_steps=5", "train.epochs=5", "train.accelerator=cpu", "targets.heldout=[]"]
    common += ["data.n_train=40", "data.n_test=11", "targets.n=13"]
    smoke(tmp_path / "one", *common[1:], "train.batch_size=8")
    words = [*common, f"out={tmp_path / 'two'}", "train.batch_size=4", "train.devices=2", "train.strategy=ddp"]
    fresh = {"TVP_CACHE": str(tmp_path / "cache")}  # so that controls are scored by two ranks too
    done = subprocess.run(**command(*words, **fresh), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert torch.allclose(delta_of(tmp_path / "two"), delta_of(tmp_path / "one"), atol=1e-4)
    one, two = (read_rows(tmp_path / name / "results.jsonl") for name in ("one", "two"))
    assert {(r["split"], r["n"]) for r in two} == {("val", 13), ("test", 11)}
    key = ("split", "epoch", "mllm", "input", "metric")
    values = [{tuple(r[k] for k in key): r["value"] for r in rows if r["kind"] == "control"} for rows in (one, two)]
    assert values[0] == values[1]


@pytest.mark.slow
def test_training_needs_no_network(tmp_path):
    """Every connection that is not loopback raises inside the process, from its first import on."""
    (tmp_path / "sitecustomize.py").write_text(
        "import socket\n"
        "real = socket.socket.connect\n"
        "def connect(self, address):\n"
        "    if self.family != socket.AF_UNIX and not str(address[0]).startswith(('127.', '::1', 'localhost')):\n"
        f"        open({str(tmp_path / 'attempts')!r}, 'a').write(f'{{address}}\\n')\n"
        "        raise OSError('blocked')\n"
        "    return real(self, address)\n"
        "socket.socket.connect = connect\n"
    )
    env = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "TVP_CACHE": str(tmp_path / "cache"), "WANDB_MODE": "offline"}
    words = command("exp=smoke", f"out={tmp_path / 'run'}", "log.wandb=auto", **env)
    done = subprocess.run(**words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not (tmp_path / "attempts").exists()
    assert list((tmp_path / "run/wandb").glob("offline-run-*"))
    assert json.loads((tmp_path / "run/run.json").read_text())["state"] == "finished"


@pytest.mark.parametrize("step", [6, *(pytest.param(step, marks=pytest.mark.slow) for step in (1, 3, 4, 7))])
def test_a_run_validated_inside_epochs_resumes_to_the_same_prompt_and_rows(tmp_path, monkeypatch, step, whole_curve):
    from lightning_modules.tvp import TVPModule

    def cut(self, *_):
        if self.global_step == step:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(TVPModule, "on_train_batch_start", cut, raising=False)
        with pytest.raises(Killed):
            smoke(tmp_path / "cut", *CURVE)
    main([f"resume={tmp_path / 'cut'}"])
    assert torch.equal(delta_of(tmp_path / "cut"), delta_of(whole_curve))
    assert curve_of(tmp_path / "cut") == curve_of(whole_curve)


CURVE = ("train.checkpoint_every=1", "train.val_every_steps=3", "targets.heldout=[]")


@pytest.fixture(scope="module")
def whole_curve(tmp_path_factory, cache):
    return smoke(tmp_path_factory.mktemp("curve") / "run", *CURVE)


def curve_of(folder):
    rows = [
        r for r in read_rows(folder / "results.jsonl") if (r["kind"], r["group"], r["input"]) == ("val", "", "prompt")
    ]
    return sorted((r["step"], r["mllm"], r["metric"], r["value"]) for r in rows)


def test_a_curve_in_updates_has_its_steps_and_the_end(whole_curve):
    assert sorted({step for step, *_ in curve_of(whole_curve)}) == [3, 6, 8]  # two epochs of four updates


def test_a_cut_checkpoint_is_named_and_the_one_before_is_continued(run, tmp_path, monkeypatch, capsys):
    from lightning_modules.tvp import TVPModule

    def cut(self, *_):
        if self.global_step == 6:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(TVPModule, "on_train_batch_start", cut, raising=False)
        with pytest.raises(Killed):
            smoke(tmp_path / "cut", "train.checkpoint_every=1")
    folder = tmp_path / "cut/checkpoints"
    last = folder / "last.ckpt"
    last.write_bytes(last.read_bytes()[:100])
    main([f"resume={tmp_path / 'cut'}"])
    said = capsys.readouterr().out
    assert f"'{last}' is damaged" in said and "Going on from" in said and "last.previous.ckpt', update" in said
    assert torch.equal(delta_of(tmp_path / "cut"), delta_of(run))
    assert (folder / "last.ckpt.damaged").stat().st_size == 100


def test_an_official_run_keeps_the_last_prompt_whatever_validation_says(tmp_path, cache, monkeypatch):
    from lightning_modules.transfer_callback import TransferCallback

    real = TransferCallback.score_split

    def worse_each_time(self, module, split, epoch, step):
        return {key: -float(step) for key in real(self, module, split, epoch, step)}

    monkeypatch.setattr(TransferCallback, "score_split", worse_each_time)
    words = ("official=true", "source.official=false", "data.official=false", "data.n_test=0", "targets.heldout=[]")
    official = smoke(tmp_path / "official", *words, "data.val=train")
    ours = smoke(tmp_path / "ours", *words[3:], "prompt.bounds=unbounded")
    steps = [json.loads((folder / "prompt/manifest.json").read_text())["steps"] for folder in (official, ours)]
    assert steps == [8, 4] and not torch.equal(delta_of(official), delta_of(ours))
