"""One row for every prompt on every model (cells), and for every source and target over the seeds (pairs)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from experiments.statistics.averages import measure
from experiments.statistics.outcomes import DataSet, PromptKey, prompts_of
from experiments.statistics.sharing import shared
from experiments.statistics.significance import bootstrap_p, holm, mcnemar, sign_flip, worse
from experiments.statistics.two_way import NO_PRIOR, Prior, half_width, one_sided, priors, summary, variance_parts
from lightning_modules.intervals import percentiles, unit_sums
from lightning_modules.metrics import PAIRED, PAIRED_UNITS, proportion
from lightning_modules.vocabulary import CONTROLS

INPUTS = ("png", *CONTROLS)
LEARNED_NOTHING = "none"
"""A method without a learned prompt: what it gains compares controls only, and no claim about a prompt rests on it."""
ALPHA = 0.05


def cell_rows(data: Mapping[str, DataSet]) -> list[dict]:
    """Every prompt on every model: scores, gains over controls, Holm and alarm across the matrix per control."""
    scores = {name: [_score(of, k) for k in range(len(of.points))] for name, of in data.items()}
    rows = []
    for name, key in prompts_of(data):
        of, given = data[name], data[name].columns[key]
        inputs = {i: scores[name][given[i]] for i in INPUTS if i in given}
        gains = {c: cell_gain(of, given["prompt"], given[c]) for c in CONTROLS if c in given}
        rows.append(_head(of, key) | {"n": of.n, "metric": of.metric} | scores[name][given["prompt"]]
                    | {"inputs": inputs, "gains": gains})  # fmt: skip
    return judge(rows)


def _head(data: DataSet, key: PromptKey) -> dict:
    source, target, method, seed = key
    return {"source": source, "target": target, "data": data.name, "method": method, "seed": seed,
            "role": data.roles[key], "shared": shared(source, target)}  # fmt: skip


def _score(data: DataSet, column: int) -> dict:
    """Value with Wilson interval, or bootstrap for auroc; over units where rows are not independent."""
    value, of_units = float(data.points[column]), "" if data.units is None else " over units"
    if data.values is None:
        low, high = percentiles(data.draws[:, column])
        return {"value": value, "low": low, "high": high, "interval": f"bootstrap{of_units}"}
    share = proportion(data.values[:, column].astype(np.float64), data.units)
    return {"value": value, "low": share.low, "high": share.high, "interval": share.interval}


def cell_gain(data: DataSet, prompt: int, control: int) -> dict:
    """Prompted minus control on the same samples: paired bootstrap interval and tests, see `cell_test`."""
    low, high = percentiles(data.draws[:, prompt] - data.draws[:, control])
    value = float(data.points[prompt] - data.points[control])
    kind = PAIRED if data.units is None else PAIRED_UNITS
    gain = {"value": value, "low": low, "high": high, "interval": kind, "n": data.n}
    return gain | cell_test(data, prompt, control)


def cell_test(data: DataSet, prompt: int, control: int) -> dict:
    """Exact McNemar (None for auroc, which has no outcome per sample), two-sided p, and `p_worse` for "it lost".

    Where several rows are about one image, the sign-flip test on the images' sums takes McNemar's place.
    """
    if data.values is None:
        value = float(data.points[prompt] - data.points[control])
        p = bootstrap_p(value, data.draws[:, prompt] - data.draws[:, control])
        return {"mcnemar": None, "p": p, "p_worse": one_sided(p, value)}
    if data.units is not None:
        moved = data.values[:, prompt].astype(np.int64) - data.values[:, control].astype(np.int64)
        test = sign_flip(unit_sums(moved, data.units))
        of_units = {key: test[key] for key in ("gained", "lost", "p")}
        return {"mcnemar": None, "sign_flip": of_units, "p": test["p"], "p_worse": test["p_worse"]}
    test = mcnemar(data.values[:, prompt], data.values[:, control])
    return {"mcnemar": test, "p": test["p"], "p_worse": worse(test["gained"], test["lost"])}


def pair_rows(data: Mapping[str, DataSet]) -> list[dict]:
    """Every source and target: the mean over seeds, its gains, Holm and alarm across the matrix per control."""
    groups: dict[tuple[str, str], dict[tuple[str, str], list[int]]] = {}
    for name, (source, target, method, seed) in prompts_of(data):
        groups.setdefault((name, method), {}).setdefault((source, target), []).append(seed)
    family = Counter(  # control -> pairs in its family, see `judge`
        control
        for (name, method), pairs in groups.items()
        for pair, seeds in pairs.items()
        for control in CONTROLS
        if method != LEARNED_NOTHING and any(control in data[name].columns[*pair, method, seed] for seed in seeds)
    )
    made = [_group(data[name], method, pairs, family) for (name, method), pairs in sorted(groups.items())]
    return judge([row for rows in made for row in rows])


def _group(
    data: DataSet, method: str, pairs: Mapping[tuple[str, str], list[int]], family: Mapping[str, int]
) -> list[dict]:
    """The pairs of one data set and method; each is told how results vary over the seeds of the others."""
    found = {
        pair: {seed: data.columns[*pair, method, seed] for seed in sorted(seeds)}
        for pair, seeds in sorted(pairs.items())
    }
    variances = [
        (source, _seed_variance(data, given), len(given)) for (source, _), given in found.items() if len(given) > 1
    ]
    known = priors(variances, data.n) if method != LEARNED_NOTHING else {}
    family = family if method != LEARNED_NOTHING else {}
    return [_pair(data, pair, method, given, known.get(pair[0], NO_PRIOR), family) for pair, given in found.items()]


def _seed_variance(data: DataSet, given: Mapping[int, Mapping[str, int]]) -> float:
    """Of prompted scores; that of a gain is the same, a control having no seed."""
    return float(data.points[[of["prompt"] for of in given.values()]].var(ddof=1))


def _pair(
    data: DataSet,
    pair: tuple[str, str],
    method: str,
    given: Mapping[int, Mapping[str, int]],
    prior: Prior,
    family: Mapping[str, int],
) -> dict:
    head = _head(data, (*pair, method, next(iter(given))))
    del head["seed"]
    score = pair_score(data, [of["prompt"] for of in given.values()], prior)
    gains = {}
    for control in CONTROLS:
        columns = [(of["prompt"], of[control]) for of in given.values() if control in of]
        if columns:
            gains[control] = pair_gain(data, columns, prior)
            if control in family:
                gains[control]["smallest_alarm"] = smallest_alarm(data, columns, prior, ALPHA / family[control])
    return head | {"seeds": list(given), "n": data.n, "metric": data.metric} | score | {"gains": gains}


def pair_score(data: DataSet, columns: list[int], prior: Prior = NO_PRIOR) -> dict:
    """Mean prompted score over seeds; one seed has the interval of its cell."""
    if len(columns) == 1:
        return _score(data, columns[0]) | {"interval": "images", "sd_seeds": None}
    numbers = summary(measure(data, np.array(columns)[:, None], None), prior)
    numbers |= {"low": max(numbers["low"], 0.0), "high": min(numbers["high"], 1.0)}
    return {key: numbers[key] for key in ("value", "low", "high", "interval", "sd_seeds")}


def pair_gain(data: DataSet, columns: list[tuple[int, int]], prior: Prior = NO_PRIOR) -> dict:
    """Mean gain over seeds, see `two_way.summary`; one seed has the test of its cell."""
    plus, minus = (np.array(of)[:, None] for of in zip(*columns, strict=True))
    numbers = summary(measure(data, plus, minus), prior)
    below = one_sided(numbers["p"], numbers["value"])
    if len(columns) == 1:
        cell = cell_test(data, *columns[0])
        numbers["p"], below = cell["p"], cell["p_worse"]
    return numbers | {"p_worse": below}


def smallest_alarm(data: DataSet, columns: list[tuple[int, int]], prior: Prior, alpha: float) -> float | None:
    """The smallest loss of a pair that would have raised an alarm, the spread being what it is; None where none could.

    alpha: one-sided, after the correction for all pairs of the matrix, as for a pair that loses alone. With one seed
    about that of the exact test, and no less than if a row lost for every row that it needs at least.
    """
    plus, minus = (np.array(of)[:, None] for of in zip(*columns, strict=True))
    loss = half_width(variance_parts(measure(data, plus, minus), prior), 2 * alpha)
    if len(columns) == 1:
        loss = max(loss, np.ceil(-np.log2(alpha)) / data.n)
    return float(loss) if loss <= 1 else None


def judge(rows: list[dict]) -> list[dict]:
    """Add `p_holm` (two-sided, Holm over all rows) to every gain, and the alarm to every row, for each control.

    An alarm says: worse than the control, one-sided, at 5 % familywise over the matrix; `p_worse` becomes its Holm
    adjusted p-value, and the raw one is kept as `p_worse_raw`. Rows of a method that learned nothing are no part of the
    family: their comparisons with black are trivial, the others compare two controls and are the same for every source
    and seed.
    """
    for row in rows:
        row["alarm"] = {}
    for control in CONTROLS:
        found = [(row, row["gains"][control]) for row in rows if control in row["gains"]]
        family = [gain if row["method"] != LEARNED_NOTHING else {} for row, gain in found]
        two, one = (holm([gain.get(key) for gain in family]) for key in ("p", "p_worse"))
        for (row, gain), p_two, p_one in zip(found, two, one, strict=True):
            gain |= {"p_holm": p_two, "p_worse": p_one, "p_worse_raw": gain["p_worse"]}
            row["alarm"][control] = p_one is not None and p_one <= ALPHA
    return rows
