"""`analyse` and `write_statistics` as a whole: schema, what is left out, what is missing, the same bytes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from support.statistics_data import matrix, record, scores

from experiments.statistics import alarms, analyse, shared, write_statistics
from experiments.statistics.significance import holm
from experiments.sweep.samples import write_samples
from lightning_modules.metrics import Scores, auroc, estimate

MODELS = ("embedded_minigpt4", "embedded_blip2", "embedded_llava")
CELL = {"source", "target", "data", "method", "seed", "role", "shared", "n", "metric", "value", "low", "high",
        "interval", "inputs", "gains", "alarm"}  # fmt: skip
SPREAD = {"value", "low", "high", "images_low", "images_high", "seeds_low", "seeds_high"}


def worse_on_llava(source: str, target: str) -> float:
    return -0.4 if target == "embedded_llava" else 0.1


@pytest.fixture(scope="module")
def made():
    return analyse(matrix(MODELS, (0, 1, 2), worse_on_llava))


def test_the_result_has_the_keys_of_its_schema(made):
    assert (made["schema"], made["level"], made["alpha"]) == (2, 0.95, 0.05)
    assert made["metrics"] == {"scenes": "top1"}
    assert len(made["cells"]) == 27 and len(made["pairs"]) == 9
    assert set(made["cells"][0]) == CELL
    assert set(made["cells"][0]["gains"]) == set(made["controls"]) == set(made["cells"][0]["alarm"])
    assert set(made["pairs"][0]) == (CELL - {"seed", "inputs"}) | {"seeds", "sd_seeds"}
    assert set(made["pairs"][0]["gains"]["black"]) >= SPREAD | {"p", "p_holm", "sd_seeds"}
    assert set(made["methods"][0]) >= SPREAD | {"method", "data", "over", "control", "pairs", "seeds", "n"}
    assert set(made["shared"][0]) >= SPREAD | {"method", "data", "shared", "control"}
    assert json.loads(json.dumps(made, allow_nan=False)) == made


def test_cells_hold_the_metrics_own_estimate_and_the_plain_gain():
    given = matrix(MODELS[:1], (0,), lambda s, t: 0.2)
    cell = analyse(given)["cells"][0]
    after, before = given[0].scores["prompt"], given[0].scores["black"]
    assert [cell["value"], cell["low"], cell["high"]] == pytest.approx(list(estimate("top1", after)[:3]), abs=1e-6)
    assert cell["inputs"]["black"]["low"] == pytest.approx(estimate("top1", before).low, abs=1e-6)
    gain = cell["gains"]["black"]
    assert gain["value"] == pytest.approx(after.correct.mean() - before.correct.mean(), abs=1e-6)
    assert gain["mcnemar"]["gained"] - gain["mcnemar"]["lost"] == round(96 * gain["value"])
    assert gain["low"] < gain["value"] < gain["high"]


def test_the_average_target_gain_is_the_mean_over_pairs_without_the_source(made):
    cells = {(c["source"], c["target"], c["seed"]): c["gains"]["black"]["value"] for c in made["cells"]}
    black = {(s, t): np.mean([cells[s, t, seed] for seed in range(3)]) for s, t, _ in cells}
    found = {(p["source"], p["target"]): p["gains"]["black"]["value"] for p in made["pairs"]}
    assert found == pytest.approx(black, abs=2e-6)
    rows = {(m["over"], m["data"]): m for m in made["methods"] if m["control"] == "black"}
    targets = [value for (s, t), value in black.items() if s != t]
    assert rows["targets", "scenes"]["value"] == pytest.approx(np.mean(targets), abs=1e-6)
    assert rows["targets", "scenes"]["pairs"] == 6
    assert rows["source", ""]["value"] == pytest.approx(np.mean([v for (s, t), v in black.items() if s == t]), abs=1e-6)


def test_what_is_shared_splits_the_targets(made):
    rows = {row["shared"]: row for row in made["shared"] if row["control"] == "black"}
    assert {tag: row["pairs"] for tag, row in rows.items()} == {"same tower weights": 2, "tower of another kind": 4}
    assert rows["same tower weights"]["value"] > 0 > rows["tower of another kind"]["value"]
    assert made["pairs"][0]["shared"] == shared(made["pairs"][0]["source"], made["pairs"][0]["target"])


def test_towers_and_sources_split_the_targets_too(made):
    def gains(name, key):
        return {row[key]: row for row in made[name] if row["control"] == "black"}

    kinds = gains("directions", "direction")
    assert {way: row["pairs"] for way, row in kinds.items()} == {
        "ViT to ViT, the same tower": 2, "ViT to CNN, another tower": 2, "CNN to ViT, another tower": 2,
    }  # fmt: skip
    pairs = {(p["source"], p["target"]): p["gains"]["black"]["value"] for p in made["pairs"]}
    for source, row in gains("sources", "source").items():
        own = [value for (s, t), value in pairs.items() if s == source != t]
        assert row["value"] == pytest.approx(np.mean(own), abs=2e-6) and row["pairs"] == len(own)
    assert list(gains("sources", "source")) == sorted(MODELS)
    assert analyse(matrix(MODELS[:1], (0,), worse_on_llava))["sources"] == []


def test_alarms_name_the_regressions_and_nothing_else(made):
    assert {row["target"] for row in made["alarms"]} == {"embedded_llava"}
    assert {(row["source"], row["control"]) for row in made["alarms"]} == {
        (source, control) for source in MODELS for control in made["controls"]
    }
    assert all(cell["alarm"]["black"] == (cell["target"] == "embedded_llava") for cell in made["cells"])
    assert made["alarms"] == alarms(made["pairs"])
    assert [row["value"] for row in made["alarms"]] == sorted(row["value"] for row in made["alarms"])


def test_a_gain_raises_no_alarm_however_certain():
    up = analyse(matrix(MODELS, (0, 1, 2), lambda s, t: 0.45))
    assert up["alarms"] == [] and not any(any(cell["alarm"].values()) for cell in up["cells"])
    assert all(pair["gains"]["black"]["p_holm"] < 0.05 for pair in up["pairs"])


def test_a_method_that_learned_nothing_is_no_part_of_the_family(made):
    given = matrix(MODELS, (0, 1, 2), worse_on_llava)
    idle = [r._replace(method="none", scores={**r.scores, "prompt": r.scores["black"]}) for r in given]
    both = analyse([*given, *idle])
    nothing = [pair for pair in both["pairs"] if pair["method"] == "none"]
    assert all(pair["gains"]["black"]["value"] == 0 == pair["gains"]["black"]["high"] for pair in nothing)
    assert all(pair["gains"]["black"]["p_holm"] is None and not pair["alarm"]["black"] for pair in nothing)
    kept = [pair for pair in both["pairs"] if pair["method"] != "none"]
    assert kept == made["pairs"]


def test_holm_counts_the_whole_matrix_of_one_control(made):
    gains = [cell["gains"]["full"] for cell in made["cells"]]
    least = min(gain["mcnemar"]["p"] for gain in gains)
    assert min(gain["p_holm"] for gain in gains) == pytest.approx(27 * least, abs=27e-6)


def test_paired_differences_compare_the_same_seed_and_pair():
    tvp = matrix(MODELS, (0, 1), lambda s, t: 0.3)
    evp = [r._replace(method="evp") for r in matrix(MODELS, (0, 1), lambda s, t: 0.1)]
    lacking = [r for r in evp if (r.source, r.seed) != (MODELS[0], 1)]
    rows = {(r["data"], r["over"]): r for r in analyse([*tvp, *evp])["differences"]}
    few = {(r["data"], r["over"]): r for r in analyse([*tvp, *lacking])["differences"]}
    assert set(rows) == {("scenes", "targets"), ("scenes", "source"), ("", "targets"), ("", "source")}
    values = {m: np.mean([r.scores["prompt"].correct.mean() for r in of if r.source != r.target])
              for m, of in (("tvp", tvp), ("evp", evp))}  # fmt: skip
    assert rows["", "targets"]["value"] == pytest.approx(values["tvp"] - values["evp"], abs=1e-6)
    assert rows["", "targets"]["p"] <= rows["", "targets"]["p_holm"]
    assert (rows["", "targets"]["pairs"], rows["", "targets"]["seeds"]) == (6, 2)
    assert (few["", "targets"]["pairs"], few["", "targets"]["seeds"]) == (6, 1)
    assert few["", "targets"]["interval"] == "images"


def yes_no(rng: np.random.Generator, lift: float, n: int = 60) -> Scores:
    labels = np.arange(n) % 2
    table = np.stack([np.zeros(n), labels * lift + rng.normal(size=n)], 1).astype(np.float32)
    return Scores([f"{i:04d}" for i in range(n)], labels, table, [""] * n)


def test_auroc_has_every_number_but_mcnemar():
    rng = np.random.default_rng(5)
    black = yes_no(rng, 3.0)
    given = [
        record("a", t, seed, {"prompt": yes_no(rng, 0.0), "black": black}, metric="auroc")
        for t in "ab"
        for seed in range(3)
    ]
    made = analyse([*given, *matrix(("a", "b"), (0, 1, 2), lambda s, t: 0.1, data="other")])
    cell = next(c for c in made["cells"] if c["metric"] == "auroc")
    assert cell["value"] == pytest.approx(auroc(given[0].scores["prompt"]), abs=1e-6)
    assert cell["interval"] == "bootstrap"
    assert cell["gains"]["black"]["mcnemar"] is None
    assert cell["gains"]["black"]["p_holm"] < 0.05 and cell["alarm"]["black"]
    pair = next(p for p in made["pairs"] if p["metric"] == "auroc")
    low, high = (pair["gains"]["black"][key] for key in ("low", "high"))
    assert low < pair["gains"]["black"]["images_low"] < pair["gains"]["black"]["images_high"] < high < 0
    assert {m["n"] for m in made["methods"] if m["data"] == "" and m["control"] == "black"} == {156}


def test_one_seed_gives_the_image_interval_and_the_exact_test():
    made = analyse(matrix(MODELS, (7,), worse_on_llava))
    pair, cell = made["pairs"][0], made["cells"][0]
    assert (pair["seeds"], pair["interval"], pair["sd_seeds"]) == ([7], "images", None)
    assert pair["gains"]["black"]["p"] == cell["gains"]["black"]["mcnemar"]["p"]
    assert pair["gains"]["black"]["seeds_low"] is None
    assert {row["target"] for row in made["alarms"]} == {"embedded_llava"}


def test_nothing_at_all_is_an_empty_report():
    made = analyse([])
    assert made["cells"] == made["pairs"] == made["methods"] == made["alarms"] == made["differences"] == []
    assert made["metrics"] == {}


def test_records_without_a_prompt_or_a_control_are_left_out_of_what_needs_them():
    whole, other = matrix(MODELS[:1], (0, 1), lambda s, t: 0.1)
    bare = other._replace(scores={"prompt": other.scores["prompt"]})
    unprompted = record("a", "a", 0, {"black": np.ones(96)}, data="empty")
    nothing = record("a", "a", 0, {"prompt": scores(np.ones(0))}, data="void")
    made = analyse([whole, bare, unprompted, nothing])
    assert [len(cell["gains"]) for cell in made["cells"]] == [4, 0]
    assert made["pairs"][0]["seeds"] == [0, 1]
    assert made["pairs"][0]["gains"]["black"]["interval"] == "images"


def test_records_on_fewer_images_are_compared_on_those_all_have():
    ids = [f"{i}" for i in range(40)]
    right = np.arange(40) % 2
    long = record("a", "a", 0, {"prompt": scores(right, ids), "black": scores(1 - right, ids)})
    short = record("a", "b", 0, {"prompt": scores(right[:10], ids[:10]), "black": scores(right[:10], ids[:10])})
    assert [cell["n"] for cell in analyse([long, short])["cells"]] == [10, 10]
    apart = record("a", "c", 0, {"prompt": scores(right, [f"other{i}" for i in range(40)])})
    with pytest.raises(ValueError, match=r"'scenes' have no image in common\. Expected"):
        analyse([long, apart])


# ---- the file --------------------------------------------------------------------------------------------------------
def test_the_file_is_the_same_whatever_the_order_of_the_records(tmp_path):
    given = matrix(MODELS, (0, 1), worse_on_llava)
    written = []
    for folder, records in (("a", given), ("b", given[::-1])):
        for label in {r.prompt for r in records}:
            path = tmp_path / folder / "samples" / f"{label[0]}-s{label[3]}.parquet"
            write_samples(path, [r for r in records if r.prompt == label])
        made = write_statistics(tmp_path / folder)
        written.append((tmp_path / folder / "statistics.json").read_bytes())
        assert json.loads(written[-1]) == made == analyse(given)
    assert written[0] == written[1]


def test_a_folder_without_samples_tells_what_is_missing(tmp_path):
    (tmp_path / "matrix.csv").write_text(
        "source,target,data,method,seed,control,metric,n,value,status\n"
        "a,,scenes,tvp,3,,,0,,failed\n"
        "a,b,scenes,tvp,4,,top1,9,0.5,finished\n"
    )
    made = write_statistics(tmp_path)
    expected = {"source": "a", "data": "scenes", "method": "tvp", "seed": 3, "status": "failed", "error": ""}
    assert made["missing"] == [expected] and made["cells"] == []
    told = [{**expected, "error": "out of memory", "seconds": 3}]
    assert write_statistics(tmp_path, told)["missing"] == [{**expected, "error": "out of memory"}]


# ---- units -----------------------------------------------------------------------------------------------------------
def with_units(records, rows_each: int):
    """The same records, `rows_each` rows about each picture."""

    def told(scores: Scores) -> Scores:
        return scores._replace(units=[f"p{i // rows_each}" for i in range(len(scores.ids))])

    return [r._replace(scores={given: told(scores) for given, scores in r.scores.items()}) for r in records]


def test_units_of_one_row_change_no_number():
    given = matrix(MODELS, (0, 1), worse_on_llava)
    assert analyse(with_units(given, 1)) == analyse(given)


def test_where_rows_share_pictures_everything_is_over_pictures(tmp_path):
    given = with_units(matrix(MODELS, (0, 1), worse_on_llava), 8)
    write_samples(tmp_path / "samples" / "a.parquet", [r for r in given if r.prompt == given[0].prompt])
    made = write_statistics(tmp_path)
    cell = next(c for c in made["cells"] if c["target"] == given[0].target)
    assert (made["images"], cell["n"], cell["interval"]) == ({"scenes": 12}, 96, "wilson over units")
    assert cell["gains"]["black"]["interval"] == "paired-bootstrap over units"
    assert cell["gains"]["black"]["mcnemar"] is None
    assert cell["gains"]["black"]["p"] == cell["gains"]["black"]["sign_flip"]["p"]
    assert estimate("top1", given[0].scores["prompt"]).low == pytest.approx(cell["low"], abs=1e-6)


def test_records_without_units_take_those_of_the_others():
    """Cells of a sweep may be older than units; the rows are the same."""
    given = matrix(MODELS, (0, 1), worse_on_llava)
    assert analyse([*given[:2], *with_units(given[2:], 8)]) == analyse(with_units(given, 8))


# ---- one contrast first ----------------------------------------------------------------------------------------------
def three_methods():
    lift = {"tvp": 0.3, "evp": 0.22, "vp": 0.2}
    made = {name: matrix(MODELS, (0, 1, 2), lambda s, t, by=by: by) for name, by in lift.items()}
    return [r._replace(method=name) for name, records in made.items() for r in records]


def test_the_primary_contrast_is_tested_first_and_the_others_after_it():
    given = three_methods()
    plain, made = (analyse(given, primary=names)["differences"] for names in ((), ("tvp", "evp")))
    (first,) = (row for row in made if row["primary"])
    assert (first["methods"], first["over"], first["data"]) == (["tvp", "evp"], "targets", "")
    assert first["p_holm"] == first["p"]
    others = [row for row in made if not row["primary"]]
    adjusted = [max(p, first["p"]) for p in holm([row["p"] for row in others])]
    assert [row["p_holm"] for row in others] == pytest.approx(adjusted, abs=1e-5)
    assert not any(row["primary"] for row in plain)
    assert [row["p_holm"] for row in plain] == pytest.approx(holm([row["p"] for row in plain]), abs=1e-5)


def test_any_two_methods_may_be_the_primary_contrast():
    made = analyse(three_methods(), primary=["evp", "vp"])
    assert made["primary"] == {"methods": ["evp", "vp"], "over": "targets", "data": ""}
    assert made["differences"][0]["methods"] == ["evp", "vp"] and sum(r["primary"] for r in made["differences"]) == 1


def test_a_method_of_one_s_own_that_is_named_first_is_compared_with_every_other():
    given = [r._replace(method="ours") if r.method == "tvp" else r for r in three_methods()]
    found = {tuple(row["methods"]) for row in analyse(given, primary=["ours", "evp"])["differences"]}
    assert found == {("ours", "evp"), ("ours", "vp")}
    assert analyse(given)["differences"] == []


def test_the_primary_contrast_is_that_of_the_plan(tmp_path):
    given = three_methods()
    for label in {r.prompt for r in given}:
        write_samples(tmp_path / "samples" / f"{label}.parquet", [r for r in given if r.prompt == label])
    assert write_statistics(tmp_path)["primary"] is None
    (tmp_path / "plans").mkdir()
    (tmp_path / "plan").write_text("7\n")
    (tmp_path / "plans" / "7.json").write_text(json.dumps({"recipe": {"primary": ["tvp", "evp"]}}))
    assert write_statistics(tmp_path) == analyse(given, primary=["tvp", "evp"])


# ---- the smallest alarm ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_a_loss_of_the_stated_size_is_where_alarms_begin(seeds):
    """Below it no pair has one, well above it every pair has; other pairs' alarms only make more of them."""
    made = analyse(matrix(MODELS, seeds, lambda s, t: dict(zip(MODELS, (-0.01, -0.05, -0.3), strict=True))[t], n=200))
    stated = [(p["gains"]["black"], p["alarm"]["black"]) for p in made["pairs"]]
    assert all(0.01 < gain["smallest_alarm"] < 0.3 for gain, _ in stated)
    for gain, alarm in stated:
        assert alarm or -gain["value"] < 1.1 * gain["smallest_alarm"]
    assert {alarm for _, alarm in stated} == {True, False}


def test_alarms_state_the_raw_p_beside_the_corrected_one(made):
    assert all(row["p"] <= row["p_holm"] for row in made["alarms"])
    assert any(row["p"] < row["p_holm"] for row in made["alarms"])
    assert all(g["p_worse_raw"] <= g["p_worse"] for p in made["pairs"] for g in p["gains"].values())


# ---- what an interval speaks of --------------------------------------------------------------------------------------
def test_every_interval_says_what_it_speaks_of(made):
    named = {key for names in made["speaks_of"] for key in names.split(", ")}
    assert named == {key for key in made["methods"][0] if key.endswith(("low", "high"))}
    row = next(m for m in made["methods"] if (m["over"], m["control"], m["data"]) == ("targets", "black", "scenes"))
    assert row["sources_low"] < row["value"] < row["sources_high"]
