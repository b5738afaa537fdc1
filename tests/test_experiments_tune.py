"""Tuning: what is trained and judged, the command, and the words a sweep takes over."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import get_args, get_type_hints

import pytest
from support.known_surface import EVP, PLAIN, ROWS, bump, searched, surface

from experiments import tune
from experiments.cli import alternatives
from experiments.recipes import load_experiment
from experiments.run import ensure as many
from experiments.run.ensure import NamedRun
from experiments.schema import Prompt
from experiments.sweep.cells import build_cells, resolved
from experiments.sweep.recipe import load_sweep
from experiments.sweep.tuned import read_tuned
from experiments.tuning import trials as module
from experiments.tuning.arms import rows_of_sweep
from experiments.tuning.space import METHODS, words_of
from experiments.tuning.tell import estimate
from experiments.tuning.trials import best_validation, build_study, trial_runs, trial_words
from lightning_modules.records import FIELDS, ResultLog


# ---- what is searched and run ----------------------------------------------------------------------------------------
def test_trials_load_no_target_read_no_test_row_and_follow_the_source():
    base = trial_words("embedded", "emoji_counting")
    for method, arm in METHODS.items():
        study = build_study(base, "embedded_llava", arm, 0, ROWS)
        given = {"lr": 2.0, "steps": 100, "init": "zero", "fca": 0.1, "tse": 0.2, "fca_relative": False}
        words = words_of(arm, {name: given[name] for name in study.space if name in given}, 64)
        for run in trial_runs(trial(study, words), arm, base, (0, 1)):
            config = load_experiment(run.words)
            assert list(config.targets.names) == [] and config.monitor == "source" and config.data.n_test == 0
            assert (config.source.name, config.data.name, config.train.max_steps) == (
                "embedded_llava", "emoji_counting", 100,
            )  # fmt: skip
            on = {"vp": (0, 0), "evp": (0, 0), "fca": (0.1, 0), "tse": (0, 0.2), "tvp": (0.1, 0.2)}[method]
            assert (config.method.fca, config.method.tse) == on and config.method.lr == 2.0
            assert config.train.val_every_steps == 50 and config.train.epochs == 2


def trial(study, words):
    from experiments.tuning.search import Trial

    return Trial(study.source, study.method, 3, 0, {}, words)


def test_every_start_of_the_schema_and_the_optimizer_s_own_rates_are_searched():
    base = trial_words("embedded", "emoji_recognition")
    study = build_study(base, "embedded_minigpt4", EVP, 0, ROWS)
    assert study.space["init"].values == get_args(alternatives(get_type_hints(Prompt)["init"])[0])
    assert (study.space["steps"].values.high, study.steps_per_epoch) == (384, 64)
    adam = build_study([*base, ("method.optimizer", "adam")], "embedded_minigpt4", EVP, 500, ROWS).space
    assert adam["lr"].values.high < study.space["lr"].values.low and adam["steps"].values.high == 500
    fixed = build_study(
        [*base, ("method.lr", "3"), ("train.epochs", "1")], "embedded_minigpt4", METHODS["tvp"], 0, ROWS
    ).space
    assert set(fixed) == {"init", "fca_relative", "fca", "fca_scale_free", "tse"}


@pytest.mark.parametrize(
    ("words", "inits"),
    [
        (["prompt.kind=full"], ("zero", "normal")),
        (["prompt.kind=lowrank", "prompt.rank=2"], ("zero", "normal")),
        (["prompt.kind=scaled"], ("zero", "grey", "replicate", "normal")),  # the recipe says bounds=image
        (["prompt.kind=scaled", "prompt.bounds=null"], ("grey", "replicate", "normal")),
        (["prompt.kind=pad", "prompt.bounds=sigmoid"], ("grey", "replicate", "normal")),
    ],
)
def test_a_kind_of_prompt_given_as_a_word_is_tuned_over_the_starts_it_can_have(words, inits):
    given = [tuple(word.split("=", 1)) for word in words]
    base = trial_words("embedded", "emoji_recognition", given)
    for arm in METHODS.values():
        study = build_study(base, "embedded_minigpt4", arm, 0, ROWS)
        assert set(study.space["init"].values) == set(inits)
        runs = trial_runs(trial(study, {"method.lr": 0.1, "prompt.init": inits[0]}), arm, base, (0,))
        config = load_experiment(runs[0].words)
        assert all(str(config.prompt[key.removeprefix("prompt.")]) == word for key, word in given if word != "null")


def test_a_sweep_s_rows_are_tuned_with_their_own_words_and_what_those_fix_is_not_searched(tmp_path, monkeypatch):
    compared = rows_of_sweep("web_frames", "", ["web_llava"], [])
    arms = {arm.name: arm for arm in compared.arms}
    design = {arm.name for arm in rows_of_sweep("web_anchors_design", "", [], []).arms}
    assert "evp" in design and "short evp" not in design  # tuned: '' in the recipe
    assert (compared.exp, compared.data, compared.sources) == ("web", "web_recognition", ("web_llava",))
    assert compared.words == {"web_llava": (("train.batch_size", "8"),)}  # nothing of targets, test rows or the log
    base = trial_words(compared.exp, compared.data, compared.words["web_llava"])
    wide = build_study(base, "web_llava", arms["border 12"], 200, ROWS)
    assert set(wide.space) == {"lr", "steps", "init"}
    both = arms["fca 1"]
    assert not both.tse and set(build_study(base, "web_llava", both, 200, ROWS).space) == set(wide.space)
    half = both._replace(tse=True, words={"method.fca": 1, "method.fca_relative": True})  # leaves the other weight open
    assert set(build_study(base, "web_llava", half, 200, ROWS).space) == {*wide.space, "tse"}
    words = words_of(arms["border 12"], {"lr": 2.0, "steps": 100, "init": "grey"}, 64)
    (run,) = trial_runs(trial(wide, words), arms["border 12"], base, (0,))
    config = load_experiment(run.words)
    assert (config.prompt.pad, config.prompt.init, config.method.fca, config.data.n_test) == (12, "grey", 0.0, 0)
    # lists too: they go to the record
    lists = {arm.name: arm.words for arm in rows_of_sweep("web_families", "", [], []).arms}
    assert json.loads(json.dumps(lists))["codecs"]["method.through"] == [
        "resize",
        "jpeg",
        "8bit",
    ]
    (rate,) = rows_of_sweep("paper_families", "", [], ["rim added"]).arms  # its rate is for a run that is not tuned
    assert rate.words == {"prompt.kind": "overlay", "method.optimizer": "adam", "method.schedule": "cosine_step"}
    fixed = words_of(half, {"lr": 2.0, "tse": 0.1}, 64)
    assert "method.fca" not in fixed and "method.fca_relative" not in fixed and fixed["method.tse"] == 0.1


def test_the_rows_of_the_paper_s_sweep_are_the_five_methods():
    rows = {arm.name: arm._replace(words={}) for arm in rows_of_sweep("web", "", [], []).arms}
    assert rows == METHODS


def test_a_tuning_of_a_sweep_is_taken_over_by_its_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(tune, "made_with", dict)

    def all_alike(runs, out, *, jobs, failures):
        assert all(dict(run.words)["prompt.pad"] in ("2", "12") for run in runs)
        for run in runs:
            (out / run.name).mkdir()
            ResultLog(out / run.name / "results.jsonl").append([rows_of(0.5, epoch=1, step=7)])
        return {run.name: out / run.name for run in runs}

    monkeypatch.setattr(module, "ensure_all", all_alike)
    monkeypatch.setattr(module, "read_status", lambda folder: {})
    words = ["sweep=web_frames", "methods=border 2,border 12", f"out={tmp_path}"]
    tune.main([*words, "trials=2", "rounds=0", "max_steps=200"])
    found = read_tuned(tmp_path / "tuning.json")
    assert set(found.words["web_vpgtrans"]) == {"border 2", "border 12"}
    assert json.loads((tmp_path / "tuning.json").read_text())["asked"]["words_of"]["border 12"]["prompt.pad"] == 12


def test_words_that_a_sweep_gives_one_source_reach_its_trials_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tune, "made_with", dict)
    wants = ["sweep=modern", "data=cifar10", "sources=qwen3_vl_2b,llava_onevision_7b", "methods=evp", "max_steps=20"]
    assert tune.main([*wants, f"out={tmp_path / 'plan'}", "plan=true"]) == 0
    assert "2 searches" in capsys.readouterr().out

    def nothing_fetched(studies, base):
        assert {study.source for study in studies} == set(base)

    def noted(runs, out, *, jobs, failures):
        for run in runs:
            deep = load_experiment(run.words)
            assert deep.train.checkpointing == (deep.source.name == "llava_onevision_7b")
            failures[run.name] = "not run"
        return {}

    monkeypatch.setattr("experiments.tuning.trials.require_studies", nothing_fetched)
    monkeypatch.setattr(module, "ensure_all", noted)
    with pytest.raises(ValueError, match="not run"):
        tune.main([*wants, f"out={tmp_path}", "trials=2", "rounds=0"])
    asked = json.loads((tmp_path / "tuning.json").read_text())["asked"]
    assert asked["words"] == {} and asked["source_words"]["llava_onevision_7b"]["train.checkpointing"] == "true"
    assert "train.checkpointing" not in asked["source_words"]["qwen3_vl_2b"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sweep=web_frames", "exp=web"], "names its recipe itself"),
        (["sweep=web_frames", "methods=border 3"], "The sweep has no methods 'border 3'"),
        (["sweep=web_texts"], "data sets; settings are tuned on one at a time"),
        (["sweep=web_anchors_design", "methods=short evp"], "no method whose settings could be tuned"),
    ],
)
def test_a_sweep_that_cannot_be_tuned_says_why(words, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        tune.main([*words, f"out={tmp_path}"])


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("targets.heldout=[embedded_llava]", "reads the source's validation data and nothing else"),
        ("data.n_test=5", "reads the source's validation data and nothing else"),
        ("method.fca=1", "is searched for"),
        ("methods=evp,tpv", "Did you mean 'tvp'"),
        ("seeds=0,0", "each once"),
        ("trials=1", "Expected trials >= 2"),
        ("data.val=official", "takes validation rows from test"),
    ],
)
def test_words_that_would_look_elsewhere_or_mean_nothing_are_refused(word, said, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ensure_all", lambda *args, **kwargs: pytest.fail("a run was started"))
    with pytest.raises(ValueError, match=said):
        tune.main([word, f"out={tmp_path}"])


def rows_of(value, **entries):
    full = dict.fromkeys(field for field in FIELDS if field not in ("schema", "time"))
    return full | {"split": "val", "input": "prompt", "group": "", "metric": "top1", "value": value} | entries


def test_trials_are_judged_by_the_primary_metric_of_their_task(tmp_path):
    values = (("accuracy", 0.25), ("mae", 3.0), ("drift", 9.0))
    ResultLog(tmp_path / "results.jsonl").append([rows_of(v, metric=m, epoch=1, step=7) for m, v in values])
    assert best_validation(tmp_path) == (0.25, 7)


def test_a_trial_is_judged_by_the_last_row_of_each_epoch(tmp_path):
    """The first attempt's checkpoint was lost: its prompt of epoch 1 is not the one that is kept."""
    values = [(0, 4, 0.3, "a"), (1, 8, 0.9, "b"), (0, 4, 0.3, "a"), (1, 8, 0.5, "c")]
    rows = [rows_of(v, kind="val", epoch=e, step=s, prompt=p) for e, s, v, p in values]
    ResultLog(tmp_path / "results.jsonl").append(rows)
    assert best_validation(tmp_path) == (0.5, 8)


# ---- the command -----------------------------------------------------------------------------------------------------
def train_by_threads(score, order, broken=""):
    """In the place of ensure_all: as many threads as jobs, each run's row from a known surface and its seed."""

    def ensure(cells, out, *, jobs, failures):
        def one(cell):
            order.append(cell.name)
            config = load_experiment(cell.words)
            if broken and broken in cell.name:
                failures[cell.name] = "ValueError: the loss is nan"
                return
            value = score(config) + 0.01 * config.seed
            (out / cell.name).mkdir(parents=True, exist_ok=True)
            log = ResultLog(out / cell.name / "results.jsonl")
            log.append([rows_of(value, kind="val", epoch=0, step=config.train.max_steps, prompt="p")])

        cells = list(cells)
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(one, cells if jobs == 1 else cells[::-1]))
        return {cell.name: out / cell.name for cell in cells}

    return ensure


def tuned_by(tmp_path, name, jobs, monkeypatch, *words, broken=""):
    order = []
    monkeypatch.setattr(
        module, "ensure_all", train_by_threads(lambda config: 0.5 * bump(config.method.lr, 10), order, broken)
    )
    out = tmp_path / name
    given = ["exp=smoke", "trials=4", "rounds=1", f"jobs={jobs}", "max_steps=8", f"out={out}", *words]
    assert tune.main(given) == 0
    return json.loads((out / "tuning.json").read_text()), order


def test_one_and_two_jobs_make_the_same_record_and_the_same_command_again_does_nothing(tmp_path, monkeypatch, capsys):
    words = ("methods=evp,tvp", "seeds=0,2", "trials=3")
    one, order = tuned_by(tmp_path, "one", 1, monkeypatch, *words)
    two, other = tuned_by(tmp_path, "two", 2, monkeypatch, *words)
    assert one == two and order != other and sorted(order) == sorted(other)
    assert all(t["val"] - t["by_seed"]["0"] == pytest.approx(0.01, abs=1e-5) for t in one["trials"])
    again, order = tuned_by(tmp_path, "one", 1, monkeypatch, *words)
    assert again == one and order == []
    said = capsys.readouterr().out
    assert "2 searches (source x method), 3 trials each, up to 5 if ranges grow; 2 runs a trial: 12 to 20 runs" in said
    assert "| embedded_minigpt4 | tvp |" in said and "method.fca_relative=" in said


def test_a_failed_run_is_a_recorded_trial_and_no_chosen_one(tmp_path, monkeypatch, capsys):
    found, _ = tuned_by(tmp_path, "out", 1, monkeypatch, "methods=evp", "rounds=0", broken="-001-s1")
    (failed,) = [t for t in found["trials"] if t["state"] == "failed"]
    assert failed["number"] == 1 and failed["error"] == "ValueError: the loss is nan" and failed["val"] is None
    assert len(found["trials"]) == 4 and found["chosen"]["embedded_minigpt4"]["evp"]["number"] != 1
    assert "| 4 (1 failed) |" in capsys.readouterr().out


def test_what_trials_lack_is_said_before_the_first_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ensure_all", lambda *args, **kwargs: pytest.fail("a run was started"))
    words = ["exp=smoke", f"out={tmp_path / 'x'}", f"source.weights={tmp_path}", "method.clip=ViT-B-32"]
    with pytest.raises(FileNotFoundError, match=r"No CLIP weights for the TSE loss(.|\n)*No trial was made"):
        tune.main([*words, "methods=evp,tse"])
    assert not (tmp_path / "x").exists() or not any((tmp_path / "x").rglob("*.json"))
    monkeypatch.setattr(module, "ensure_all", train_by_threads(lambda config: 0.5, []))
    assert tune.main([*words, "methods=evp", "trials=2", "rounds=0", "max_steps=4"]) == 0


def test_a_plan_says_runs_and_time_and_starts_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "ensure_all", lambda *args, **kwargs: pytest.fail("a run was started"))
    assert tune.main(["exp=smoke", "plan=true", f"out={tmp_path / 'x'}"]) == 0
    said = capsys.readouterr().out
    assert "5 searches" in said and "160 to 400 runs" in said and " min" in said and not (tmp_path / "x").exists()


def test_what_trials_took_replaces_what_was_counted(tmp_path):
    record, _ = searched(tmp_path, [PLAIN], surface, trials=2, rounds=0)
    for done in record.trials:
        done.seconds = 40.0
    told = estimate([PLAIN], record, {PLAIN.source: []}, {}, trials=4, rounds=2, seeds=2, jobs=1)
    assert "8 to 16 runs, 160 s to 5 min" in told.replace("3 min to 5 min", "160 s to 5 min") and "finished" in told


def test_one_failed_run_does_not_stop_the_others_where_failures_are_collected(tmp_path, monkeypatch):
    class Now:
        """A pool of no process."""

        def __init__(self, *args, **kwargs):
            self.pool = ThreadPoolExecutor(1)

        def submit(self, *args):
            return self.pool.submit(*args)

        def __enter__(self):
            return self

        def __exit__(self, *args):
            self.pool.shutdown()

        def shutdown(self, **kwargs):
            self.pool.shutdown(**kwargs)

    def run(cell, out):
        if cell.name == "bad":
            raise ValueError("nan")
        if cell.name == "full":
            raise OSError("the disk is full")

    monkeypatch.setattr(many, "ProcessPoolExecutor", Now)
    monkeypatch.setattr(many, "_ensure_logged", run)
    cells, failures = [NamedRun(name, [("exp", "smoke")]) for name in ("bad", "good")], {}
    assert set(many.ensure_all(cells, tmp_path, failures=failures)) == {"bad", "good"}
    assert failures == {"bad": "ValueError: nan"}
    with pytest.raises(ValueError, match="nan"):
        many.ensure_all(cells, tmp_path)
    with pytest.raises(OSError, match="the disk is full"):
        many.ensure_all([NamedRun("full", [("exp", "smoke")])], tmp_path, failures=failures)


def test_what_a_tuning_writes_is_what_a_sweep_reads(tmp_path, monkeypatch):
    words = ("methods=evp,tvp", "sources=embedded_minigpt4,embedded_llava", "trials=2", "rounds=0", "seeds=0")
    tuned_by(tmp_path, "out", 1, monkeypatch, *words)
    read = read_tuned(tmp_path / "out" / "tuning.json")
    assert read.data == "emoji_recognition" and set(read.words["embedded_llava"]) == {"evp", "tvp"}
    cells = build_cells(load_sweep("embedded_smoke", [("tuned", str(tmp_path / "out" / "tuning.json"))]))
    for cell in cells:
        if cell.method != "none":
            assert resolved(cell).method.lr == read.words[cell.source][cell.method]["method.lr"]
