"""`python -m experiments.transfer_sweep`: answers to wrong words, what `plan` and `status` show, what it resumes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import sweep_runs
from support.sweep_runs import sweep_cell

from experiments import transfer_sweep
from experiments.run import ensure as many
from experiments.sweep import engines, worker
from experiments.sweep.folder import States, SweepFolder

ROOT = Path(__file__).resolve().parents[1]
CELLS = [sweep_cell(c, method=m, source=s) for c, m, s in (("a", "none", "m"), ("b", "tvp", "m"), ("c", "tvp", "t"))]


def in_process(folder, plan, options, watch):
    """An engine for tests: one worker, here."""
    worker.work(folder.path, plan, "w")
    watch()


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """The command on stand-in cells: nothing is trained, everything else is real."""
    monkeypatch.setattr(many, "ensure_run", sweep_runs.fake_ensure_run)
    monkeypatch.setattr(transfer_sweep, "load_engine", lambda name: in_process)
    monkeypatch.setattr(transfer_sweep, "_explain_results", lambda folder, sweep: None)
    real = transfer_sweep._identified
    monkeypatch.setattr(transfer_sweep, "_identified", lambda own, others: (_recipe(own, others), CELLS))
    return tmp_path / "out", real


def _recipe(own, others):
    from experiments.sweep.recipe import load_sweep

    return load_sweep(own.sweep, others)


def test_help_is_instant_and_needs_nothing():
    code = "import sys, experiments.transfer_sweep as t; t.main(['--help']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "sweep    text            fashion" in done.stdout and done.stdout.strip().endswith("False")


def test_the_recipes_are_listed(capsys):
    assert transfer_sweep.main(["--list"]) == 0
    said = capsys.readouterr().out
    assert "embedded_smoke" in said and "paper" in said


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["runn"], "Unknown action 'runn'. Did you mean 'run'\\? Available: run, plan, status, retry, report"),
        (["run", "plan"], "got 'plan'"),
        (["jobs=two"], "Expected jobs=N, a whole number, got jobs=two"),
        (["gpus=half"], "Expected a number for gpus, got 'half'"),
        (["jobs=-1"], "Expected jobs=N, a whole number, got jobs=-1"),
        (["sweep=embeddedd"], "Unknown sweep 'embeddedd'. Did you mean 'embedded'"),
        (["engine=rey"], "Unknown engine 'rey'. Did you mean 'ray'"),
        (["status", "seed=3"], "status reads what is in out=DIR"),
        (["plan", "--fast"], "Unknown option '--fast'"),
    ],
)
def test_wrong_words_are_refused_with_what_would_be_right(words, text, tmp_path):
    with pytest.raises(ValueError, match=text):
        transfer_sweep.main([*words, *([] if "out" in words else [f"out={tmp_path / 'x'}"])])
    assert not (tmp_path / "x").exists()


def test_a_missing_extra_says_how_to_install_it(monkeypatch):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(engines, "import_module", absent)
    with pytest.raises(ValueError, match=r"needs the package submitit.*pip install -e '\.\[slurm\]'"):
        engines.load_engine("slurm")


@pytest.mark.slow
def test_missing_weights_stop_the_sweep_before_a_folder_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["sweep=paper", "sources=blip2", "data=cifar10", "seeds=0", "methods=evp", f"out={tmp_path / 'out'}"]
    with pytest.raises(FileNotFoundError, match=r"(?s)No blip2 weights.*No cifar10 data.*Nothing was started"):
        transfer_sweep.main(words)
    assert not (tmp_path / "out").exists()


def test_a_sweep_runs_once_and_says_what_it_made(sweep, capsys):
    out, _ = sweep
    assert transfer_sweep.main(["sweep=embedded_smoke", f"out={out}"]) == 0
    assert "0 of 3 cells are finished, 3 to do" in capsys.readouterr().out
    first = (out / "matrix.csv").read_bytes()
    assert transfer_sweep.main([f"out={out}", "sweep=embedded_smoke"]) == 0
    said = capsys.readouterr().out
    assert "3 of 3 cells are finished, 0 to do" in said and f"3 of 3 cells finished: {out / 'matrix.csv'}" in said
    assert (out / "matrix.csv").read_bytes() == first
    assert [(out / "cells" / cell.folder / "times").read_text() for cell in CELLS] == ["x"] * 3


def test_a_failed_cell_gives_exit_code_1_and_retry_repeats_it_alone(sweep, capsys, monkeypatch):
    out, _ = sweep

    def failing(cell, folder):
        if "tvp" in cell.name and cell.name.startswith("m-"):
            raise ValueError("no such colour")
        return sweep_runs.fake_ensure_run(cell, folder)

    monkeypatch.setattr(many, "ensure_run", failing)
    words = ["sweep=embedded_smoke", f"out={out}"]
    assert transfer_sweep.main(words) == 1 and "1 failed" in capsys.readouterr().out
    assert transfer_sweep.main(words) == 1  # not tried again by itself
    assert transfer_sweep.main(["status", f"out={out}"]) == 0
    said = capsys.readouterr().out
    assert "2 of 3 cells finished, 1 failed" in said and "failed  m-d-tvp-s0: ValueError: no such colour" in said
    monkeypatch.setattr(many, "ensure_run", sweep_runs.fake_ensure_run)
    assert transfer_sweep.main(["retry", *words]) == 0
    assert "1 failed cells are asked for again" in capsys.readouterr().out
    assert [(out / "cells" / cell.folder / "times").read_text() for cell in CELLS] == ["x"] * 3


def test_ctrl_c_prints_the_command_that_goes_on(sweep, capsys, monkeypatch):
    out, _ = sweep

    def stopped(folder, plan, options, watch):
        raise KeyboardInterrupt

    monkeypatch.setattr(transfer_sweep, "load_engine", lambda name: stopped)
    with pytest.raises(KeyboardInterrupt):
        transfer_sweep.main(["sweep=embedded_smoke", f"out={out}", "jobs=2", "train.epochs=1"])
    said = capsys.readouterr().err
    assert (
        f"Go on with: python -m experiments.transfer_sweep sweep=embedded_smoke out={out} jobs=2 train.epochs=1" in said
    )


def test_workers_that_cannot_start_are_a_message_of_the_command(sweep, monkeypatch):
    out, _ = sweep

    def dying(folder, plan, options, watch):
        raise engines.SweepStopped("Workers die before they take a cell")

    monkeypatch.setattr(transfer_sweep, "load_engine", lambda name: dying)
    with pytest.raises(ValueError, match="Workers die before they take a cell"):
        transfer_sweep.main(["sweep=embedded_smoke", f"out={out}"])


def test_a_fault_of_an_engine_keeps_its_traceback(sweep, monkeypatch):
    out, _ = sweep

    def faulty(folder, plan, options, watch):
        raise RuntimeError("CUDA error")

    monkeypatch.setattr(transfer_sweep, "load_engine", lambda name: faulty)
    with pytest.raises(RuntimeError, match="CUDA error"):
        transfer_sweep.main(["sweep=embedded_smoke", f"out={out}"])


def test_another_folder_s_files_are_left_alone(sweep):
    out, _ = sweep
    out.mkdir()
    (out / "thesis.tex").write_text("mine")
    with pytest.raises(FileExistsError, match="no sweep"):
        transfer_sweep.main(["sweep=embedded_smoke", f"out={out}"])


def test_status_without_a_sweep_is_a_message(tmp_path):
    with pytest.raises(FileNotFoundError, match="No sweep in"):
        transfer_sweep.main(["status", f"out={tmp_path}"])


@pytest.mark.slow
def test_plan_counts_cells_time_and_memory_and_executes_nothing(tmp_path, capsys, monkeypatch):
    from experiments.sweep import plan as planning

    monkeypatch.setattr(planning, "identified", lambda cells: ([c._replace(id=c.label) for c in cells], []))
    out = tmp_path / "out"
    assert transfer_sweep.main(["plan", "sweep=embedded_smoke", f"out={out}", "jobs=2"]) == 0
    said = capsys.readouterr().out
    assert said.count("2 waiting") == 4 and said.count("1 waiting") == 1, "none is one cell"
    assert "9 cells to do" in said and "on 2 (updates and rows counted" in said
    assert "GiB" in said and not out.exists()


def test_plan_of_what_is_not_here_says_what_is_missing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["plan", "sweep=paper", "sources=blip2,minigpt4", "data=cifar10", "seeds=0", "methods=evp"]
    assert transfer_sweep.main([*words, f"out={tmp_path / 'out'}"]) == 0
    said = capsys.readouterr().out
    assert "1 missing" in said and "ASSUMED 50 TFLOP/s" in said and "No blip2 weights" in said
    parts = dict(re.findall(r"^once +[\d.]+ [MG]iB (.+): (.+)$", said, flags=re.MULTILINE))  # each on one line
    assert parts["tower EVA ViT-g"] == "blip2, minigpt4"
    assert (parts["LLM flan-t5-xl"], parts["LLM vicuna-7b-v0"]) == ("blip2", "minigpt4")
    assert "weights  20.1 GiB of all models with shared parts once, 21.9 GiB apart, as bfloat16" in said


def test_a_study_of_prompts_that_are_not_there_yet_is_planned_and_says_so(tmp_path, capsys, monkeypatch):
    from experiments.sweep import plan as planning

    monkeypatch.setattr(planning, "identified", lambda cells: (cells, []))
    monkeypatch.chdir(tmp_path)
    words = ["plan", "sweep=modern_off_task", "sources=smolvlm2_2_2b", "data=svhn", "seeds=0"]
    assert transfer_sweep.main([*words, f"out={tmp_path / 'out'}"]) == 0
    said = capsys.readouterr().out
    assert "2 cells to do" in said and "no sweep in 'modern' or 'runs/sweeps/modern'. Run it first" in said
    rows = re.findall(r"│ smolvlm2_2_2b │ svhn │ (\w+) +│ 1 missing │ +[\d.]+ \w+ │ +([\d.]+) GiB │", said)
    assert [method for method, _ in rows] == ["evp", "tvp"] and all(0 < float(peak) < 76 for _, peak in rows)


def test_a_recipe_like_another_says_what_differs_and_nothing_else(tmp_path, monkeypatch):
    from experiments.sweep import recipe

    one, other = (recipe.load_sweep(name) for name in ("paper_texts", "modern_texts"))
    differing = {key for key in one if one[key] != other[key]}
    assert differing == {"sweep", "sources", "targets", "like"}
    monkeypatch.setattr(recipe, "FOLDER", tmp_path)
    (tmp_path / "a.yaml").write_text("# x\nsweep: a\nlike: paper_txts\n")
    with pytest.raises(ValueError, match="Unknown sweep 'paper_txts'"):
        recipe.load_sweep("a")
    (tmp_path / "a.yaml").write_text("# x\nsweep: a\nlike: a\n")
    with pytest.raises(ValueError, match=r"The sweeps a are like each other in a circle"):
        recipe.load_sweep("a")


def test_the_modern_matrix_is_planned_without_weights_and_every_cell_fits_80_gb(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["plan", "sweep=modern", "data=cifar10", "seeds=0", "methods=tvp"]
    assert transfer_sweep.main([*words, f"out={tmp_path / 'out'}"]) == 0
    said = capsys.readouterr().out
    rows = re.findall(r"│ (\w+) +│ cifar10 +│ tvp +│ 1 missing │ +([\d.]+) h │ +([\d.]+) GiB │", said)
    hours = {name: float(taken) for name, taken, _ in rows}
    assert len(hours) == 8 and all(float(peak) < 76 for *_, peak in rows)
    # 1,485 visual tokens and recomputed layers against 64 tokens of an LLM of the same size.
    assert hours["llava_onevision_7b"] > 3 * hours["qwen2_5_vl_7b"]
    assert "8 cells to do" in said and "python -m model_zoo fetch qwen3_5_4b weights=" in said


def test_a_plan_counts_the_tokens_of_the_tiles_and_recomputed_layers():
    from experiments.recipes import load_experiment
    from experiments.sweep.plan import counted, picture_work

    def config(name, *words):
        pairs = [("exp", "cifar10_minigpt4"), ("source.name", name), ("source.weights", "nowhere")]
        return load_experiment([*pairs, *words])

    rows = {"train": 1600, "val": 100, "test": 0}
    tvp, more = (counted(config("internvl3_8b", ("train.checkpointing", word)), rows) for word in ("false", "true"))
    work = picture_work("internvl3_8b", config("internvl3_8b"), learning=True)
    assert more.seconds - tvp.seconds == pytest.approx(2 * 1600 * work / 50e12)
    one, official = (
        picture_work("smolvlm_256m", config("smolvlm_256m", ("source.tiles", tiles))) for tiles in ("one", "official")
    )
    as_target = picture_work("smolvlm_256m", config("internvl3_8b", ("targets.heldout", "[smolvlm_256m]")))
    assert official == as_target > 15 * one


def test_predictions_come_from_finished_cells_of_the_nearest_kind():
    from experiments.sweep.plan import predicted

    cells = [sweep_cell(c, method=m, source=s) for c, m, s in (("a", "tvp", "m"), ("b", "tvp", "t"), ("c", "evp", "t"))]
    rows = {cells[1].id: {"state": "finished", "seconds": 40}, cells[2].id: {"state": "finished", "seconds": 7}}
    states = States(rows)
    assert predicted(cells[0], None, cells, states) == (40, "measured")
    assert predicted(cells[2], None, cells, states) == (7, "measured")


def test_a_png_that_the_source_alone_scores_is_counted_once():
    from experiments.recipes import load_experiment
    from experiments.sweep.plan import ROW, counted, slowness

    words, rows = [("exp", "smoke"), ("data.n_test", "100")], {"train": 64, "val": 24, "test": 512}
    everywhere, alone = (counted(load_experiment([*words, ("targets.png", word)]), rows) for word in ("all", "source"))
    targets = sum(map(slowness, load_experiment(words).targets.names))
    assert everywhere.seconds - alone.seconds == pytest.approx(targets * 100 * ROW) and targets > 2


def test_held_out_models_without_curves_are_counted_on_test_alone():
    from experiments.recipes import load_experiment
    from experiments.sweep.plan import ROW, counted, slowness

    words, rows = [("exp", "smoke"), ("data.n_test", "100")], {"train": 64, "val": 24, "test": 512}
    words += [("targets.select", "[]"), ("train.val_every_steps", "1000000")]
    always, never = (counted(load_experiment([*words, ("targets.curves", word)]), rows) for word in ("true", "false"))
    (held_out,) = load_experiment(words).targets.names
    # It is validated once.
    assert always.seconds - never.seconds == pytest.approx(24 * ROW * slowness(held_out))


@pytest.mark.parametrize(("world", "models", "images", "tests", "measured"), [
    ("web", 8, 800, 0, 8 + 100 * 0.045), ("web", 8, 8, 1000, 8 + 8000 * 0.002), ("fashion", 7, 800, 500, 40),
])  # fmt: skip
def test_cells_of_shipped_worlds_take_what_was_measured_to_one_and_a_half(world, models, images, tests, measured):
    """Seconds of one thread of this project's 2-core machine, 2026-11-30; updates of 8 images."""
    from experiments.recipes import load_experiment
    from experiments.sweep.plan import counted
    from model_zoo.registry import list_mllms

    names = [name for name in list_mllms() if name.startswith({"web": "web", "fashion": "lite"}[world])][:models]
    pairs = [
        ("exp", world),
        ("method", "evp"),
        ("source.name", names[0]),
        ("targets.heldout", f"[{','.join(names[1:])}]"),
    ]
    pairs += [("targets.select", "[]"), ("targets.png", "source"), ("train.batch_size", "8"), ("train.accumulate", "1")]
    pairs += [("train.epochs", "1"), ("method.fca", "0.0")]
    found = counted(load_experiment(pairs), {"train": images, "val": 0, "test": tests}).seconds
    assert measured / 1.5 <= found <= 1.5 * measured


def test_a_finished_folder_is_of_this_format(sweep):
    out, _ = sweep
    transfer_sweep.main(["sweep=embedded_smoke", f"out={out}"])
    assert SweepFolder(out).name == "embedded_smoke"


@pytest.mark.slow
def test_an_unknown_word_ends_in_one_message(tmp_path):
    words = [sys.executable, "-m", "experiments.transfer_sweep", "sweep=embedded_smoke", "train.epoch=1"]
    done = subprocess.run([*words, f"out={tmp_path}/o"], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "Cell embedded_minigpt4-emoji_recognition-none-s0" in done.stderr and "epochs" in done.stderr
