"""Cells of a sweep: named by all that can change a result and by nothing else; recipes that make valid runs."""

from __future__ import annotations

import json
from itertools import combinations

import pytest
from omegaconf import OmegaConf

from experiments.statistics.sharing import shared
from experiments.sweep import cells as module
from experiments.sweep import identity
from experiments.sweep.cells import SweepCell, build_cells, cell_words, resolved
from experiments.sweep.collect import matrix_rows
from experiments.sweep.folder import SweepFolder
from experiments.sweep.identity import Fingerprints, cell_id
from experiments.sweep.recipe import FOLDER, all_targets, data_label, list_sweeps, load_sweep
from lightning_modules import code_version
from lightning_modules.records import FIELDS, ResultLog
from lightning_modules.vocabulary import MAPPED, members

SMALL = [("sources", "embedded_minigpt4"), ("methods", "tvp"), ("seeds", "0")]


class Known(Fingerprints):
    """Fingerprints without reading anything."""

    def weights(self, config):
        return {config.source.name: "w"} | {name: "w" for name in config.targets.names}

    def data(self, config):
        return {"train": "t", "val": "v", "test": "e"}


def one(*words, known=None):
    (cell,) = build_cells(load_sweep("embedded_smoke", list((dict(SMALL) | dict(words)).items())))
    return cell_id(resolved(cell), known or Known())


def test_the_list_of_sweeps_is_not_empty():
    assert {"embedded", "embedded_smoke", "paper"} <= set(list_sweeps()) and len(list_sweeps()) == len(
        list(FOLDER.glob("*.yaml"))
    )


def is_study(name):
    return name.startswith(("modern", "paper_", "web_", "fashion_"))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * is_study(name)) for name in sorted(list_sweeps())]
)
def test_every_sweep_recipe_makes_valid_runs(name):
    sweep = load_sweep(name)
    cells = build_cells(sweep)
    learned = [method for method in sweep.methods if method.name != "none"]
    unlearned = len(sweep.methods) - len(learned)
    assert len(cells) == len(sweep.data) * (unlearned + len(sweep.sources) * len(learned) * len(sweep.seeds))
    assert len({cell.label for cell in cells}) == len(cells)
    named = {data_label(data): data.name for data in sweep.data}
    shown = {(cell.data, cell.method): cell for cell in cells} | {cell.source: cell for cell in cells}
    for cell in shown.values():
        config = resolved(cell)
        own = members(cell.source)
        targets = [name for name in all_targets(sweep) if name not in own]
        assert (config.source.name, config.data.name, config.seed) == (own[0], named[cell.data], cell.seed)
        assert [source.name for source in config.sources] == (own if len(own) > 1 else [])
        select = [name for name in sweep.select if name not in own]
        assert sorted(config.targets.names) == sorted(targets) and config.targets.select == select
        assert set(config.targets.heldout) == {*targets} - {*select}


def test_the_paper_sweep_is_the_whole_matrix():
    from datamodules.registry import DATAMODULES

    sweep = load_sweep("paper")
    assert len(sweep.sources) == 6 and len(sweep.data) == 10 and {d.name for d in sweep.data} <= set(DATAMODULES)


def test_the_modern_sweep_tells_same_tower_same_language_model_and_nothing_shared_apart():
    sweep = load_sweep("modern")
    assert [d.name for d in sweep.data] == [d.name for d in load_sweep("paper").data] and len(sweep.sources) == 8
    assert [method.name for method in sweep.methods] == ["none", "vp", "evp", "fca", "tse", "tvp"]
    pairs = {}
    for source, target in combinations(sorted(sweep.sources), 2):
        assert shared(source, target) == shared(target, source)
        pairs.setdefault(shared(source, target), set()).add((source, target))
    tower = ("llava_onevision_7b", "paligemma2_3b", "smolvlm2_2_2b")
    assert pairs.pop("same tower weights") == {*combinations(tower, 2)}
    assert pairs.pop("same language model, other tower") == {("internvl3_8b", "qwen2_5_vl_7b")}
    assert {kind: len(of) for kind, of in pairs.items()} == {"other tower of the same kind": 28 - 4}


def test_fca_and_tse_of_the_modern_sweep_are_tvp_with_one_term():
    terms = {}
    for cell in build_cells(load_sweep("modern", [("sources", "qwen3_vl_8b"), ("data", "cifar10"), ("seeds", "0")])):
        config = resolved(cell)
        terms[cell.method] = (config.method.name, config.method.fca, config.method.tse)
    assert terms["fca"] == ("tvp", 0.005, 0.0) and terms["tse"] == ("tvp", 0.0, 0.001)
    assert terms["tvp"] == ("tvp", 0.005, 0.001) and terms["evp"] == ("evp", 0.0, 0.0)


def test_the_same_cell_has_the_same_id():
    assert one() == one() and len(one()) == 16


@pytest.mark.parametrize(
    "word",
    [
        ("seeds", "1"), ("methods", "evp"), ("sources", "embedded_llava"), ("targets", "embedded_llava"),
        ("train.epochs", "3"), ("method.lr", "5"), ("prompt.bounds", "unbounded"), ("data.split_seed", "1"),
        ("train.batch_size", "4"), ("select", "embedded_llava"),
    ],
)  # fmt: skip
def test_what_can_change_a_result_changes_the_id(word):
    assert one(word) != one()


@pytest.mark.parametrize(
    "word",
    [
        ("data.workers", "3"), ("targets.residency", "process"), ("log.wandb", "offline"), ("log.every", "7"),
        ("train.memory_check", "off"), ("data.root", "elsewhere"), ("source.weights", "elsewhere"),
    ],
)  # fmt: skip
def test_where_and_how_fast_a_cell_runs_does_not_change_the_id(word):
    assert one(word) == one()


def test_weights_data_and_code_are_part_of_the_id(monkeypatch):
    known = one()

    class OtherWeights(Known):
        def weights(self, config):
            return super().weights(config) | {config.source.name: "other"}

    class OtherData(Known):
        def data(self, config):
            return super().data(config) | {"test": "other"}

    assert one(known=OtherWeights()) != known and one(known=OtherData()) != known
    real = identity.made_with()
    for changed in ({"code": "other"}, {"libraries": real["libraries"] | {"torch": "0"}}):
        monkeypatch.setattr(identity, "made_with", lambda changed=changed: real | changed)
        assert one() != known


@pytest.mark.slow
def test_real_fingerprints_cover_every_model_and_split(tmp_path):
    (cell,) = build_cells(load_sweep("embedded_smoke", SMALL))
    config, known = resolved(cell), Fingerprints()
    weights = known.weights(config)
    assert set(weights) == {"embedded_minigpt4", "embedded_llava", "embedded_instructblip", "clip"}
    assert len(set(weights.values())) == 4 and set(known.data(config)) == {"train", "val", "test"}


def ensemble(*folders):
    """A cell's configuration whose two sources have these weights folders."""
    (cell,) = build_cells(load_sweep("embedded_smoke", SMALL))
    two = zip(("embedded_minigpt4", "embedded_llava"), folders, strict=True)
    sources = ",".join(f"{{name: {name}, weights: {folder}}}" for name, folder in two)
    return resolved(cell._replace(words=(*cell.words, ("sources", f"[{sources}]"))))


def test_every_source_is_read_in_its_own_weights_folder(monkeypatch):
    monkeypatch.setattr("model_zoo.registry.model_fingerprint", lambda name, weights: f"{name} in {weights}")
    known = Fingerprints()
    found = known.weights(ensemble("one", "two"))
    assert found["embedded_minigpt4"] == "embedded_minigpt4 in one"
    assert found["embedded_llava"] == "embedded_llava in two"
    assert found["embedded_instructblip"] == "embedded_instructblip in weights"
    assert known.weights(ensemble("one", "three"))["embedded_llava"] == "embedded_llava in three"


def test_what_is_missing_is_asked_again_for_other_weights_folders(monkeypatch):
    monkeypatch.setattr(identity, "missing_things", lambda parts: [parts.config.sources[1].weights])
    known = Fingerprints()
    assert [known.missing(ensemble("one", folder)) for folder in ("two", "three", "two")] == [
        ["two"],
        ["three"],
        ["two"],
    ]


def test_what_runs_and_collects_a_cell_names_it_and_nothing_else_of_experiments():
    """Of `experiments/`, what turns a configuration into a run and a run into rows; pages and commands are left out."""
    for name in ("run/start.py", "run/build.py", "run/ensure.py", "schema.py", "recipes.py", "sweep/collect.py"):
        assert any(f"experiments/{name}".startswith(source) for source in module.RUN_SOURCES)
    assert all((code_version.ROOT / source).exists() for source in module.RUN_SOURCES)
    assert module.made_with()["code"] != code_version.code_version()


def test_the_matrix_has_scores_through_label_maps_beside_the_plain_ones_also_of_controls(tmp_path):
    folder, cell = SweepFolder(tmp_path, create="s"), SweepCell("c", "m", "d", "evp", 0, ())
    scores = {("prompt", "top1"): 0.5, ("prompt", MAPPED): 0.75, ("full", "top1"): 0.25, ("full", MAPPED): 0.5}
    row = dict.fromkeys(field for field in FIELDS if field not in ("schema", "time"))
    row |= {"split": "test", "group": "", "mllm": "t", "n": 4}
    (folder.cells / cell.folder).mkdir(parents=True)
    ResultLog(folder.cells / cell.folder / "results.jsonl").append(
        [row | {"input": given, "metric": metric, "value": value} for (given, metric), value in scores.items()]
    )
    found = {(line[5], line[6]): line[8] for line in matrix_rows(folder, cell, "finished")}
    gains = {("full", "gain_top1"): "0.250000", ("full", f"gain_{MAPPED}"): "0.250000"}
    assert (
        found
        == {("" if given == "prompt" else given, metric): f"{value:.6f}" for (given, metric), value in scores.items()}
        | gains
    )


def test_nothing_is_learned_once_a_data_set():
    cells = build_cells(load_sweep("embedded_smoke", []))
    assert [(c.source, c.seed) for c in cells if c.method == "none"] == [("embedded_minigpt4", 0)]
    assert len(cells) == 1 + 2 * 2 * 2


def test_words_of_the_sweep_give_way_to_the_source_the_method_the_data_and_what_was_tuned():
    sweep = OmegaConf.create(
        {"sweep": "s", "exp": "embedded", "sources": ["a"], "targets": ["a", "b", "c"], "select": ["b"]}
    )
    sweep |= {"prompts": "", "words": dict.fromkeys("xyzvt", 1), "source_words": {"a": dict.fromkeys("yzvt", 2)}}
    sweep |= {"tuned_words": {"d": {"a": {"mine": {"t": 5}, "other": {"x": 6}}, "b": {"mine": {"x": 7}}}}}
    method = OmegaConf.create({"name": "mine", "base": "tvp", "words": dict.fromkeys("zvt", 3), "tuned": None})
    given = {"name": "d", "label": None, "tuned": None, "exp": None, "words": {}}
    data = OmegaConf.create(given | {"methods": {"mine": {"v": True, "t": 4}}})
    words = dict(cell_words(OmegaConf.create(sweep), "a", data, method, 7))
    assert [words[key] for key in "xyzvt"] == ["1", "2", "3", "true", "5"]
    assert words["method.name"] == "tvp" and words["seed"] == "7"
    assert (words["targets.select"], words["targets.heldout"]) == ("[b]", "[c]")


def test_two_rows_that_would_be_the_same_run_are_refused():
    sweep = load_sweep("embedded_smoke", SMALL)
    sweep.methods.append(sweep.methods[0].copy())
    sweep.methods[-1].name, sweep.methods[-1].base = "again", sweep.methods[0].name
    with pytest.raises(ValueError, match=r"-tvp-s0 and .*-again-s0 are the same run: their words differ in nothing"):
        identity.identified(build_cells(sweep))


def test_a_cell_survives_the_plan_file():
    (cell,) = build_cells(load_sweep("embedded_smoke", SMALL))
    named = cell._replace(id="0" * 16)
    assert SweepCell.from_dict(json.loads(json.dumps(named._asdict()))) == named


@pytest.mark.parametrize(
    ("name", "words", "text"),
    [
        ("embeded", [], "Did you mean 'embedded'"),
        ("embedded", [("methods", "tvpp")], "no methods 'tvpp'. Did you mean 'tvp'"),
        ("embedded", [("sources", "embedded_minigpt")], "Did you mean 'embedded_minigpt4'"),
        ("embedded", [("seeds", "a")], "Expected seeds=0,1,2"),
        ("embedded", [("seeds", "1,1")], "twice"),
        ("embedded", [("methods", "")], "no methods"),
        ("embedded", [("select", "minigpt4")], "no target"),
    ],
)
def test_a_wrong_sweep_is_refused_with_what_would_be_right(name, words, text):
    with pytest.raises(ValueError, match=text):
        load_sweep(name, words)


def test_a_misspelt_word_names_the_cell_and_the_key():
    (cell,) = build_cells(load_sweep("embedded_smoke", [*SMALL, ("train.epoch", "1")]))
    with pytest.raises(ValueError, match=r"Cell embedded_minigpt4-emoji_recognition-tvp-s0: .*epochs"):
        resolved(cell)


def test_missing_weights_and_data_are_listed_once_each(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    cells = build_cells(load_sweep("paper", [("sources", "blip2"), ("data", "cifar10"), ("seeds", "0")]))
    cells, missing = identity.identified(cells)
    assert not any(cell.id for cell in cells)
    text = "\n".join(missing)
    assert text.count("No blip2 weights") == 1 and text.count("No cifar10 data") == 1 and "No CLIP weights" in text


def test_the_primary_contrast_is_named_in_the_recipe_and_survives_narrowing():
    matrices = ("embedded", "fashion", "web", "web_presence", "paper", "modern")
    assert {tuple(load_sweep(name).primary) for name in matrices} == {("tvp", "evp")}
    for name in list_sweeps():
        sweep = load_sweep(name)
        learned = [method.name for method in sweep.methods if method.name != "none"]
        assert bool(sweep.primary) == (len(learned) > 1), f"{name} compares {learned} and names {sweep.primary}"
    assert list(load_sweep("embedded", [("methods", "evp")]).primary) == ["tvp", "evp"]


@pytest.mark.parametrize("primary", ["[tvp, none_such]", "[tvp]", "[tvp, tvp]"])
def test_a_primary_contrast_of_other_than_two_methods_of_the_sweep_is_refused(primary, tmp_path, monkeypatch):
    text = (FOLDER / "embedded_smoke.yaml").read_text().replace("primary: [tvp, evp]", f"primary: {primary}")
    (tmp_path / "mine.yaml").write_text(text)
    monkeypatch.setattr("experiments.sweep.recipe.FOLDER", tmp_path)
    with pytest.raises(ValueError, match=r"primary is .*Expected two methods of the sweep"):
        load_sweep("mine")


def test_a_source_of_two_models_learns_on_both_and_is_scored_on_all_others_too():
    sweep = load_sweep("fashion_one_source", [("sources", "lite0_llava+lite2_llava")])
    cell = next(cell for cell in build_cells(sweep) if cell.method == "evp")
    config = resolved(cell)
    assert [source.name for source in config.sources] == ["lite0_llava", "lite2_llava"]
    assert cell.source == "lite0_llava+lite2_llava"
    assert config.targets.heldout == ["lite0_llava_grown", "lite0_minigpt4", "lite1_minigpt4"]
    with pytest.raises(ValueError, match="lite9"):
        load_sweep("fashion_one_source", [("sources", "lite0_llava+lite9")])
