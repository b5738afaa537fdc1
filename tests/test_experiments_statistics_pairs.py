"""`analyse` and `write_statistics` as a whole: schema, what is left out, what is missing, the same bytes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from support.statistics_data import matrix, record, scores

from experiments.statistics import alarms, analyse, shared, write_statistics
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
    assert {tag: row["pairs"] for tag, row in rows.items()} == {"same tower weights": 2, "nothing": 4}
    assert rows["same tower weights"]["value"] > 0 > rows["nothing"]["value"]
    assert made["pairs"][0]["shared"] == shared(made["pairs"][0]["source"], made["pairs"][0]["target"])


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
