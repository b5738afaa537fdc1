"""The search of a tuning: equal, seeded, recorded trials, and ranges that grow."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from support.known_surface import EVP, INITS, PLAIN, bump, searched, stub, surface

from experiments.tuning.search import Record, Study, search, waves
from experiments.tuning.space import METHODS, Dimension, Range, grown, initial_space
from experiments.tuning.tell import summary


def test_the_optimum_of_a_known_surface_is_found(tmp_path):
    _, found = searched(tmp_path, [PLAIN], surface, trials=24)
    best = found["chosen"]["m"]["evp"]
    assert best["words"]["prompt.init"] == "zero" and 7 < best["words"]["method.lr"] < 14.5 and not best["edges"]
    assert best["val"] == max(trial["val"] for trial in found["trials"])


def test_an_optimum_far_outside_is_found_because_ranges_grow(tmp_path):
    record, found = searched(tmp_path, [PLAIN], lambda params: surface(params, lr=0.3), trials=16, rounds=4)
    assert found["ranges"]["m"]["evp"]["lr"][0] < 0.3 and 0.1 < found["chosen"]["m"]["evp"]["words"]["method.lr"] < 0.8
    assert record.trials[16].round == 1 and record.trials[16].params["lr"] <= PLAIN.space["lr"].values.low


def test_every_search_gets_the_same_number_of_trials_also_when_one_range_alone_grows(tmp_path):
    studies = [
        Study(source, arm, initial_space(arm, "sgd" if arm.name == "vp" else "normalized", 200, INITS), 64)
        for source in ("a", "b")
        for arm in METHODS.values()
    ]

    def score(params):  # one optimum for all, which is inside for the pad methods and outside for vp
        return surface(params) * (bump(params["tse"], 0.003, 9) if "tse" in params else 1)

    record, _ = searched(tmp_path, studies, score, trials=4, rounds=2, failing={("tvp", 1)})
    counts = Counter((trial.source, trial.method) for trial in record.trials)
    assert set(counts) == {(study.source, study.method) for study in studies} and set(counts.values()) == {8}
    assert Counter(trial.state for trial in record.trials)["failed"] == 2


def test_growing_stops_where_no_optimum_is_an_edge_and_after_so_many_rounds(tmp_path):
    centre = Study("m", EVP, PLAIN.space | {"steps": Dimension(Range(100, 100, 100, 100, whole=True))}, 64)
    record, found = searched(tmp_path / "a", [centre], surface, trials=12)
    assert len(record.trials) == 12 and found["state"] == "finished"
    record, found = searched(tmp_path / "b", [PLAIN], lambda params: 1 / params["lr"], trials=4, rounds=2)
    assert len(record.trials) == 4 + 2 + 2 and found["chosen"]["m"]["evp"]["edges"]["lr"] == "lower"
    assert "m, evp: lr" in summary([PLAIN], record) and "give rounds=N for more" in summary([PLAIN], record)


def test_the_cap_of_updates_is_said_and_makes_no_range_grow(tmp_path):
    study = PLAIN._replace(space={"steps": PLAIN.space["steps"]})
    record, found = searched(tmp_path, [study], lambda params: params["steps"] / 200, trials=12)
    assert found["chosen"]["m"]["evp"]["edges"] == {"steps": "upper"} and len(record.trials) == 12
    assert grown(study.space, {"steps": "upper"}) == study.space != grown(study.space, {"steps": "lower"})
    assert "the cap; give max_steps=N for more" in summary([study], record)


def test_the_same_seed_makes_the_same_trials_after_a_kill_at_any_wave_and_another_seed_others(tmp_path):
    whole, _ = searched(tmp_path / "whole", [PLAIN], surface, trials=10, rounds=1)
    for stop in range(3):
        calls = []

        def killed(trials, stop=stop, calls=calls):
            if len(calls) == stop:
                raise KeyboardInterrupt
            calls.append(len(trials))
            stub(surface)(trials)

        record = Record(tmp_path / f"cut{stop}" / "tuning.json", {"seed": 0, "data": "d"})
        with pytest.raises(KeyboardInterrupt):
            search([PLAIN], record, killed, seed=0, trials=10, rounds=1)
        done = []
        again = Record(tmp_path / f"cut{stop}" / "tuning.json", {"seed": 0, "data": "d"})

        def counting(trials, done=done):
            done.extend(trial.number for trial in trials)
            stub(surface)(trials)

        search([PLAIN], again, counting, seed=0, trials=10, rounds=1)
        assert again.trials == whole.trials and done == list(range(sum(calls), len(whole.trials)))
    other, _ = searched(tmp_path / "other", [PLAIN], surface, seed=1, trials=10, rounds=1)
    assert [trial.params for trial in other.trials] != [trial.params for trial in whole.trials]


def test_methods_start_from_the_same_rates_lengths_and_starts(tmp_path):
    studies = [
        Study("m", METHODS[m], initial_space(METHODS[m], "normalized", 200, INITS), 64) for m in ("evp", "fca", "tvp")
    ]
    record, _ = searched(tmp_path, studies, surface, trials=8, rounds=0)
    first = {m: [{k: t.params[k] for k in ("lr", "steps", "init")} for t in record.trials if t.method == m][:4]
             for m in ("evp", "fca", "tvp")}  # fmt: skip
    assert first["evp"] == first["fca"] == first["tvp"]
    assert {"fca", "fca_scale_free"} <= {name for trial in record.trials for name in trial.params}


def test_a_search_of_failures_stops_and_says_the_first(tmp_path):
    with pytest.raises(ValueError, match="Every one of the first 2 trials failed, the first with: ValueError: nan"):
        searched(tmp_path, [PLAIN], surface, trials=4, failing={("evp", 0), ("evp", 1)})
    assert [t["state"] for t in json.loads((tmp_path / "tuning.json").read_text())["trials"]] == ["failed"] * 2


def test_a_round_is_proposed_in_waves_that_do_not_depend_on_the_machine():
    assert waves(0, 16) == [(0, 8), (8, 4), (12, 4)] and waves(16, 3) == [(16, 2), (18, 1)]


def test_a_record_of_other_options_is_refused(tmp_path):
    searched(tmp_path, [PLAIN], surface, trials=2, rounds=0)
    with pytest.raises(ValueError, match="of another tuning: seed 0 there, 1 now"):
        Record(tmp_path / "tuning.json", {"seed": 1, "data": "d"})
    (tmp_path / "tuning.json").write_text('{"exp": "embedded", "trials": []}')
    with pytest.raises(ValueError, match="no record of this kind"):
        Record(tmp_path / "tuning.json", {"seed": 0})
