"""Planted results: do intervals cover the true gain, does the alarm hold its rate? 1,000 simulated sweeps each.

Latent model: image i is answered right if level + image_i + seed_s + rest_si > 0, all normal, rest of variance 1; the
control has the image effect and a rest of its own. Then P(right) = Phi(level / sd of the sum), and gains are known.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm
from support.statistics_data import data_set

from experiments.statistics.averages import average, measure
from experiments.statistics.outcomes import DataSet, image_counts, weighted_auroc
from experiments.statistics.pairs import cell_test, judge, pair_gain
from experiments.statistics.two_way import priors, summary

pytestmark = pytest.mark.slow
DRAWS, SEEDS, N = 1000, 3, 256
IMAGE = 1.0  # sd of the image effect


def sd_of(seed_sd: float) -> float:
    return float(np.sqrt(IMAGE**2 + seed_sd**2 + 1))


def simulate(rng: np.random.Generator, seed_sd: float, gain: float, n: int = N, targets: int = 1) -> np.ndarray:
    """(n, targets, SEEDS + 1) outcomes, the last of a control that is right half of the time; true gain `gain`.

    A seed's effect is half the prompt's, on all targets, half its own on each.
    """
    level = norm.ppf(0.5 + gain) * sd_of(seed_sd)
    image = rng.normal(0, IMAGE, (n, targets, 1))
    seed = np.sqrt(0.5) * seed_sd * (rng.normal(size=(1, 1, SEEDS)) + rng.normal(size=(1, targets, SEEDS)))
    rest = rng.normal(size=(n, targets, SEEDS + 1))
    return np.concatenate([level + image + seed + rest[..., :-1], image + rest[..., -1:]], axis=2) > 0


def columns(target: int = 0) -> list[tuple[int, int]]:
    first = target * (SEEDS + 1)
    return [(first + seed, first + SEEDS) for seed in range(SEEDS)]


def coverage(rows: list[dict], truth: float) -> dict[str, float]:
    """Share of rows whose interval holds the truth: headline, over images alone, over seeds alone."""
    held = {"both": ("low", "high"), "images": ("images_low", "images_high"), "seeds": ("seeds_low", "seeds_high")}
    return {name: np.mean([row[a] <= truth <= row[b] for row in rows]) for name, (a, b) in held.items()}


@pytest.mark.parametrize("seed_sd, gain", [(0.0, 0.1), (0.1, 0.0), (0.3, 0.1), (0.6, -0.1)])
def test_the_headline_interval_covers_the_planted_gain(seed_sd, gain):
    rng = np.random.default_rng(11)
    rows = []
    for _ in range(DRAWS):
        rows.append(pair_gain(data_set(simulate(rng, seed_sd, gain)[:, 0], 200), columns()))
    found = coverage(rows, gain)
    print(f"\nseed sd {seed_sd}, gain {gain}: {found}, width {np.mean([r['high'] - r['low'] for r in rows]):.3f}")
    assert 0.93 <= found["both"] <= 0.985
    if seed_sd >= 0.3:
        assert found["images"] < 0.8  # why it is not the headline
    if seed_sd == 0:
        assert found["seeds"] < 0.9  # why t over seeds is not either


def test_the_average_over_pairs_and_data_sets_covers_the_planted_gain():
    rng, truth, targets, rows = np.random.default_rng(12), 0.05, 4, []
    pairs = {(name, "s", str(t)): dict(enumerate(columns(t))) for name in ("one", "two") for t in range(targets)}
    for _ in range(DRAWS):
        data = {
            name: data_set(simulate(rng, 0.2, truth, n, targets).reshape(n, -1), 200, name)
            for name, n in (("one", 128), ("two", 64))
        }
        rows.append(average(data, pairs))
    found = coverage(rows, truth)
    print(f"\naverage of 8 pairs: {found}")
    assert rows[0]["pairs"] == 8 and rows[0]["n"] == 192
    assert 0.93 <= found["both"] <= 0.985
    assert found["images"] < 0.85


def test_the_headline_interval_covers_a_planted_auroc():
    """margin = (2 + seed) * label + image + rest: AUROC = Phi(2 / sd of the difference of two margins)."""
    rng, n, seed_sd = np.random.default_rng(13), 128, 0.3
    truth, rows = float(norm.cdf(2 / np.sqrt(2 * IMAGE**2 + 2 + seed_sd**2))), []
    counts = image_counts("memes", n, 200)
    for _ in range(DRAWS):
        labels = np.arange(n) % 2
        lift = 2 + rng.normal(0, seed_sd, (1, SEEDS))
        margins = labels[:, None] * lift + rng.normal(0, IMAGE, (n, 1)) + rng.normal(size=(n, SEEDS))
        ranks = margins.argsort(0).argsort(0).T
        draws = np.stack([weighted_auroc(of, labels, counts) for of in ranks], 1)
        points = np.array([weighted_auroc(of, labels, np.ones((1, n)))[0] for of in ranks])
        data = DataSet("memes", "auroc", n, points, draws, None, {}, {})
        rows.append(summary(measure(data, np.arange(SEEDS)[:, None], None)))
    found = coverage(rows, truth)
    print(f"\nauroc {truth:.3f}: {found}")
    assert 0.93 <= found["both"] <= 0.985
    assert found["images"] < 0.93


# ---- the alarm -------------------------------------------------------------------------------------------------------
SOURCES, TARGETS, SMALL = 3, 3, 96
RATE = 0.05 + 3 * np.sqrt(0.05 * 0.95 / DRAWS)


def sweep(rng: np.random.Generator, seed_sd: float, gain_of_first: float = 0.0) -> list[tuple[str, DataSet]]:
    """One matrix: for each source its prompts on all targets. True gains are zero but that on target 0."""
    made = []
    for source in range(SOURCES):
        values = simulate(rng, seed_sd, 0.0, SMALL, TARGETS)
        values[:, :1] = simulate(rng, seed_sd, gain_of_first, SMALL, 1)
        made.append((str(source), data_set(values.reshape(SMALL, -1), 2)))
    return made


def cell_alarms(rng: np.random.Generator, **given: float) -> np.ndarray:
    """(sources, targets, seeds) alarms of cells."""
    rows = [
        {"method": "tvp", "gains": {"black": cell_test(data, *place)}}
        for _, data in sweep(rng, 0.0, **given)
        for target in range(TARGETS)
        for place in columns(target)
    ]
    return np.reshape([row["alarm"]["black"] for row in judge(rows)], (SOURCES, TARGETS, SEEDS))


def pair_alarms(rng: np.random.Generator, seed_sd: float, **given: float) -> np.ndarray:
    """(sources, targets) alarms of pairs."""
    made, rows = sweep(rng, seed_sd, **given), []
    places = [(source, data, columns(target)) for source, data in made for target in range(TARGETS)]
    known = priors([(s, float(d.points[[a for a, _ in at]].var(ddof=1)), SEEDS) for s, d, at in places], SMALL)
    for source, data, at in places:
        rows.append({"method": "tvp", "gains": {"black": pair_gain(data, at, known[source])}})
    return np.reshape([row["alarm"]["black"] for row in judge(rows)], (SOURCES, TARGETS))


def test_the_alarm_of_cells_is_silent_on_noise_at_the_stated_rate():
    rng = np.random.default_rng(14)
    rate = np.mean([cell_alarms(rng).any() for _ in range(DRAWS)])
    print(f"\ncells, noise: {rate:.3f} of sweeps with any alarm")
    assert rate <= RATE


@pytest.mark.parametrize("seed_sd", [0.05, 0.4])
def test_the_alarm_of_pairs_is_silent_on_noise_at_the_stated_rate(seed_sd):
    rng = np.random.default_rng(15)
    rate = np.mean([pair_alarms(rng, seed_sd).any() for _ in range(DRAWS)])
    print(f"\npairs, noise, seed sd {seed_sd}: {rate:.3f} of sweeps with any alarm")
    assert rate <= RATE


def test_the_alarm_fires_on_a_planted_regression_and_nowhere_else():
    """30 points worse on one of three targets, 96 images: found in nearly all cells, and in most pairs."""
    rng, times = np.random.default_rng(16), 60
    cells = np.stack([cell_alarms(rng, gain_of_first=-0.3) for _ in range(times)])
    pairs = np.stack([pair_alarms(rng, 0.15, gain_of_first=-0.3) for _ in range(times)])
    print(f"\npower: cells {cells[:, :, 0].mean():.3f}, pairs {pairs[:, :, 0].mean():.3f}")
    assert cells[:, :, 0].mean() > 0.9
    assert pairs[:, :, 0].mean() > 0.8
    assert cells[:, :, 1:].mean() < 0.005 and pairs[:, :, 1:].mean() < 0.01
