"""Every key a dashboard names occurs in a record; `show` needs no login, `push` says what is missing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.recorded_run import offline, rank_environment, record_run, tiny_sweep
from support.wandb_records import logged_keys, matching_key

from experiments.dashboards import as_json, main
from experiments.tracking.keys import KEYS
from experiments.tracking.sweep import log_sweep

ROOT = Path(__file__).parent.parent
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:.*ModelCheckpoint with manual optimization"),
    # wandb-workspaces 0.4 with pydantic 2: its own validators.
    pytest.mark.filterwarnings("ignore:Pydantic V1 style:DeprecationWarning"),
]


def panels(workspace):
    sections = workspace["spec"]["section"]["panelBankConfig"]["sections"]
    return [(section["name"], panel) for section in sections for panel in section["panels"]]


def named_keys(workspace):
    """(keys, regular expressions) any panel of a serialised workspace names, as the server would read them."""
    keys, patterns = set(), set()
    for _, panel in panels(workspace):
        config = panel["config"]
        keys |= {config["xAxis"]} if "xAxis" in config else set()
        keys |= set(config.get("metrics", [])) | set(config.get("mediaKeys", []))
        keys |= set(re.findall(r'"type": "string", "val": "(\w+/[\w/]+)"', json.dumps(config.get("panel2Config", ""))))
        patterns |= {config["metricRegex"]} if config.get("useMetricRegex") else set()
    return keys, patterns


@pytest.fixture(scope="module")
def shown():
    return as_json("someone", "tvp", "night")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Keys of a real run and of a whole sweep, both recorded offline and read back by wandb's own reader."""
    folder = tmp_path_factory.mktemp("recorded")
    with offline(folder):
        run = record_run(folder / "run", "train.epochs=1")
        log_sweep(tiny_sweep(folder / "sweep"), project="tvp", mode="offline")
    return {"run": logged_keys(run), "sweep": logged_keys(folder / "sweep")}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["run", "sweep"])
def test_every_key_a_panel_names_occurs_in_a_recorded_run(shown, recorded, kind):
    keys, patterns = named_keys(shown[kind])
    logged = recorded["run"] | (recorded["sweep"] if kind == "sweep" else set())
    assert keys and patterns
    assert keys <= logged, f"a panel names {sorted(keys - logged)}, which nothing logs"
    for pattern in patterns:
        assert any(re.search(pattern, key) for key in logged), f"no logged key matches {pattern}"


@pytest.mark.slow
def test_every_key_a_sweep_logs_is_documented_and_every_documented_key_is_logged(recorded):
    found = {key: matching_key(key, "sweep") for key in recorded["sweep"]}
    assert [key for key, documented in found.items() if documented is None] == []
    assert {key.pattern for key in KEYS if key.of == "sweep"} == {key.pattern for key in found.values()}


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("run", ("Gain over controls", "Losses", "Feature drift", "Prompt and samples", "Targets")),
        ("sweep", ("Heat maps", "Average gain over targets", "Methods against each other", "Negative transfer")),
    ],
)
def test_each_workspace_has_its_sections_and_no_empty_one(shown, kind, words):
    sections = [name for name, _ in panels(shown[kind])]
    assert set(words) <= set(sections)
    empty = [s for s in shown[kind]["spec"]["section"]["panelBankConfig"]["sections"] if not s["panels"]]
    assert all(section["name"] == "Hidden Panels" for section in empty)


def test_panels_of_tables_pictures_and_charts_all_name_something(shown):
    for workspace in shown.values():
        kinds = {panel["viewType"] for _, panel in panels(workspace)}
        assert {"Run History Line Plot", "Media Browser", "Weave"} <= kinds
        for _, panel in panels(workspace):
            alone = {"spec": {"section": {"panelBankConfig": {"sections": [{"name": "", "panels": [panel]}]}}}}
            assert set.union(*named_keys(alone)) - {"trainer/global_step"}, panel


def test_a_sweep_workspace_shows_only_its_group_and_compares_methods(shown):
    filters = shown["sweep"]["spec"]["section"]["runSets"][0]["filters"]
    assert '"night"' in json.dumps(filters) and '"night"' not in json.dumps(shown["run"])
    grouped = [p for _, p in panels(shown["sweep"]) if "method" in p["config"].get("groupBy", "")]
    assert len(grouped) >= 4


def test_show_prints_both_workspaces_without_login(capsys, monkeypatch):
    monkeypatch.setenv("NETRC", "/nonexistent")
    assert main(["show", "entity=me", "project=mine"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert set(printed) == {"run", "sweep"} and printed["run"]["entity"] == "me" and printed["run"]["project"] == "mine"


def test_push_without_a_login_is_one_message_with_what_to_do(monkeypatch):
    monkeypatch.setattr("experiments.dashboards.logged_in", lambda: False)
    with pytest.raises(ValueError, match=r"Not logged in to W&B, so nothing was pushed.*wandb login"):
        main(["push"])


def test_push_that_the_server_refuses_is_one_message(monkeypatch):
    monkeypatch.setattr("experiments.dashboards.logged_in", lambda: True)

    def refuse(self):
        raise RuntimeError("permission denied")

    monkeypatch.setattr("wandb_workspaces.workspaces.Workspace.save", refuse)
    with pytest.raises(ConnectionError, match=r"did not take the workspaces of 'me/tvp' .*permission denied.*entity="):
        main(["push", "entity=me"])


def test_push_saves_both_workspaces_and_prints_where(monkeypatch, capsys):
    saved = []

    def save(self):
        saved.append(self)
        self._internal_name = f"view{len(saved)}"
        return self

    monkeypatch.setattr("experiments.dashboards.logged_in", lambda: True)
    monkeypatch.setattr("wandb_workspaces.workspaces.Workspace.save", save)
    monkeypatch.setattr("wandb_workspaces.workspaces.Workspace.url", property(lambda self: self._internal_name))
    assert main(["push", "entity=me", "sweep=night"]) == 0
    assert [w.entity for w in saved] == ["me", "me"] and "Sweep night" in saved[1].name
    assert "view1" in capsys.readouterr().out


def test_without_the_extra_the_command_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"wandb-workspaces is not installed.*\[dashboards\]"):
        main(["show"])


def test_wrong_words_are_answered_with_the_right_ones():
    with pytest.raises(ValueError, match=r"Did you mean 'push'"):
        main(["pusj"])
    with pytest.raises(ValueError, match=r"Unknown key 'sweeps'.*Did you mean 'sweep'"):
        main(["show", "sweeps=x"])


def test_help_needs_no_wandb():
    code = "import sys; from experiments.dashboards import main; main(['--help']); print(set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=rank_environment()
    )
    assert done.returncode == 0 and "push" in done.stdout and "'wandb'" not in done.stdout, done.stderr
