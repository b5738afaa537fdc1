"""Do 95 % intervals hold the truth where questions share pictures, and where every (source, seed) is its own prompt?

Latent model: row r of picture u is answered right if level + picture_u + row_r + seed + rest > 0, all normal, rest of
variance 1; the control shares picture and row. Then P(right) = Phi(level / sd of the sum), so gains are known. Each
property is simulated 1,000 times among the slow tests, and with fewer draws and wider bounds among the quick ones.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from scipy.stats import norm
from support.statistics_data import data_set

from experiments.statistics.averages import average
from experiments.statistics.outcomes import row_counts, weighted_auroc
from experiments.statistics.pairs import pair_gain
from experiments.statistics.significance import mcnemar, sign_flip
from lightning_modules.intervals import percentiles, unit_sums
from lightning_modules.metrics import Scores, estimate, group_places, mean_estimate, paired_gain

DRAWS = 1000
TIMES = [pytest.param(150, id="quick"), pytest.param(DRAWS, marks=pytest.mark.slow, id="1000")]
PICTURES, QUESTIONS = 120, 9
PICTURE, ROW = 1.0, 0.5
TYPES = ("adversarial", "popular", "random")


def within(rate: float, times: int, low: float = 0.93, high: float = 0.97) -> bool:
    """In the stated range; with fewer draws as far outside as chance explains (three standard errors)."""
    room = 0.0 if times == DRAWS else 3 * np.sqrt(0.05 * 0.95 / times)
    return low - room <= rate <= high + room


def holds(row: Mapping, truth: float, over: str = "") -> bool:
    return row[f"{over}low"] <= truth <= row[f"{over}high"]


# ---- several questions a picture -------------------------------------------------------------------------------------
UNITS = np.repeat(np.arange(PICTURES), QUESTIONS)


def asked(rng: np.random.Generator, gain: float, seeds: int = 1, seed_sd: float = 0.0) -> np.ndarray:
    """(rows, seeds + 1) right answers with each prompt, and last with the control, right half of the time.

    What the prompt changes depends on the picture too: else a gain would not be a matter of pictures.
    """
    own = np.sqrt(PICTURE**2 + ROW**2 + 1 + 1 + seed_sd**2)
    level = norm.ppf(0.5 + gain) * own
    shared = rng.normal(0, PICTURE, PICTURES)[UNITS] + rng.normal(0, ROW, len(UNITS))
    moved = rng.normal(0, 1, PICTURES)[UNITS][:, None] + rng.normal(0, seed_sd, (1, seeds))
    prompted = level + shared[:, None] + moved + rng.normal(size=(len(UNITS), seeds))
    return np.concatenate([prompted, (shared + rng.normal(size=len(UNITS)))[:, None]], axis=1) > 0


def scored(right: np.ndarray, units: bool = True) -> Scores:
    """A yes/no record; questions alternate between yes and no, and between POPE's types."""
    n = len(right)
    labels = np.arange(n) % 2
    table = np.zeros((n, 2), np.float32)
    table[np.arange(n), np.where(right, labels, 1 - labels)] = 1
    names = [f"picture {u}" for u in UNITS] if units else ()
    return Scores([f"{i:05d}" for i in range(n)], labels, table, [TYPES[i % 3] for i in range(n)], names)


@pytest.mark.parametrize("times", TIMES)
def test_intervals_of_a_run_hold_the_truth_where_questions_share_pictures(times):
    """Score, gain and mean of POPE's types; taking each question for independent, as was done, does not."""
    rng, gain = np.random.default_rng(21), 0.05
    score = 0.5 + gain
    held = {"score": 0, "gain": 0, "score of rows": 0, "gain of rows": 0}
    for _ in range(times):
        right = asked(rng, gain)
        for name, units in (("", True), (" of rows", False)):
            after, before = (scored(right[:, k], units) for k in (0, 1))
            held[f"score{name}"] += holds(estimate("accuracy", after)._asdict(), score)
            held[f"gain{name}"] += holds(paired_gain("accuracy", after, before)._asdict(), gain)
    rates = {name: count / times for name, count in held.items()}
    print(f"\n{rates}")
    assert within(rates["score"], times) and within(rates["gain"], times)
    assert rates["score of rows"] < 0.8 and rates["gain of rows"] < 0.85


@pytest.mark.parametrize("times", TIMES)
def test_means_over_types_that_share_pictures_hold_the_truth(times):
    rng, held = np.random.default_rng(22), {"accuracy": 0, "recall": 0}
    for _ in range(times):
        record = scored(asked(rng, 0.1)[:, 0])
        parts = [(record.take(at), None) for name, at in group_places(record.groups).items() if name]
        for metric in held:  # right as often for yes as for no, so recall is accuracy
            held[metric] += holds(mean_estimate(metric, parts)._asdict(), 0.6)
    rates = {name: count / times for name, count in held.items()}
    print(f"\n{rates}")
    assert all(within(rate, times) for rate in rates.values())


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("times", TIMES)
def test_gains_of_a_sweep_hold_the_truth_where_questions_share_pictures(times, seeds):
    """One seed: the interval over images; three: over images and seeds, where MOVER is a little wide."""
    rng, gain, held = np.random.default_rng(23), -0.05, 0
    sd = 0.3 if seeds > 1 else 0.0
    for _ in range(times):
        data = data_set(asked(rng, gain, seeds, sd), 500, units=UNITS)
        row = pair_gain(data, [(seed, seeds) for seed in range(seeds)])
        held += holds(row, gain)
    print(f"\n{seeds} seeds: {held / times}")
    assert within(held / times, times)


@pytest.mark.parametrize("times", TIMES)
def test_an_auroc_holds_the_truth_where_questions_share_pictures(times):
    """margin = 1.5 label + picture + rest. Pairs within a picture are few, so AUROC = Phi(1.5 / sd of a difference)."""
    rng, held, of_rows = np.random.default_rng(27), 0, 0
    pictures = np.repeat(np.arange(80), 4)
    labels, truth = pictures % 2, float(norm.cdf(1.5 / np.sqrt(2 * 1.5**2 + 2)))
    counts = [row_counts("memes", len(labels), units, 300) for units in (pictures, None)]
    for _ in range(times):
        margins = 1.5 * labels + rng.normal(0, 1.5, 80)[pictures] + rng.normal(size=len(labels))
        ranks = margins.argsort().argsort()
        by_pictures, by_rows = (percentiles(weighted_auroc(ranks, labels, of)) for of in counts)
        held += by_pictures[0] <= truth <= by_pictures[1]
        of_rows += by_rows[0] <= truth <= by_rows[1]
    print(f"\nauroc: {held / times} by pictures, {of_rows / times} by questions")
    assert within(held / times, times) and of_rows / times < 0.8


@pytest.mark.parametrize("times", TIMES)
def test_the_sign_flip_test_keeps_its_level_where_mcnemar_does_not(times):
    rng, alarms, wrong = np.random.default_rng(24), 0, 0
    for _ in range(times):
        after, before = asked(rng, 0.0).astype(int).T
        alarms += sign_flip(unit_sums(after - before, UNITS))["p"] <= 0.05
        wrong += mcnemar(after, before)["p"] <= 0.05
    print(f"\nfalse alarms: {alarms / times} by pictures, {wrong / times} by questions")
    assert within(1 - alarms / times, times)
    assert wrong / times > 0.15


# ---- every (source, seed) a prompt of its own ------------------------------------------------------------------------
SOURCES, TARGETS, SEEDS, IMAGES = 5, 4, 3, 128
SPREADS = {"alike": [0.4] * SOURCES, "unlike": [0.1, 0.1, 0.3, 0.3, 0.8]}
LEVELS = np.array([-0.4, 0.0, 0.3, 0.5, 0.9])
"""The sources differ, and stay what they are: their mean is the truth of an average."""


def prompts(rng: np.random.Generator, spread: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """(images, sources, targets, seeds + 1) right answers; a seed's effect is on all targets of its source alone."""
    image = rng.normal(size=(IMAGES, 1, 1, 1))
    seed = spread[:, None, None] * rng.normal(size=(SOURCES, 1, SEEDS))
    prompted = levels[:, None, None] + image + seed + rng.normal(size=(IMAGES, SOURCES, TARGETS, SEEDS))
    control = image + rng.normal(size=(IMAGES, SOURCES, TARGETS, 1))
    return np.concatenate([prompted, control], axis=3) > 0


def columns(names: tuple[str, ...]) -> dict:
    """Pair -> seed -> its column and its control's, of every data set."""
    every = np.arange(SOURCES * TARGETS * (SEEDS + 1)).reshape(SOURCES, TARGETS, SEEDS + 1)
    return {
        (name, f"s{s}", f"t{t}"): {seed: (every[s, t, seed], every[s, t, SEEDS]) for seed in range(SEEDS)}
        for name in names
        for s in range(SOURCES)
        for t in range(TARGETS)
    }


def averages(rng: np.random.Generator, spread: np.ndarray, levels: np.ndarray, names: tuple[str, ...]) -> dict:
    made = {name: data_set(prompts(rng, spread, levels).reshape(IMAGES, -1), 100, name) for name in names}
    return average(made, columns(names))


@pytest.mark.parametrize("names", [("one",), ("one", "two")], ids=["one set", "two sets"])
@pytest.mark.parametrize("kind", list(SPREADS))
@pytest.mark.parametrize("times", TIMES)
def test_averages_over_sources_hold_the_truth_of_these_sources(times, kind, names):
    rng, spread = np.random.default_rng(25), np.array(SPREADS[kind])
    truth = float(np.mean(norm.cdf(LEVELS / np.sqrt(2 + spread**2)) - 0.5))
    rows = [averages(rng, spread, LEVELS, names) for _ in range(times)]
    held = np.mean([holds(row, truth) for row in rows])
    seeds = np.mean([holds(row, truth, "seeds_") for row in rows])
    width = np.mean([row["high"] - row["low"] for row in rows])
    print(f"\n{kind}, {len(names)} sets: {held}, width {width:.4f}; over seeds alone {seeds}")
    assert within(held, times)


@pytest.mark.parametrize("times", TIMES)
def test_the_interval_over_sources_holds_the_truth_of_other_sources(times):
    """The one over these sources does not: it never claimed to."""
    rng, spread, sd = np.random.default_rng(26), np.full(SOURCES, 0.3), 0.6
    truth = float(norm.cdf(0.3 / np.sqrt(2 + 0.3**2 + sd**2)) - 0.5)
    rows = [averages(rng, spread, rng.normal(0.3, sd, SOURCES), ("one",)) for _ in range(times)]
    held = np.mean([holds(row, truth, "sources_") for row in rows])
    these = np.mean([holds(row, truth) for row in rows])
    print(f"\nother sources: {held}; these sources: {these}")
    assert within(held, times) and these < 0.8
