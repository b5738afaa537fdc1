"""What a tuning has chosen, taken over by a sweep's cells; what is missing, unfinished or damaged is refused."""

from __future__ import annotations

import json

import pytest
from omegaconf import OmegaConf

from experiments.sweep import recipe as sweep_recipe
from experiments.sweep.cells import build_cells, resolved
from experiments.sweep.recipe import load_sweep
from experiments.sweep.tuned import read_tuned


def tuning(path, data="emoji_recognition", state="finished", **words):
    """words: source__method -> lr."""
    chosen: dict = {}
    for key, lr in words.items():
        source, method = key.split("__")
        extra = {"method.fca": 0.5, "method.tse": 0.0} if method == "fca" else {}
        chosen.setdefault(source, {})[method] = {"words": {"method.lr": lr, "train.max_steps": 2, **extra}}
    path.write_text(json.dumps({"format": 2, "state": state, "asked": {"data": data}, "chosen": chosen}))
    return path


ALL = {
    "embedded_minigpt4__evp": 1.5,
    "embedded_minigpt4__tvp": 2.5,
    "embedded_llava__evp": 3.5,
    "embedded_llava__tvp": 4.5,
}


def test_a_sweep_takes_over_the_words_of_each_source_data_set_and_method(tmp_path):
    path = tuning(tmp_path / "t.json", **ALL)
    plain = {cell.label: resolved(cell) for cell in build_cells(load_sweep("embedded_smoke"))}
    cells = build_cells(load_sweep("embedded_smoke", [("tuned", str(path)), ("method.lr", "9"), ("seeds", "0")]))
    found = {(cell.source, cell.method): resolved(cell) for cell in cells}
    for key, lr in ALL.items():
        config = found[tuple(key.split("__"))]
        assert config.method.lr == lr and config.train.max_steps == 2
    assert ("embedded_minigpt4", "none") in found
    assert plain["embedded_llava-emoji_recognition-evp-s0"].method.lr == 4.0


def test_an_ensemble_takes_over_what_was_tuned_for_it_or_else_for_its_first_member(tmp_path):
    both = "embedded_llava+embedded_minigpt4"
    given = [("sources", both), ("seeds", "0")]
    found = build_cells(load_sweep("embedded_smoke", [*given, ("tuned", str(tuning(tmp_path / "a.json", **ALL)))]))
    assert {cell.method: resolved(cell).method.lr for cell in found if cell.method != "none"} == {
        "evp": 3.5,
        "tvp": 4.5,
    }
    own = ALL | {f"{both}__evp": 8.0, f"{both}__tvp": 9.0}
    found = build_cells(load_sweep("embedded_smoke", [*given, ("tuned", str(tuning(tmp_path / "b.json", **own)))]))
    assert {cell.method: resolved(cell).method.lr for cell in found if cell.method != "none"} == {
        "evp": 8.0,
        "tvp": 9.0,
    }


def test_a_source_that_was_not_tuned_takes_over_the_words_of_the_one_that_is_named_for_it(tmp_path, monkeypatch):
    some = {key: lr for key, lr in ALL.items() if key.startswith("embedded_llava")}
    recipe = OmegaConf.load(sweep_recipe.FOLDER / "embedded_smoke.yaml")
    recipe.tuned, recipe.tuned_as = tuning(tmp_path / "t.json", **some).name, {"embedded_minigpt4": "embedded_llava"}
    monkeypatch.setattr(sweep_recipe, "FOLDER", tmp_path)
    OmegaConf.save(recipe, tmp_path / "mine.yaml")
    found = {(c.source, c.method): resolved(c).method.lr for c in build_cells(load_sweep("mine")) if c.method != "none"}
    assert found == {(source, m): some[f"embedded_llava__{m}"] for source in recipe.sources for m in ("evp", "tvp")}
    recipe.tuned_as = {"embedded_minigpt4": "embedded_blip2"}
    OmegaConf.save(recipe, tmp_path / "mine.yaml")
    with pytest.raises(ValueError, match=r"no words for .* of embedded_minigpt4"):
        load_sweep("mine")


def test_a_recipe_names_its_tunings_beside_itself_and_rows_of_their_own(tmp_path, monkeypatch):
    words = {f"embedded_minigpt4__{name}": lr for name, lr in (("fca", 7.0), ("evp", 8.0))}
    tuning(tmp_path / "t.json", **words)
    recipe = {
        "sweep": "mine", "exp": "smoke", "tuned": "t.json", "sources": ["embedded_minigpt4"],
        "data": [{"name": "emoji_recognition"}],
        "methods": [
            {"name": "none"}, {"name": "evp"}, {"name": "fca", "base": "tvp"},
            {"name": "as_it_was", "base": "tvp", "tuned": ""}, {"name": "evp2", "base": "evp", "tuned": "evp"},
        ],
    }  # fmt: skip
    (tmp_path / "mine.yaml").write_text("# x\n" + OmegaConf.to_yaml(OmegaConf.create(recipe)))
    monkeypatch.setattr(sweep_recipe, "FOLDER", tmp_path)
    found = {cell.method: resolved(cell).method for cell in build_cells(load_sweep("mine"))}
    assert (found["fca"].lr, found["fca"].fca, found["fca"].tse) == (7.0, 0.5, 0.0)
    assert found["as_it_was"].lr == 4.0 and found["evp2"].lr == found["evp"].lr == 8.0


def test_a_data_set_may_come_several_times_and_take_over_another_one_s_tuning(tmp_path, monkeypatch):
    tuning(tmp_path / "t.json", embedded_minigpt4__evp=7.0)
    data = [
        {"name": "emoji_recognition", "label": "plain"},
        {"name": "emoji_recognition", "label": "told little", "words": {"data.question": "?"}},
        {"name": "emoji_counting", "tuned": "emoji_recognition"},
    ]
    recipe = {"sweep": "mine", "exp": "smoke", "tuned": "t.json", "sources": ["embedded_minigpt4"], "data": data,
              "methods": [{"name": "evp"}]}  # fmt: skip

    def load(**changes):
        (tmp_path / "mine.yaml").write_text("# x\n" + OmegaConf.to_yaml(OmegaConf.create(recipe | changes)))
        return load_sweep("mine")

    monkeypatch.setattr(sweep_recipe, "FOLDER", tmp_path)
    cells = {cell.data: cell for cell in build_cells(load())}
    configs = {label: resolved(cell) for label, cell in cells.items()}
    assert list(cells) == ["plain", "told little", "emoji_counting"]
    assert cells["told little"].label == "embedded_minigpt4-told_little-evp-s0"
    assert [config.data.question for config in configs.values()] == [None, "?", None]
    assert {config.method.lr for config in configs.values()} == {7.0}
    assert [c.data for c in build_cells(load_sweep("mine", [("data", "told little")]))] == ["told little"]
    with pytest.raises(ValueError, match=r"data has plain twice. Expected each once; a data set may have a `label`"):
        load(data=[data[0], data[0]])


def test_a_learned_cell_without_tuned_words_is_refused_before_anything_runs(tmp_path):
    some = {key: lr for key, lr in ALL.items() if key != "embedded_llava__tvp"}
    given = [("tuned", str(tuning(tmp_path / "t.json", **some)))]
    with pytest.raises(ValueError, match=r"no words for tvp of embedded_llava on emoji_recognition.*sources=embedded_"):
        load_sweep("embedded_smoke", given)
    load_sweep("embedded_smoke", [*given, ("sources", "embedded_minigpt4")])
    with pytest.raises(ValueError, match="twice"):
        load_sweep("embedded_smoke", [("tuned", f"{tmp_path / 't.json'},{tmp_path / 't.json'}")])


def test_a_tuning_that_is_missing_unfinished_old_or_damaged_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        read_tuned(tmp_path / "t.json")
    with pytest.raises(ValueError, match="is not over"):
        read_tuned(tuning(tmp_path / "t.json", state="running", **ALL))
    (tmp_path / "t.json").write_text('{"exp": "embedded", "chosen": {}}')
    with pytest.raises(ValueError, match="of format None"):
        read_tuned(tmp_path / "t.json")
    (tmp_path / "t.json").write_text('{"format": 2, "state"')
    with pytest.raises(ValueError, match="is damaged"):
        read_tuned(tmp_path / "t.json")
