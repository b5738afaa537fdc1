"""The committed comparison of methods: from finished runs to one JSON, and from that JSON to the tables people read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.run.folder import run_roles, run_scores
from lightning_modules.controls import CONTROLS
from lightning_modules.intervals import mean_interval, t_interval
from lightning_modules.metrics import Scores, estimate, per_sample

METHODS = ("none", "vp", "evp", "tvp")


def compare(folders: Mapping[tuple[str, int], Path], metric: str) -> dict:
    """(method, seed) -> run folder, to a plain dictionary of scores, gains and differences.

    Intervals of gains and differences are paired bootstraps over test images of the mean over seeds (the seeds held
    fixed); the spread over seeds stands beside them as sd and as a t interval.
    """
    records = {key: run_scores(folder) for key, folder in folders.items()}
    roles = dict(run_roles(next(iter(folders.values()))))
    first = next(iter(records.values()))
    result: dict = {"metric": metric, "roles": roles, "n": {}, "controls": {}, "methods": {}, "runs": []}
    for name, of_input in first.items():
        result["n"][name] = len(of_input["prompt"].ids)
        result["controls"][name] = {c: _short(estimate(metric, of_input[c])) for c in CONTROLS if c in of_input}
    for method in dict.fromkeys(method for method, _ in records):
        seeds = {seed: record for (m, seed), record in records.items() if m == method}
        result["methods"][method] = {name: _model_summary(metric, name, seeds) for name in first}
    result["differences"] = _differences(metric, records, roles)
    for (method, seed), record in records.items():
        scores = {name: _prompted(metric, of_input) for name, of_input in record.items()}
        result["runs"].append({"method": method, "seed": seed, "run": folders[method, seed].name, "scores": scores})
    return result


def _prompted(metric: str, of_input: Mapping[str, Scores]) -> dict:
    return {given: _short(estimate(metric, s)) for given, s in of_input.items() if given not in CONTROLS}


def _model_summary(metric: str, name: str, seeds: Mapping[int, Mapping[str, Mapping[str, Scores]]]) -> dict:
    prompted = np.stack([per_sample(metric, record[name]["prompt"]) for record in seeds.values()])  # (seeds, N)
    summary = {"prompted": _over_seeds(prompted)}
    for control in CONTROLS:
        base = [record[name][control] for record in seeds.values() if control in record[name]]
        if base:
            summary[f"gain_{control}"] = _over_seeds(prompted - per_sample(metric, base[0]))
    return summary


def _over_seeds(values: np.ndarray) -> dict:
    """(seeds, N) per-sample values -> mean, bootstrap interval over samples, spread over seeds."""
    low, high = mean_interval(values.mean(0))
    means = values.mean(1)
    sd = float(means.std(ddof=1)) if len(means) > 1 else 0.0
    seed_low, seed_high = t_interval(means)
    numbers = {"value": float(means.mean()), "low": low, "high": high, "sd_seeds": sd}
    numbers |= {"seed_low": seed_low, "seed_high": seed_high}
    return {key: round(value, 6) for key, value in numbers.items()} | {"seeds": len(means), "n": values.shape[1]}


def _differences(metric: str, records: Mapping, roles: Mapping[str, str]) -> dict:
    """Paired TVP - EVP and TVP - VP: on each model, and on the mean over the unseen targets."""
    methods = {method for method, _ in records}
    result: dict = {}
    for other in ("evp", "vp"):
        if not {"tvp", other} <= methods:
            continue
        per_model = {
            name: _stack(metric, records, "tvp", name) - _stack(metric, records, other, name) for name in roles
        }
        result[f"tvp-{other}"] = {name: _over_seeds(values) for name, values in per_model.items()}
        unseen = [values for name, values in per_model.items() if roles[name] != "source"]
        if unseen:
            result[f"tvp-{other}"]["mean_targets"] = _over_seeds(np.mean(unseen, axis=0))
    return result


def _stack(metric: str, records: Mapping, method: str, name: str) -> np.ndarray:
    return np.stack([per_sample(metric, record[name]["prompt"]) for (m, _), record in records.items() if m == method])


def _short(value: object) -> dict:
    return {key: round(v, 6) if isinstance(v, float) else v for key, v in value._asdict().items()}


# ---- tables ----------------------------------------------------------------------------------------------------------
def controls_table(data: Mapping) -> str:
    """Every model without any prompt: the four controls."""
    from experiments.run.summary import NAMES, markdown

    rows = []
    for name, controls in data["controls"].items():
        cells = [f"{100 * c['value']:.1f} [{100 * c['low']:.1f}, {100 * c['high']:.1f}]" for c in controls.values()]
        rows.append([f"{name} ({data['roles'][name]})", str(data["n"][name]), *cells])
    return markdown(["nothing learned", "n", *(NAMES[c] for c in CONTROLS)], rows)


def comparison_table(data: Mapping, control: str = "black") -> str:
    """Methods x models: prompted score, and the gain over one control with its interval and spread over seeds."""
    from experiments.run.summary import NAMES, markdown

    models = list(data["roles"])
    rows = []
    for method, of_model in data["methods"].items():
        cells = []
        for name in models:
            score, gain = of_model[name]["prompted"], of_model[name][f"gain_{control}"]
            cells.append(
                f"{100 * score['value']:.1f} ({100 * gain['value']:+.1f} [{100 * gain['low']:+.1f}, "
                f"{100 * gain['high']:+.1f}], sd {100 * gain['sd_seeds']:.1f})"
            )
        rows.append([method, *cells])
    return markdown([f"method: score (gain over {NAMES[control]})", *(_label(data, name) for name in models)], rows)


def differences_table(data: Mapping) -> str:
    """TVP minus the baselines, paired on the same test images."""
    from experiments.run.summary import markdown

    models: Sequence[str] = [*data["roles"], "mean_targets"]
    rows = []
    for pair, of_model in data["differences"].items():
        cells = [
            f"{100 * of_model[n]['value']:+.1f} [{100 * of_model[n]['low']:+.1f}, {100 * of_model[n]['high']:+.1f}]"
            for n in models
        ]
        rows.append([pair.replace("-", " - "), *cells])
    return markdown(["paired difference, points", *(_label(data, name) for name in models)], rows)


def _label(data: Mapping, name: str) -> str:
    return f"{name.removeprefix('embedded_')} ({data['roles'].get(name, 'all targets')})"
