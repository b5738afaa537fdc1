"""The W&B run of a folder: one id over all sessions, steps that increase, nothing private, and it may break."""

from __future__ import annotations

import os
import pty
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.recorded_run import offline, rank_environment, tiny_sweep
from support.wandb_records import history, logged_keys, records

from experiments.tracking.heat_map import colours, heat_maps
from experiments.tracking.logger import WandbRun, closing, last_step, sessions, summary
from experiments.tracking.loggers import build_loggers, shows_samples
from experiments.tracking.session import stable_id, wandb_mode
from experiments.tracking.sweep import log_sweep, numbers, sweep_group, tables

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def wandb_offline(tmp_path):
    with offline(tmp_path / "wandb-home"):
        yield


def session(folder, rows, **given):
    run = WandbRun(folder, mode="offline", project="tvp", **given)
    with closing([run]):
        for step, row in rows:
            run.log_metrics(row, step)
    return run


# ---- one run, many sessions ------------------------------------------------------------------------------------------
def test_a_resumed_folder_continues_its_run_with_steps_that_only_increase(tmp_path):
    session(tmp_path / "run", [(0, {"train/loss": 3.0}), (1, {"train/loss": 2.0}), (2, {"train/loss": 1.0})])
    session(tmp_path / "run", [(1, {"train/loss": 2.0}), (2, {"train/loss": 1.0})])  # the checkpoint was at update 1
    logs = sessions(tmp_path / "run")
    assert len(logs) == 2 and len({summary(log)["run_id"] for log in logs}) == 1
    rows = [row for log in logs for row in history(log)]
    assert [row["trainer/global_step"] for row in rows] == [0, 1, 2, 1, 2]
    steps = [row["_step"] for row in rows]
    assert steps == sorted(set(steps)), "W&B drops a row whose step does not increase"
    assert last_step(tmp_path / "run") == steps[-1]


def test_charts_of_a_run_are_drawn_over_updates(tmp_path):
    session(tmp_path / "run", [(0, {"train/loss": 3.0})])
    metrics = [r["metric"] for r in records(sessions(tmp_path / "run")[0]) if r["type"] == "metric"]
    assert any(m.get("glob_name") == "*" and m["step_metric"] == "trainer/global_step" for m in metrics)


def test_two_runs_of_one_sweep_share_group_and_tags_and_nothing_else(tmp_path):
    """Both open at once: the second must not adopt the first."""
    given = {"group": "night", "tags": ["embedded", "try"]}
    runs = [WandbRun(tmp_path / name, mode="offline", project="tvp", **given) for name in ("a", "b")]
    with closing(runs):
        for value, run in enumerate(runs):
            run.log({"epoch": value})
    found = []
    for name in ("a", "b"):
        (log,) = sessions(tmp_path / name)
        (own,) = [record["run"] for record in records(log) if record["type"] == "run"]
        assert own["run_group"] == "night" and own["tags"] == ["embedded", "try"] and own["project"] == "tvp"
        found.append((own["run_id"], summary(log)["summary"]["epoch"]))
    assert found[0][0] != found[1][0] and [value for _, value in found] == [0, 1]


def test_folders_of_one_name_are_runs_of_their_own_and_ids_are_safe(tmp_path):
    ids = {stable_id(tmp_path / parent / "a run/of: mine?") for parent in ("x", "y")}
    assert len(ids) == 2 and all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", own) for own in ids)
    assert stable_id(tmp_path / "x/a run/of: mine?") in ids


def test_a_failed_block_is_recorded_as_failed(tmp_path):
    run = WandbRun(tmp_path / "run", mode="offline", project="tvp")
    with pytest.raises(ZeroDivisionError), closing([run]):
        run.log({"epoch": 0})
        raise ZeroDivisionError
    assert summary(sessions(tmp_path / "run")[0])["state"] == "failed"
    session(tmp_path / "other", [(0, {"epoch": 0})])
    assert summary(sessions(tmp_path / "other")[0])["state"] == "finished"


def test_nothing_outside_the_run_folder_is_needed_to_upload_it(tmp_path):
    import wandb

    run = WandbRun(tmp_path / "run", mode="offline", project="tvp")
    with closing([run]):
        run.use(lambda own: own.log({"table/targets": wandb.Table(columns=["a"], data=[[1]])}))
    (artifact,) = [r["artifact"] for r in records(sessions(tmp_path / "run")[0]) if r["type"] == "artifact"]
    paths = [entry["local_path"] for entry in artifact["manifest"]["contents"]]
    assert paths and all(Path(path).is_relative_to(tmp_path / "run") for path in paths)
    assert "WANDB_DATA_DIR" not in os.environ


# ---- privacy ---------------------------------------------------------------------------------------------------------
def recorded_bytes(folder):
    files = [path for path in (folder / "wandb").rglob("*") if path.is_file()]
    return b"".join(path.read_bytes() for path in files if "logs" not in path.parts and "debug" not in path.name)


def test_no_host_path_package_or_program_is_recorded_unless_asked_for(tmp_path):
    session(tmp_path / "private", [(0, {"epoch": 0})])
    private = recorded_bytes(tmp_path / "private")
    secrets = [str(ROOT), sys.executable, "requirements.txt", "wandb-metadata.json"]
    hosts = [record["run"]["host"] for log in sessions(tmp_path / "private") for record in records(log)
             if record["type"] == "run"]  # fmt: skip
    assert hosts == ["-"] and [word for word in secrets if word.encode() in private] == []
    for attempt in range(6):  # what is open is recorded beside the run, by a service that a short run may outpace
        folder = tmp_path / f"open{attempt}"
        session(folder, [(0, {"epoch": 0})], system=True)
        opened = recorded_bytes(folder)
        if any(word.encode() in opened for word in secrets):
            break
    else:
        pytest.fail("the test would not notice a leak")
    assert socket.gethostname() in [
        r["run"]["host"] for log in sessions(folder) for r in records(log) if r["type"] == "run"
    ]


def resolved(*words):
    from experiments.cli import parse_words
    from experiments.recipes import load_experiment

    return load_experiment(parse_words(["exp=smoke", *words]).pairs)


@pytest.mark.parametrize(
    ("words", "mode", "shown"),
    [
        (["data.name=emoji_recognition"], "online", True),
        (["data.name=cifar10"], "online", False),
        (["data.name=cifar10"], "offline", True),
        (["data.name=cifar10", "log.samples=true"], "online", True),
        (["data.name=emoji_recognition", "log.samples=false"], "offline", False),
    ],
)
def test_images_of_a_data_set_go_to_a_server_only_when_asked_for(tmp_path, words, mode, shown):
    assert shows_samples(resolved(*words), [WandbRun(tmp_path, mode=mode, project="tvp")]) is shown


# ---- where it writes -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("wanted", "variable", "login", "mode"),
    [
        ("off", "online", True, "off"),
        ("auto", "disabled", True, "off"),
        ("online", "disabled", True, "off"),
        ("auto", None, False, "offline"),
        ("auto", None, True, "online"),
        ("online", None, True, "online"),
        ("online", None, False, "offline"),
        ("offline", None, True, "offline"),
        ("auto", "online", False, "offline"),
        ("online", "offline", True, "offline"),
        ("auto", "dryrun", True, "offline"),
    ],
)
def test_mode_follows_recipe_environment_and_login(monkeypatch, capsys, wanted, variable, login, mode):
    monkeypatch.delenv("WANDB_MODE") if variable is None else monkeypatch.setenv("WANDB_MODE", variable)
    monkeypatch.setattr("experiments.tracking.session.logged_in", lambda: login)
    monkeypatch.setattr("experiments.tracking.session._saved_mode", lambda: "online")
    assert wandb_mode(wanted) == mode
    assert ("not logged in" in capsys.readouterr().out) == (mode == "offline" and "online" in (wanted, variable)
                                                            and not login)  # fmt: skip


def test_wandb_offline_said_once_holds_for_auto(monkeypatch):
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setattr("experiments.tracking.session.logged_in", lambda: True)
    monkeypatch.setattr("experiments.tracking.session._saved_mode", lambda: "disabled")
    assert wandb_mode("auto") == "off" and wandb_mode("online") == "online"


def test_disabled_wandb_is_no_logger_at_all(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    loggers = build_loggers(resolved("log.wandb=online", "log.tensorboard=true"), tmp_path)
    assert [type(logger).__name__ for logger in loggers] == ["CSVLogger", "TensorBoardLogger"]
    assert not (tmp_path / "wandb").exists()


# ---- it may break ----------------------------------------------------------------------------------------------------
def test_wandb_that_cannot_start_is_one_line_and_the_run_goes_on(tmp_path, monkeypatch, capsys):
    import wandb

    def refuse(**_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(wandb, "init", refuse)
    session(tmp_path / "run", [(0, {"epoch": 0}), (1, {"epoch": 0})])
    out = capsys.readouterr().out
    assert out.count("W&B stopped") == 1 and "No space left" in out and str(tmp_path / "run") in out


def test_a_picture_that_finds_no_room_stops_the_logging_only(tmp_path, capsys):
    run = WandbRun(tmp_path / "run", mode="offline", project="tvp")

    def full(own):
        raise OSError(28, "No space left on device")

    with closing([run]):
        run.log({"epoch": 0})
        assert run.use(full) is None
        run.log({"epoch": 1})
    assert run.broken and run.experiment is None and capsys.readouterr().out.count("W&B stopped") == 1
    session(tmp_path / "next", [(0, {"epoch": 7})])
    assert logged_keys(tmp_path / "next") == {"epoch", "trainer/global_step"}


def test_ctrl_c_is_not_taken_for_a_failure_of_wandb(tmp_path):
    run = WandbRun(tmp_path / "run", mode="offline", project="tvp")

    def press(own):
        raise KeyboardInterrupt

    with closing([run]), pytest.raises(KeyboardInterrupt):
        run.use(press)
    assert not run.broken


SERVICE_DIES = """
import os, signal, subprocess, sys
from pathlib import Path
from experiments.tracking.logger import WandbRun, closing
folder = Path(sys.argv[1])
run = WandbRun(folder / "run", mode="offline", project="tvp")
with closing([run]):
    run.log({"epoch": 0}, 0)
    children = [c for task in Path(f"/proc/{os.getpid()}/task").glob("*/children") for c in task.read_text().split()]
    cores = [int(c) for c in children if b"wandb-core" in Path(f"/proc/{c}/cmdline").read_bytes()]
    assert cores, children
    for core in cores:
        os.kill(core, signal.SIGKILL)
        os.waitpid(core, 0)
    for step in range(1, 50):
        run.log({"epoch": step}, step)
    print("trained on, broken:", run.broken)
again = WandbRun(folder / "again", mode="offline", project="tvp")
with closing([again]):
    again.log({"epoch": 0}, 0)
print("another run, broken:", again.broken)
"""


@pytest.mark.slow
def test_a_service_that_dies_in_the_middle_stops_the_logging_not_the_run(tmp_path):
    words = [sys.executable, "-c", SERVICE_DIES, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, cwd=ROOT, env=rank_environment())
    assert done.returncode == 0, done.stderr
    assert "trained on, broken: True" in done.stdout and "another run, broken: False" in done.stdout
    assert done.stdout.count("W&B stopped") == 1
    assert logged_keys(tmp_path / "again") == {"epoch", "trainer/global_step"}


def test_the_service_of_another_process_is_not_joined(monkeypatch):
    from experiments.tracking.session import quiet_wandb

    monkeypatch.setenv("WANDB_SERVICE", f"3-{os.getpid()}-unix-/tmp/own")
    quiet_wandb()
    assert os.environ["WANDB_SERVICE"].endswith("own")
    monkeypatch.setenv("WANDB_SERVICE", f"3-{os.getppid()}-unix-/tmp/parent")
    quiet_wandb()
    assert "WANDB_SERVICE" not in os.environ


# ---- no network, no prompt -------------------------------------------------------------------------------------------
class Proxy:
    """Counts who knocks: wandb's own process is not Python, so only its proxy settings see where it goes."""

    def __enter__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.knocks, self.url = [], f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def _serve(self):
        while True:
            try:
                caller, _ = self.socket.accept()
            except OSError:
                return
            with caller:
                self.knocks.append(caller.recv(200))

    def __exit__(self, *_):
        self.socket.close()


LOG_ONE = """
import sys
from pathlib import Path
from experiments.tracking.loggers import build_loggers
from experiments.tracking.logger import closing
from experiments.recipes import load_experiment
folder = Path(sys.argv[1])
loggers = build_loggers(load_experiment([("exp", "smoke"), ("log.wandb", sys.argv[2]), ("log.csv", "false")]), folder)
with closing(loggers):
    for logger in loggers:
        logger.log_metrics({"epoch": 0}, 0)
print("modes", [logger.mode for logger in loggers])
"""


def log_one(tmp_path, wanted, **variables):
    """Log one row at a terminal (so that a prompt would be shown), a proxy watching; (output, what it saw)."""
    home = {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc"), "WANDB_CONFIG_DIR": str(tmp_path / "config")}
    with Proxy() as proxy:
        proxies = {name: proxy.url for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY")}
        env = rank_environment() | home | proxies
        env.pop("WANDB_MODE", None)
        ours, theirs = pty.openpty()
        words = [sys.executable, "-c", LOG_ONE, str(tmp_path / "run"), wanted]
        process = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT, env=env | variables)
        os.close(theirs)
        output = b""
        try:
            while chunk := os.read(ours, 65536):
                output += chunk
        except OSError:  # the terminal is gone with its last user
            pass
        finally:
            os.close(ours)
        assert process.wait(timeout=60) == 0, output.decode()
        return output.decode(), list(proxy.knocks)


@pytest.mark.parametrize(
    ("wanted", "variables", "modes"),
    [
        ("auto", {}, "['offline']"),
        ("online", {}, "['offline']"),
        ("offline", {"WANDB_API_KEY": "0" * 40}, "['offline']"),
        ("auto", {"WANDB_MODE": "disabled", "WANDB_API_KEY": "0" * 40}, "[]"),
    ],
)
@pytest.mark.slow
def test_without_a_login_or_disabled_nobody_is_asked_and_nobody_is_called(tmp_path, wanted, variables, modes):
    output, knocks = log_one(tmp_path, wanted, **variables)
    assert f"modes {modes}" in output and "Enter your choice" not in output and "API key" not in output
    assert knocks == []


@pytest.mark.slow
def test_a_server_that_does_not_answer_means_offline_after_a_bounded_wait(tmp_path):
    variables = {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1"}
    output, _ = log_one(tmp_path, "auto", **variables)
    assert "W&B cannot be reached" in output and "wandb sync" in output and "modes ['offline']" in output
    assert list((tmp_path / "run/wandb").glob("offline-run-*"))


def test_the_proxy_of_these_tests_would_see_a_call(tmp_path):
    with Proxy() as proxy:
        code = "import urllib.request; urllib.request.urlopen('http://example.invalid/')"
        env = os.environ | {"http_proxy": proxy.url}
        subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, timeout=60)
        assert len(proxy.knocks) == 1


# ---- a whole sweep ---------------------------------------------------------------------------------------------------
def test_a_sweep_is_one_run_in_the_group_of_its_cells_however_often_it_is_logged(tmp_path):
    out = tiny_sweep(tmp_path / "sweep")
    for _ in range(2):
        log_sweep(out, project="tvp", mode="offline")
    runs = [r["run"] for log in sessions(out) for r in records(log) if r["type"] == "run"]
    assert len(runs) == 2 and len({run["run_id"] for run in runs}) == 1
    assert (
        {(run["run_group"], run["job_type"]) for run in runs} == {("night", "sweep")} == {(sweep_group(out), "sweep")}
    )
    values = summary(sessions(out)[-1])["summary"]
    assert (values["sweep/cells"], values["sweep/missing"], values["sweep/alarms"]) == (16, 1, 1)
    bounds = [values[f"sweep/gain{end}/black/evp"] for end in ("_low", "", "_high")]
    assert bounds == pytest.approx([0.10, 0.12, 0.14])
    assert values["pictures/heatmap"]["captions"] == [f"emoji, {name}" for name in ("evp", "none", "tvp", "vp")]


def test_numbers_are_the_averages_over_targets_and_data_sets_only(tmp_path):
    import json

    statistics = json.loads((tiny_sweep(tmp_path / "sweep") / "statistics.json").read_text())
    statistics["methods"].append(statistics["methods"][0] | {"over": "source", "value": 0.9})
    statistics["methods"].append(statistics["methods"][0] | {"data": "emoji", "value": 0.9})
    row = numbers(statistics, [])
    assert row["sweep/gain/full/none"] == 0.0 and 0.9 not in row.values()
    assert row["sweep/difference/tvp-evp"] == 0.03


def test_tables_of_a_sweep_are_rectangular_and_typed(tmp_path):
    import json

    statistics = json.loads((tiny_sweep(tmp_path / "sweep") / "statistics.json").read_text())
    matrix = [{"source": "a", "target": "", "data": "d", "method": "m", "seed": "1", "control": "", "metric": ""}]
    matrix[0] |= {"n": "0", "value": "", "status": "missing"}
    made = tables(statistics, matrix)
    for columns, rows in made.values():
        assert rows and all(len(row) == len(columns) for row in rows)
    columns, (row,) = made["table/matrix"]
    assert dict(zip(columns, row, strict=True)) | {"seed": 1, "n": 0, "value": None, "target": None} == dict(
        zip(columns, row, strict=True)
    )


def test_a_sweep_without_statistics_or_with_wandb_off_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "sweep").mkdir()
    log_sweep(tmp_path / "sweep", project="tvp", mode="off")
    assert list((tmp_path / "sweep").iterdir()) == []
    log_sweep(tmp_path / "sweep", project="tvp", mode="offline")
    assert summary(sessions(tmp_path / "sweep")[0])["summary"]["sweep/cells"] == 0


def test_a_heat_map_is_blue_for_gains_orange_for_losses_and_all_of_one_size():
    def pair(source, target, value, method="tvp"):
        gains = {"black": {"value": value}}
        return {"source": source, "target": target, "data": "emoji", "method": method, "gains": gains}

    maps = heat_maps([pair("a", "a", 0.2), pair("a", "b", -0.3), pair("a", "a_very_long_name_of_a_model", 0.1, "vp")])
    assert set(maps) == {"emoji, tvp", "emoji, vp"} and len({picture.size for picture in maps.values()}) == 1
    shown = {colour for _, colour in maps["emoji, tvp"].getcolors(100_000)}
    scale = {points: tuple(colours()((points + 30) / 60, bytes=True)[:3]) for points in (-30, 0, 20)}  # -30 is the end
    assert {scale[-30], scale[20]} <= shown and scale[0] == (255, 255, 255)
    assert scale[-30][0] > scale[-30][2] and scale[20][2] > scale[20][0]
