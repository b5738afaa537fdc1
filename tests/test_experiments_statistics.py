"""The pieces of experiments/statistics against scipy, statsmodels, lightning_modules and numbers made by hand."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats
from support.statistics_data import data_set, scores

from experiments.report import tables
from experiments.statistics import sharing
from experiments.statistics.averages import balanced, measure
from experiments.statistics.outcomes import image_counts, outcomes, weighted_auroc
from experiments.statistics.pairs import cell_gain
from experiments.statistics.sharing import STRONGEST_FIRST, shared
from experiments.statistics.significance import bootstrap_p, holm, mcnemar, sign_flip, worse
from experiments.statistics.two_way import (  # fmt: skip
    Measured,
    OnImages,
    Prior,
    VarianceParts,
    agreement,
    half_width,
    mean_of,
    one_source,
    over_sources,
    p_value,
    priors,
    satterthwaite,
    summary,
    variance_parts,
)
from lightning_modules.intervals import percentiles
from lightning_modules.metrics import Scores, auroc, paired_gain
from model_zoo.registry import get_entry, list_mllms


def outcomes_pair(gained: int, lost: int, same: int = 5) -> tuple[np.ndarray, np.ndarray]:
    after = np.array([1] * gained + [0] * lost + [1] * same)
    return after, np.array([0] * gained + [1] * lost + [1] * same)


@pytest.mark.parametrize("gained, lost", [(3, 12), (12, 3), (0, 0), (7, 7), (0, 9)])
def test_mcnemar_is_the_exact_binomial_test_of_what_changed(gained, lost):
    from scipy.stats import binomtest

    test = mcnemar(*outcomes_pair(gained, lost))
    assert (test["gained"], test["lost"]) == (gained, lost)
    expected = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert test["p"] == pytest.approx(expected, rel=1e-9)


def test_one_sided_mcnemar_asks_whether_it_got_worse():
    from scipy.stats import binomtest

    assert worse(3, 12) == pytest.approx(binomtest(3, 15, alternative="less").pvalue, rel=1e-9)
    assert worse(3, 12) < 0.05 < worse(12, 3)
    assert worse(0, 0) == 1.0


@pytest.mark.parametrize("gained, lost", [(3, 12), (12, 3), (0, 0), (7, 7), (0, 9), (80, 120)])
def test_the_sign_flip_test_of_single_rows_is_mcnemars(gained, lost):
    test, exact = sign_flip(np.array([1] * gained + [-1] * lost + [0] * 5)), mcnemar(*outcomes_pair(gained, lost))
    assert {key: test[key] for key in exact} == pytest.approx(exact)
    assert test["p_worse"] == pytest.approx(worse(gained, lost))


def test_the_sign_flip_test_counts_all_signs_of_the_units_sums():
    sums = np.array([5, -1, 3, 3, -2, 0, 1])
    totals = [np.dot(signs, sums) for signs in product((-1, 1), repeat=len(sums))]
    test = sign_flip(sums)
    assert test["p"] == pytest.approx(np.mean(np.abs(totals) >= sums.sum()))
    assert test["p_worse"] == pytest.approx(np.mean(totals <= sums.sum()))
    assert (test["gained"], test["lost"]) == (4, 2)


def test_holm_multiplies_by_what_is_left_and_never_falls():
    # sorted: 0.01 x 4, 0.02 x 3, 0.04 x 2 = 0.08, 0.05 x 1 -> not below the one before
    assert holm([0.04, 0.01, 0.05, 0.02]) == pytest.approx([0.08, 0.04, 0.08, 0.06])
    assert holm([0.01, None, 0.04]) == [pytest.approx(0.02), None, pytest.approx(0.04)]
    assert holm([None]) == [None]
    assert holm([]) == []


def test_holm_is_that_of_statsmodels():
    from statsmodels.stats.multitest import multipletests

    p_values = np.random.default_rng(7).random(50).round(2) ** 3  # with ties
    assert holm(list(p_values)) == pytest.approx(multipletests(p_values, method="holm")[1])


def test_a_gain_has_the_interval_of_the_older_paired_bootstrap():
    rng = np.random.default_rng(1)
    values = (rng.random((400, 2)) < [0.7, 0.6]).astype(float)
    gain = cell_gain(data_set(values, 4000), 0, 1)
    before = paired_gain("top1", scores(values[:, 0]), scores(values[:, 1]))
    assert gain["value"] == pytest.approx(before.value)
    assert [gain["low"], gain["high"]] == pytest.approx([before.low, before.high], abs=0.008)


def test_weighted_auroc_is_that_of_the_repeated_samples_ties_included():
    rng = np.random.default_rng(2)
    table = rng.integers(0, 4, (60, 2)).astype(np.float32)
    record = Scores([str(i) for i in range(60)], rng.integers(0, 2, 60), table, [""] * 60)
    counts = image_counts("any", 60, 20)
    expected = [auroc(record, np.repeat(np.arange(60), row.astype(int))) for row in counts]
    assert weighted_auroc(*outcomes("auroc", record), counts) == pytest.approx(expected, abs=1e-6)
    assert weighted_auroc(np.arange(3), np.ones(3, int), np.ones((1, 3))) == pytest.approx([0.5])


# ---- two ways --------------------------------------------------------------------------------------------------------
def table(seeds: int = 3, n: int = 40, seed: int = 0) -> np.ndarray:
    """(n, seeds) 0/1 outcomes with an effect of the image and one of the seed."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, 1)) + 0.4 * rng.normal(size=(1, seeds)) + rng.normal(size=(n, seeds)) > 0).astype(float)


def measured(values: np.ndarray) -> Measured:
    return measure(data_set(values), np.arange(values.shape[1])[:, None], None)


def test_the_variance_parts_are_the_mean_squares_of_the_two_way_table():
    values = table()
    n, seeds = values.shape
    rest = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
    squares = [
        n * values.mean(0).var(ddof=1),
        seeds * values.mean(1).var(ddof=1),
        (rest**2).sum() / (n - 1) / (seeds - 1),
    ]
    of = variance_parts(measured(values))
    assert [of.seeds, of.images, of.both] == pytest.approx(np.array(squares) / (n * seeds))
    assert (of.df_seeds, of.df_images) == (2, 39)


def test_covariances_of_draws_give_the_parts_where_samples_have_no_value():
    data = data_set(table(n=300), resamples=20_000)
    columns = np.arange(3)[:, None]
    exact = variance_parts(measure(data, columns, None))
    data.values = None  # as for auroc
    assert variance_parts(measure(data, columns, None)) == pytest.approx(exact, rel=0.05)


def test_the_interval_over_seeds_is_students():
    means = np.array([0.5, 0.56, 0.47])
    students = stats.t.interval(0.95, 2, loc=means.mean(), scale=stats.sem(means))
    got = summary(one_source(means, np.zeros((3, 3)), 50, np.zeros(9)))
    assert (got["seeds_low"], got["seeds_high"]) == pytest.approx(students)
    assert (got["low"], got["high"]) == pytest.approx(students)  # images without any variance


def test_half_widths_add_in_quadrature_and_never_fall_below_the_images():
    from scipy.stats import t

    images, seeds = t.isf(0.025, 99), t.isf(0.025, 2)
    assert half_width(parts_of(0.04, 0.09, 0.01), 0.05) == pytest.approx(np.sqrt(seeds**2 * 0.04 + images**2 * 0.08))
    assert half_width(parts_of(0.0, 0.09, 0.05), 0.05) == pytest.approx(images * 0.3)


def parts_of(seeds: float, images: float, both: float, df: float = 2):
    return VarianceParts(seeds, images, both, df, 99)


def test_p_is_the_level_at_which_the_interval_reaches_zero():
    for value in (0.1, -0.5, 3.0):
        of = parts_of(0.01, 0.02, 0.001)
        assert half_width(of, p_value(value, of)) == pytest.approx(abs(value), rel=1e-5)
    assert p_value(0.0, parts_of(0, 0, 0)) == 1.0
    assert p_value(0.5, parts_of(0, 0, 0)) < 1e-20  # a hundred images that all moved alike
    assert 0 < p_value(1e6, parts_of(0, 1e-9, 0, df=0)) < 1e-99


def test_a_single_seed_has_the_interval_over_images_and_says_so():
    one = summary(measured(table(seeds=1)))
    assert one["interval"] == "images"
    assert (one["low"], one["high"]) == (one["images_low"], one["images_high"])
    assert one["seeds_low"] is one["seeds_high"] is one["sd_seeds"] is None
    assert summary(measured(table()))["interval"] == "images and seeds"


def test_data_sets_are_independent_images_and_their_prompts_are_independent_too():
    one, two = measured(table(seed=1)), measured(table(n=80, seed=2))
    both = mean_of([one, two])
    assert both.value == pytest.approx((one.value + two.value) / 2)
    parts = [variance_parts(of) for of in (one, two, both)]
    assert parts[2].images == pytest.approx((parts[0].images + parts[1].images) / 4)
    assert parts[2].seeds == pytest.approx((parts[0].seeds + parts[1].seeds) / 4)
    assert parts[2].both == pytest.approx((parts[0].both + parts[1].both) / 4)
    assert parts[2].df_seeds == pytest.approx(satterthwaite(np.array([of.seeds for of in parts[:2]]), 2))


# ---- several sources -------------------------------------------------------------------------------------------------
def two_sources(means: np.ndarray, covariance: float = 0.0) -> Measured:
    """Equal weights; every result varies over the images by itself with this variance."""
    of = OnImages(means, np.array([0.5, 0.5]), covariance * np.eye(means.size), 100, ("a", "b"))
    return Measured((of,), np.zeros(9))


def test_seeds_of_different_sources_are_no_blocks():
    """Seed by seed these cancel: as blocks the average would have no variance at all."""
    means = np.array([[0.4, 0.5, 0.6], [0.6, 0.5, 0.4]])
    of = variance_parts(two_sources(means))
    assert of.seeds == pytest.approx((0.01 / 3 + 0.01 / 3) / 4)
    assert of.df_seeds == pytest.approx(4)
    assert summary(two_sources(means))["low"] < 0.45 < 0.55 < summary(two_sources(means))["high"]
    assert summary(two_sources(means))["sd_seeds"] == pytest.approx(0.1)


def test_a_source_whose_seeds_vary_most_gives_the_degrees_of_freedom():
    assert satterthwaite(np.array([1.0, 1.0, 1.0]), 2) == pytest.approx(6)
    assert satterthwaite(np.array([1.0, 0.0, 0.0]), 2) == pytest.approx(2)
    assert satterthwaite(np.zeros(3), 2) == 6


def test_the_interval_over_sources_is_students_over_their_means():
    means = np.array([[0.3, 0.4, 0.5], [0.6, 0.7, 0.8]])
    got = over_sources(two_sources(means))
    students = stats.t.interval(0.95, 1, loc=0.55, scale=stats.sem([0.4, 0.7]))
    assert (got["sources_low"], got["sources_high"]) == pytest.approx(students)
    assert over_sources(measured(table()))["sources_low"] is None  # one source says nothing of others


def test_what_seeds_and_images_both_hold_is_counted_once_a_source():
    of = variance_parts(two_sources(np.array([[0.3, 0.4, 0.5], [0.6, 0.7, 0.8]]), 0.06))
    assert of.images == pytest.approx(0.06 / 6)
    assert of.both == pytest.approx(2 * 0.25 * 0.06 / 3)


def test_rows_of_one_image_are_one_value_of_the_images_variance():
    values = table(n=60)
    units = np.repeat(np.arange(20), 3)
    of, plain = (measure(data_set(values, units=given), np.arange(3)[:, None], None) for given in (units, None))
    expected = np.cov(values.reshape(20, 3, 3).mean(1), rowvar=False) / 20
    assert of.sets[0].covariance == pytest.approx(expected)
    assert (of.sets[0].n, plain.sets[0].n) == (20, 60)
    assert of.value == pytest.approx(plain.value)


def test_identical_seeds_are_as_good_as_one():
    values = np.repeat(table(seeds=1, n=200), 3, axis=1)
    alike, one = summary(measured(values)), summary(measured(values[:, :1]))
    assert alike["sd_seeds"] == 0
    assert [alike["low"], alike["high"]] == pytest.approx([one["low"], one["high"]], abs=0.01)


def test_the_images_interval_is_that_of_the_mean_over_seeds():
    values = table()
    drawn = image_counts("scenes", 40, 1000) @ values.mean(1) / 40
    got = summary(measured(values))
    assert (got["images_low"], got["images_high"]) == pytest.approx(percentiles(drawn))


def test_bootstrap_p_is_two_sided_and_one_for_no_change():
    draws = np.random.default_rng(0).normal(0.1, 0.05, 5000)
    assert bootstrap_p(0.1, draws) == pytest.approx(0.0455, abs=0.01)
    assert bootstrap_p(-0.1, draws) == bootstrap_p(0.1, draws)
    assert bootstrap_p(0.0, np.zeros(9)) == 1.0
    assert bootstrap_p(0.3, np.zeros(9)) < 1.0


# ---- seeds of other sources ------------------------------------------------------------------------------------------
def test_pairs_learn_from_other_sources_only():
    known = priors([("a", 9.0, 3), ("a", 9.0, 3), ("b", 1.0, 3), ("b", 1.0, 3), ("c", 4.0, 3), ("c", 4.0, 3)], 100)
    assert known["a"].variance == pytest.approx(2.5)
    assert known["b"].variance == pytest.approx(6.5)
    assert known["a"].df <= 2  # half of what the seeds of two sources have


def test_no_other_source_no_prior():
    assert priors([("a", 1.0, 3)] * 5, 100)["a"].df == 0
    assert priors([("a", 1.0, 3), ("b", 1.0, 1), ("c", 1.0, 1)], 100)["a"].df == 0


@pytest.mark.parametrize("d0", [4.0, 20.0])
def test_agreement_finds_the_degrees_of_freedom_variances_were_drawn_with(d0):
    rng = np.random.default_rng(3)
    true = d0 / rng.chisquare(d0, 40_000)
    assert agreement(true * rng.chisquare(2, 40_000) / 2, np.full(40_000, 2)) == pytest.approx(d0, rel=0.2)


def test_equal_variances_are_trusted_and_wild_ones_are_not():
    rng = np.random.default_rng(4)
    noise = rng.chisquare(4, 500) / 4
    assert agreement(noise, np.full(500, 4)) > 10
    assert agreement(noise * 10 ** rng.normal(0, 2, 500), np.full(500, 4)) < 0.5


def test_a_prior_moves_the_variance_and_adds_degrees_of_freedom():
    of = variance_parts(one_source(np.array([0.0, 2.0]), np.zeros((2, 2)), 10, np.zeros(3)), Prior(5.0, 3.0))
    assert (of.seeds, of.df_seeds) == (pytest.approx((1 * 2.0 + 3 * 5.0) / 4 / 2), 4)


# ---- pairs and seeds -------------------------------------------------------------------------------------------------
def test_a_missing_run_costs_a_seed_and_no_pair():
    a, b, c = (("d", "s", name) for name in "abc")
    assert balanced({a: [0, 1, 2], b: [0, 2]}) == ([a, b], [0, 2])
    assert balanced({a: [0, 1, 2], b: [3], c: [1, 2]}) == ([a, c], [1, 2])


# ---- what is shared --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "source, target, expected",
    [
        ("minigpt4", "minigpt4", "same model"),
        ("blip2", "blip2_t5", "same model"),
        ("minigpt4", "instructblip", "same tower weights"),
        ("blip2_opt", "blip2_opt_6_7b", "same tower weights and architecture"),
        ("minigpt4", "visualglm", "other tower of the same kind"),
        ("embedded_minigpt4", "embedded_instructblip", "same tower weights"),
        ("embedded_minigpt4", "embedded_llava", "tower of another kind"),
        ("embedded_minigpt4", "minigpt4", "same architecture, other tower of the same kind"),
        ("embedded_minigpt4", "instructblip", "other tower of the same kind"),
        ("embedded_llava", "lite1_llava", "same architecture, other tower of the same kind"),
        ("lite2_minigpt4", "embedded_minigpt4", "same architecture, tower of another kind"),
        ("lite0_llava", "lite0_llava_grown", "same tower, connector grown from that of the source"),
        ("lite0_llava_grown", "lite0_llava", "same tower, connectors of one origin"),
        ("lite0_llava_grown", "lite0_minigpt4", "same tower weights"),
        ("lite1_llava+lite0_llava", "lite0_llava_grown", "same tower, connector grown from that of the source"),
        ("embedded_llava+embedded_minigpt4", "embedded_minigpt4", "same model"),
        ("embedded_llava+embedded_minigpt4", "embedded_blip2", "same tower weights"),
        ("internvl3_8b", "qwen2_5_vl_7b", "same language model, other tower"),
        ("hf:Qwen/Qwen2.5-VL-7B-Instruct", "internvl3_8b", "same language model, other tower"),
        ("llava_onevision_7b", "smolvlm2_2_2b", "same tower weights"),
        ("internvl3_8b", "internvl3_1b", "same tower weights and architecture"),
        ("internvl3_8b", "llava_onevision_7b", "other tower of the same kind"),
        ("internvl3_8b", "minigpt4", "other tower of the same kind"),
        ("my_own", "my_own", "same model"),
        ("my_own", "minigpt4", "nothing"),
    ],
)
def test_shared_is_read_from_the_zoo(source, target, expected):
    assert shared(source, target) == expected


def test_the_kind_of_every_embedded_tower_is_known():
    names = [name for name in list_mllms() if get_entry(name).embedded]
    assert {name: sharing.facts(name).kind for name in names} == {
        name: "CNN" if name.startswith("lite") or "llava" in name else "ViT" for name in names
    }


def test_every_shared_word_has_its_place_and_a_table_keeps_the_strongest_first():
    assert {*sharing.OTHER_TOWER.values()} < set(STRONGEST_FIRST)
    gain = {"value": 0.1, "low": 0.0, "high": 0.2, "interval": "t", "n": 9, "pairs": 1, "seeds": 1}
    # "nothing" and "same architecture" are also what an older statistics.json says; a word of another version is kept.
    words = ["of another version", "nothing", "same tower weights", "tower of another kind", "same architecture"]
    rows = [{"method": "evp", "shared": word, "control": "full"} | gain for word in words]
    table = tables.shared({"shared": rows, "controls": ["full"]})
    assert [row[0] for row in table.rows] == [f"evp, {words[i]}" for i in (2, 4, 3, 1, 0)]
