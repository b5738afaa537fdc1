"""What a prompt could win, measured before one is trained: what `python -m experiments.headroom` does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from datamodules.registry import load_datamodule
from experiments.run.build import control_store
from experiments.run.headroom_text import (
    ALL,
    BORDER,
    CORRELATION,
    GAIN,
    GAIN_OF_OTHERS,
    HEADROOM,
    OFFSET,
    OFFSETS,
    OVER_FULL,
    PROBE_OVER_FULL,
    PROBE_SCORE,
    headroom_tables,
    headroom_verdict,
    tables_markdown,
    with_offsets_of,
)
from experiments.run.linear_probe import PROBE, pool_tokens, probe_scores
from experiments.run.offsets import Offsets, fit_offsets, held_out, one_list, with_offsets
from experiments.run.preflight import report_left_out
from lightning_modules.backoff import RowLimit, free_memory
from lightning_modules.code_version import code_version
from lightning_modules.controls import Control
from lightning_modules.evaluation import ModelSpec
from lightning_modules.intervals import mean_draws, mean_interval, percentiles
from lightning_modules.metrics import PAIRED, PAIRED_UNITS, Estimate, Scores, estimate, paired_gain, per_sample
from lightning_modules.records import read_rows, write_rows
from lightning_modules.scorer import PromptScorer
from model_zoo.registry import get_entry, load_mllm, require_files, server_facts, tile_options
from model_zoo.served.ways import WRITTEN

PROBED = ("full", "black")


class Measured(NamedTuple):
    """One model. val, test: control -> record. probes: control -> record on test; empty where there is no probe."""

    val: Mapping[str, Scores]
    test: Mapping[str, Scores]
    probes: Mapping[str, Scores]


class Row(NamedTuple):
    """What a result row says here. of: whose offsets, or empty. value: with its interval, or None in it."""

    mllm: str
    input: str
    metric: str
    value: Estimate
    of: str = ""
    group: str = ""


def measure_headroom(options: Any) -> list[dict]:
    """Print tables and verdict, write DIR/headroom.jsonl where `out=DIR`; returns the rows.

    options: as `experiments.headroom.Options`.

    Raises:
        ValueError: rows have candidates of their own, so that no offset belongs to one candidate.
        FileNotFoundError: weights or data are missing.
    """
    names = list(dict.fromkeys(options.mllm))
    for name in names:
        require_files(name, options.weights)
        if server_facts(name, options.weights).get("way") == WRITTEN:
            raise ValueError(
                f"'{name}' gives no likelihoods, and headroom adds numbers to candidates' scores. Expected vLLM or "
                "SGLang behind the address, or a model whose weights are here."
            )
    where, tiles = (
        (str(options.weights), options.dtype, False),
        {name: tile_options(name, "official") for name in names},
    )
    specs = [ModelSpec(name, "heldout", *where, tiles[name], options.quant) for name in names]
    device = ("cuda" if torch.cuda.is_available() else "cpu") if options.device == "auto" else options.device
    scorer = build_scorer(options, names, device)
    data = scorer.datamodule
    candidates = one_list(data, scorer.sizes)
    if candidates is None:
        raise ValueError(
            f"The rows of {data.name} have different lists of candidates. An offset belongs to one candidate that all "
            "rows share: choose a data set with one list, e.g. a recognition or counting one."
        )
    report_left_out(data, ["val", "test"], None)
    reason = "n_probe=0" if options.n_probe <= 0 else why_no_probe(data, scorer.sizes)
    if reason:
        print(f"No probe of the visual tokens: {reason}.")
    measured = {}
    for spec in specs:
        measured[spec.name] = measure(scorer, spec, options.n_probe if not reason else 0, candidates)
        print(f"{spec.name}: scored on {' and '.join(measured[spec.name].test)}.", flush=True)
    metric = "accuracy" if scorer.metric == "auroc" else scorer.metric
    if metric != scorer.metric:
        print("Stated in accuracy: offsets cannot change the area under ROC.")
    found = [*headroom_rows(metric, measured, candidates)]
    rows = result_rows(scorer, specs, found, options)
    for text in headroom_verdict(rows):
        print(f"* {text}")
    print(tables_markdown(headroom_tables(rows)))
    if options.out:
        print(f"Rows: {keep(options.out, rows)}")
    return rows


# ---- scoring ---------------------------------------------------------------------------------------------------------
def build_scorer(options: Any, names: Sequence[str], device: str) -> PromptScorer:
    """The scorer of all four controls, with the frame of the first model where none is given."""
    frame = options.frame or own_frame(names[0])
    pad = options.pad or frame * 30 // 224
    if not 0 < pad < frame / 2:
        raise ValueError(f"Got frame={frame} and pad={pad}. Expected a border that leaves room: 0 < pad < frame / 2.")
    data = load_datamodule(
        options.data,
        root=str(options.root),
        image_size=frame,
        eval_batch_size=options.batch_size,
        max_corrupt=options.max_corrupt,
        split_seed=options.split_seed,
        **{key: word for key in ("names", "corruption") if (word := getattr(options, key))},
    )
    data.setup()
    sizes = {split: at_most(data, split, n) for split, n in (("val", options.n_val), ("test", options.n))}
    return PromptScorer(data, control_store(), frame=frame, pad=pad, sizes=sizes, residency="keep", device=device)


def own_frame(name: str) -> int:
    """Pixels a side that a model reads: 224 for all published ones, of which none is loaded to say so."""
    return load_mllm(name).image_size if get_entry(name).embedded else 224


def at_most(data: Any, split: str, n: int) -> int | None:
    """Size of a sub-sample of at most n rows; None for all of them."""
    return None if n <= 0 or n > data.n(split) else n


def why_no_probe(data: Any, sizes: Mapping[str, int | None]) -> str:
    """Empty, or why the tokens alone cannot hold the answer."""
    questions = {row.question for row in data.subset("test", sizes["test"])}
    several = f"{data.name} asks {len(questions)} different questions, and visual tokens do not know which"
    return several if len(questions) > 1 else ""


def measure(scorer: PromptScorer, spec: ModelSpec, n_probe: int, candidates: Sequence[str]) -> Measured:
    """All records of one model: from the store, or the model is loaded once for what is missing."""
    controls = [c for c in scorer.controls if c.name in PROBED] if n_probe else []
    fit = at_most(scorer.datamodule, "train", n_probe)
    keys = {c.name: probe_key(scorer, spec, fit) for c in controls}
    probes = {c.name: scorer.store.load(c, **keys[c.name]) for c in controls}
    missing = [c for c in controls if probes[c.name] is None]
    model = spec.load(scorer.device) if missing else None
    val = scorer.score(spec, "val", {}, resident=model)
    test = scorer.score(spec, "test", {}, resident=model)
    for control in missing:
        made = make_probe(scorer, model, control, fit, len(candidates))
        if made is None:
            print(f"{spec.name}: no probe, as it shows no visual tokens.")
            break
        probes[control.name] = made
        scorer.store.save(made, control, **keys[control.name])
    unit_of = scorer.datamodule.units("test")
    scorer.release()
    del model
    free_memory()
    return Measured(val, test, {name: p.with_units(unit_of) for name, p in probes.items() if p is not None})


def probe_key(scorer: PromptScorer, spec: ModelSpec, fit: int | None) -> dict:
    """What a stored probe depends on beside the control: everything a score does, and the rows it is fitted on."""
    data, n_val = scorer.datamodule, scorer.sizes["val"]
    rows = {"fit": data.fingerprint("train", fit), "choose": data.fingerprint("val", n_val)}
    return scorer.store_key(spec, "test", scorer.sizes["test"]) | {"probe": PROBE} | rows


def make_probe(scorer: PromptScorer, model: Any, control: Control, fit: int | None, classes: int) -> Scores | None:
    """The probe's record on test; None where the model shows no visual tokens."""
    sizes, limit = {"train": fit, **scorer.sizes}, RowLimit()
    try:
        parts = {s: pool_tokens(model, scorer.datamodule, control, s, n, limit) for s, n in sizes.items()}
    except NotImplementedError:
        return None
    return probe_scores(parts["train"], parts["val"], parts["test"], classes)


# ---- numbers ---------------------------------------------------------------------------------------------------------
def headroom_rows(metric: str, measured: Mapping[str, Measured], candidates: Sequence[str]) -> Iterator[Row]:
    """Every number, of each model and (mllm `ALL`) on average over models.

    Raises:
        ValueError: a row that is scored is among those the offsets are fitted on.
    """
    own: dict[str, dict[str, Offsets]] = {}
    for name, one in measured.items():
        for control in one.test:
            if not held_out(one.val[control].ids, one.test[control].ids):
                raise ValueError("Validation rows are among the test rows. Expected rows of their own; val=train.")
        own[name] = {control: fit_offsets(one.val[control]) for control in one.test}
        yield from model_rows(metric, name, one, own[name])
        offsets = own[name]["full"]
        for candidate, value in zip(candidates, offsets.values.tolist(), strict=True):
            yield Row(name, "full", OFFSET, Estimate(value, *NO_INTERVAL, offsets.n), name, candidate)
    pairs, names = [], list(measured)
    for of, on in product(measured, measured):
        if of != on:
            full = measured[on].test["full"]
            pairs.append((with_offsets(full, own[of]["full"]), full))
            yield Row(on, "full", GAIN, paired_gain(metric, *pairs[-1]), of)
            alike = correlation(own[of]["full"].values, own[on]["full"].values)
            if alike is not None and names.index(of) < names.index(on):
                yield Row(on, "full", CORRELATION, alike, of)
    yield from average_rows(metric, measured, own, pairs)


NO_INTERVAL: tuple[Any, Any, str] = (None, None, "none")


def model_rows(metric: str, name: str, one: Measured, own: Mapping[str, Offsets]) -> Iterator[Row]:
    """Scores, scores with the model's own offsets, probes, and what they are over one another."""
    full = one.test["full"]
    for control, record in one.test.items():
        yield Row(name, control, metric, estimate(metric, record))
        mended = with_offsets(record, own[control])
        yield Row(name, control, metric, estimate(metric, mended), name)
        yield Row(name, control, GAIN, paired_gain(metric, mended, record), name)
        if control != "full":
            yield Row(name, control, OVER_FULL, paired_gain(metric, record, full))
            yield Row(name, control, OVER_FULL, paired_gain(metric, mended, full), name)
    for control, record in one.probes.items():
        yield Row(name, control, PROBE_SCORE, estimate(metric, record))
        yield Row(name, control, PROBE_OVER_FULL, paired_gain(metric, record, full))


def average_rows(
    metric: str, measured: Mapping[str, Measured], own: Mapping[str, Mapping[str, Offsets]], pairs: Sequence[tuple]
) -> Iterator[Row]:
    """The numbers the verdict rests on: means over models, over whose rows (all models have the same) one interval."""

    def tests(control: str) -> list[Scores]:
        return [one.test[control] for one in measured.values()]

    def mended(control: str) -> list[Scores]:
        return [with_offsets(one.test[control], own[name][control]) for name, one in measured.items()]

    yield Row(ALL, "full", GAIN, mean_gain(metric, mended("full"), tests("full")), ALL)
    yield Row(ALL, BORDER, GAIN, mean_gain(metric, mended(BORDER), tests(BORDER)), ALL)
    yield Row(ALL, BORDER, OVER_FULL, mean_gain(metric, tests(BORDER), tests("full")))
    yield Row(ALL, BORDER, OVER_FULL, mean_gain(metric, mended(BORDER), tests("full")), ALL)
    if pairs:
        after, before = zip(*pairs, strict=True)
        yield Row(ALL, "full", GAIN_OF_OTHERS, mean_gain(metric, after, before))
    for control in PROBED:
        probed = [(one.probes[control], one.test["full"]) for one in measured.values() if control in one.probes]
        if probed:
            after, before = zip(*probed, strict=True)
            yield Row(ALL, control, PROBE_OVER_FULL, mean_gain(metric, after, before))


def mean_gain(metric: str, after: Sequence[Scores], before: Sequence[Scores]) -> Estimate:
    """Mean of several paired gains on the same rows; a row's gains stay together when rows (or units) are resampled."""
    if any(record.ids != before[0].ids for record in (*after, *before)):
        raise ValueError("A mean of paired gains needs the same samples in the same order; the records differ.")
    gains = [per_sample(metric, a) - per_sample(metric, b) for a, b in zip(after, before, strict=True)]
    mean, units = np.mean(gains, axis=0), before[0].unit_numbers
    low, high = mean_interval(mean) if units is None else percentiles(mean_draws(mean, units))
    return Estimate(float(mean.mean()), low, high, PAIRED if units is None else PAIRED_UNITS, len(mean))


def correlation(one: np.ndarray, other: np.ndarray) -> Estimate | None:
    """Pearson's r of two models' offsets with Fisher's interval over the K candidates; None for fewer than 4."""
    k = len(one)
    if k < 4 or min(np.ptp(one), np.ptp(other)) < 1e-9:
        return None
    r = float(np.clip(np.corrcoef(one, other)[0, 1], -1, 1))
    z, width = np.arctanh(np.clip(r, -1 + 1e-12, 1 - 1e-12)), 1.96 / (k - 3) ** 0.5
    return Estimate(r, float(np.tanh(z - width)), float(np.tanh(z + width)), "fisher over candidates", k)


# ---- rows ------------------------------------------------------------------------------------------------------------
def result_rows(scorer: PromptScorer, specs: Sequence[ModelSpec], found: Sequence[Row], options: Any) -> list[dict]:
    """Rows in the schema of docs/run_folder.md, kind `headroom`; docs/headroom.md says what their fields hold."""
    data, of_spec = scorer.datamodule, {spec.name: spec for spec in specs}
    common = {
        "run": f"{data.name} {scorer.controls[0].frame}/{scorer.controls[0].pad}",
        **{"kind": "headroom", "epoch": 0, "step": 0, "seed": options.split_seed, "role": "heldout"},
        **{"data": data.name, "split": "test", "prompt": None, "official": False, "bounds": "image"},
        "data_fp": data.fingerprint("test", scorer.sizes["test"]),
        "left_out": len(data.left_out("test")),
        "scorer": code_version(),
    }
    made = []
    for row in found:
        spec = of_spec.get(row.mllm)
        own = {"mllm": row.mllm, "model_fp": spec.fingerprint() if spec else "", "dtype": specs[0].precision}
        own |= {"method": OFFSETS if row.of else "none", "source": row.of, "group": row.group, "metric": row.metric}
        # `input` names whose offsets too, so that rows differ in what tells measurements apart.
        own["input"] = with_offsets_of(row.input, row.of)
        made.append(common | own | row.value._asdict())
    return made


def keep(folder: Path, rows: list[dict]) -> Path:
    """Write DIR/headroom.jsonl anew, whole or not at all: these rows in place of older ones of their data set."""
    path, data = folder / HEADROOM, rows[0]["data"]
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(path, [*(row for row in read_rows(path) if row.get("data") != data), *rows])
    return path
