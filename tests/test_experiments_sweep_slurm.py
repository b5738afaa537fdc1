"""The SLURM engine: parameters, an array that is really submitted, jobs that are cut short, and the local bytes."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from support.sweep_engines import results, tiny_sweep
from support.sweep_runs import sweep_cell

from experiments.sweep import engines
from experiments.sweep.engines import slurm, slurm_options
from experiments.sweep.engines.local import run_local
from experiments.sweep.engines.slurm_options import gpu_parameters, read_options
from experiments.sweep.folder import SweepFolder
from experiments.sweep.leases import process_mark, read_leases

OPTIONS = {"jobs": "1", "gpus": 1, "address": "", "slurm": "cluster=local,timeout_min=60"}


# ---- parameters ------------------------------------------------------------------------------------------------------
def test_parameters_are_typed_prefixed_and_may_contain_commas():
    cluster, found = read_options("partition=gpu,timeout_min=600,nodelist=n[1,2],setup=module load a;b,exclusive=true")
    assert cluster == "slurm" and found["timeout_min"] == 600 and found["slurm_partition"] == "gpu"
    assert found["slurm_nodelist"] == "n[1,2]" and found["slurm_setup"] == ["module load a", "b"]
    assert found["slurm_exclusive"] is True and found["cpus_per_task"] == 1
    assert read_options("") == ("slurm", slurm_options.DEFAULTS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("partitoin=gpu", r"Unknown SLURM parameter 'partitoin'. Did you mean 'partition'\? Available: cluster, .*qos"),
        ("nodes=2", "Unknown SLURM parameter 'nodes'"),
        ("gpu", "Expected slurm=key=value,key=value, got 'gpu'"),
        ("cluster=slrm", "Expected cluster=slurm, or cluster=local .* got cluster=slrm"),
    ],
)
def test_unknown_parameters_give_one_clear_message(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_options(text)
    assert "\n" not in str(caught.value)


def test_two_half_gpus_are_one_job_and_nothing_is_asked_of_a_cluster_without(monkeypatch):
    monkeypatch.setattr(slurm_options, "_has_gpus", lambda partition: partition != "cpu")
    assert gpu_parameters(1, "slurm", {}) == {"gpus_per_node": 1, "tasks_per_node": 1}
    assert gpu_parameters(0.5, "slurm", {}) == {"gpus_per_node": 1, "tasks_per_node": 2}
    assert gpu_parameters(2, "slurm", {}) == {"gpus_per_node": 2, "tasks_per_node": 1}
    for cluster, asked in [("slurm", {"slurm_partition": "cpu"}), ("slurm", {"slurm_gres": "gpu:a"}), ("local", {})]:
        assert gpu_parameters(1, cluster, asked) == {}


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ValueError, match=r"engine=slurm needs the package submitit. .*pip install -e '.\[slurm\]'"):
        engines.load_engine("slurm")


def test_without_slurm_the_message_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    folder, plan = one_cell(tmp_path)
    with pytest.raises(ValueError, match=r"No SLURM here .*slurm=cluster=local"):
        slurm.run_slurm(folder, plan, OPTIONS | {"slurm": ""}, lambda: None)


def one_cell(tmp_path):
    folder = SweepFolder(tmp_path / "out", create="s")
    return folder, folder.write_plan([sweep_cell("a"), sweep_cell("b", seed=1)], {"sweep": "s", "label": ""})


# ---- a SLURM of shell scripts ----------------------------------------------------------------------------------------
@pytest.fixture
def commands(tmp_path, monkeypatch):
    """sbatch that keeps the script it is given, scancel that keeps its arguments, sacct that knows no job."""
    folder = tmp_path / "bin"
    folder.mkdir()
    scripts = {
        "srun": "exit 0",
        "sacct": "echo 'JobID|State|NodeList'",
        "sinfo": "echo gpu:4",
        "sbatch": f"cp $1 {tmp_path}/script; echo Submitted batch job 77",
        "scancel": f"echo $* >> {tmp_path}/cancelled",
    }
    for name, text in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return tmp_path


def test_workers_are_one_array_and_ctrl_c_cancels_it(commands):
    folder, plan = one_cell(commands)

    def interrupt():
        raise KeyboardInterrupt

    options = {"jobs": "2", "gpus": 1, "slurm": "partition=fast,timeout_min=90"}
    with pytest.raises(KeyboardInterrupt):
        slurm.run_slurm(folder, plan, options, interrupt)
    script = (commands / "script").read_text()
    for line in ("--array=0-1%2", "--partition=fast", "--time=90", "--gpus-per-node=1", "--signal=USR2@90"):
        assert f"#SBATCH {line}\n" in script, line
    assert str(folder.path / "slurm") in script
    assert (commands / "cancelled").read_text().split() == ["77_0", "77_1"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_refused_submission_says_why(commands):
    (commands / "bin" / "sbatch").write_text("#!/bin/sh\necho invalid partition specified >&2; exit 1\n")
    folder, plan = one_cell(commands)
    with pytest.raises(ValueError, match=r"SLURM refused the jobs: .*invalid partition specified"):
        slurm.run_slurm(folder, plan, OPTIONS | {"slurm": "partition=x"}, lambda: None)


# ---- submitit's local executor ---------------------------------------------------------------------------------------
def test_jobs_that_end_without_progress_are_not_submitted_for_ever(tmp_path, monkeypatch):
    folder, plan = one_cell(tmp_path)
    monkeypatch.setattr(slurm, "slurm_worker", stopped_at_once)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    with pytest.raises(engines.SweepStopped, match=r"nothing was done between.*slurm=timeout_min=N"):
        slurm.run_slurm(folder, plan, OPTIONS, lambda: None)


def stopped_at_once(*_):
    return 130


@pytest.mark.slow
def test_a_preempted_job_is_replaced_and_the_matrix_is_the_local_engines(tmp_path, monkeypatch):
    monkeypatch.setenv("TVP_CACHE", str(tmp_path / "cache"))
    folder, cells, plan = tiny_sweep(tmp_path / "slurm", "evp")
    warned = []

    def preempt():
        """SIGUSR2, as SLURM sends it before the time limit, when the trained cell has a checkpoint."""
        for key, lease in read_leases(folder.leases).items():
            cell = next(cell for cell in cells if cell.id == key)
            if not warned and (folder.cells / cell.folder / "checkpoints" / "last.ckpt").exists():
                os.kill(lease["pid"], signal.SIGUSR2)
                warned.append((lease["pid"], lease["worker"]))

    slurm.run_slurm(folder, plan, OPTIONS, preempt)
    assert warned and {row["worker"] for row in folder.states().values()} != {warned[0][1]}
    assert "Interrupted" in "".join(p.read_text() for p in folder.logs.glob("*.log"))
    assert len(list((folder.path / "slurm").glob("*_0_log.out"))) == 2  # the first job, and the one that replaced it
    until = time.time() + 10
    while process_mark(warned[0][0]) is not None:
        assert time.time() < until
    local, cells, plan = tiny_sweep(tmp_path / "local", "evp")
    run_local(local, plan, {"jobs": "1"}, lambda: None)
    assert results(folder, cells) == results(local, cells)
