"""Why: constructed features, scores, frames and pairs give the known answer; validation is read and nothing else."""

from __future__ import annotations

import json
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from support.sweep_files import MODELS, write_sweep
from support.tiny_models import tiny_mllm
from support.toy_data import Toy

from experiments.report.__main__ import main as report
from experiments.report.charts import depth_curves, standalone
from experiments.report.load import CellKey
from experiments.report.sections.why import CANDIDATES, WHY, read_why, sentences, why_section, why_tables
from experiments.run.offsets import Offsets
from experiments.statistics import write_statistics
from experiments.why import predictor
from experiments.why.__main__ import main
from experiments.why.command import compact, occluded_models, predictor_entries
from experiments.why.frames import BANDS, occluded, segments, spectrum
from experiments.why.measure import (
    DEPTHS,
    Towers,
    at_depths,
    look,
    measure_model,
    occlusion_change,
    tower_blocks,
)
from experiments.why.numbers import bought_offsets, linear_cka, relative_distance, what_it_buys
from experiments.why.predictor import Entry, choose_predictor, halves, of_prompt, of_target, spearman, within
from experiments.why.swept import Swept, is_source
from lightning_modules.metrics import Scores
from lightning_modules.prompts import OverlayPrompt, PadPrompt
from lightning_modules.tower_features import TowerFeatures
from model_zoo.registry import load_mllm

FRAME, PAD, ROWS, K = 16, 2, 11, 5
WEB = ("web_minigpt4", "web_vpgtrans", "web_llava")


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(predictor, "DRAWS", 40)


def key(method: str = "evp", seed: int = 0, source: str = "minigpt4") -> CellKey:
    return CellKey(source, "toy", method, seed)


def pad_prompt(value: float = 0.0, frame: int = FRAME, pad: int = PAD) -> PadPrompt:
    prompt = PadPrompt(frame, pad)
    prompt.delta.data.fill_(value)
    prompt.project_()
    return prompt.requires_grad_(False)


def record(table: np.ndarray, labels: np.ndarray) -> Scores:
    return Scores([f"{i:03d}" for i in range(len(table))], labels, table.astype(np.float32), [""] * len(table))


def noise(n: int = 64, seed: int = 0) -> Scores:
    return record(np.random.default_rng(seed).normal(0, 1, (n, K)), np.arange(n) % K)


def toy_swept(prompts: dict) -> Swept:
    data = Toy(image_size=FRAME - 2 * PAD, count=ROWS)
    return Swept("toy", prompts, [], [], SimpleNamespace(datamodule=data, metric="top1"))


# ---- features --------------------------------------------------------------------------------------------------------
def test_cka_of_features_is_one_for_the_same_and_for_rotated_and_scaled_ones():
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (40, 12))
    rotation, _ = np.linalg.qr(rng.normal(0, 1, (12, 12)))
    assert linear_cka(x, x) == pytest.approx(1)
    assert linear_cka(x, 3 * x @ rotation + 5) == pytest.approx(1)


def test_cka_of_independent_features_is_about_zero_though_they_have_more_columns_than_rows():
    rng = np.random.default_rng(1)
    found = [linear_cka(*rng.normal(0, 1, (2, 60, 600))) for _ in range(5)]
    assert abs(np.mean(found)) < 0.05


def test_cka_asks_for_the_same_pictures_that_differ():
    x = np.random.default_rng(0).normal(0, 1, (6, 3))
    for one, other, words in ((x, x[:5], "6 and 5"), (x[:3], x[:3], "at least 4"), (x, np.ones((6, 2)), "do not")):
        with pytest.raises(ValueError, match=words):
            linear_cka(one, other)


def test_relative_distance_reads_all_values_of_a_picture_as_one_vector():
    clean = torch.tensor([[[3.0, 0.0], [0.0, 4.0]], [[1.0, 0.0], [0.0, 0.0]]])
    moved = clean + torch.tensor([[[0.0, 0.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]]])
    assert relative_distance(moved, clean).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("name", ["web_minigpt4", "web_llava", pytest.param("lite0_minigpt4", marks=pytest.mark.slow)])
def test_the_blocks_of_vits_and_cnns_are_found_in_their_order(name):
    mllm = load_mllm(name)
    blocks = at_depths(tower_blocks(mllm))
    seen = look(mllm, torch.rand(2, 3, 64, 64), ["what?"] * 2, blocks)
    assert len(blocks) == len(DEPTHS) and len({id(block) for block in blocks}) >= 3
    assert sorted(seen.layers) == list(range(len(DEPTHS))) and all(len(t) == 2 for t in seen.layers.values())
    assert not any(module._forward_hooks for module in mllm.modules())


def test_a_model_that_names_no_tower_is_looked_at_in_its_longest_row_outside_the_language_model():
    mllm = tiny_mllm("minigpt4")
    parts = mllm.tower_parts()
    mllm.tower_parts = lambda: []
    language = {id(module) for part in mllm.language_parts() for module in part.modules()}
    assert parts and not {id(block) for block in tower_blocks(mllm)} & language


# ---- a model ---------------------------------------------------------------------------------------------------------
def test_a_black_frame_moves_nothing_and_an_occluded_part_of_it_changes_nothing():
    cell = key()
    found = measure_model(
        tiny_mllm("llava"), toy_swept({cell: pad_prompt()}), Towers(), None, [cell], {f"val-{i}" for i in range(4)}
    )
    assert found.drift[cell][1].tolist() == [0.0] * 6 and (found.drift[cell][0] > 0).all()
    assert np.allclose(found.border, found.drift[cell][0])
    assert {part for _, part in found.occlusion} == set(segments(FRAME, PAD))
    assert set(found.occlusion.values()) == {(0.0, 0.0)}


def test_what_is_added_to_a_picture_has_the_picture_itself_as_its_clean_frame():
    prompt = OverlayPrompt(FRAME, PAD).requires_grad_(False)
    prompt.delta.data.fill_(0.3)
    prompt.project_()
    found = measure_model(tiny_mllm("llava"), toy_swept({key("vp"): prompt}), Towers(), None, [], ())
    (drift,) = found.drift.values()
    assert (drift[0] == drift[1]).all() and (drift > 0).all() and found.border is None


def test_a_painted_frame_moves_features_and_parts_of_it_matter_and_it_is_put_back():
    cell, prompt = key(), pad_prompt(0.8)
    before = prompt.delta.clone()
    found = measure_model(tiny_mllm("llava"), toy_swept({cell: prompt}), Towers(), 8, [cell], {"val-0", "val-1"})
    assert (found.drift[cell] > 0).all() and any(nats for nats, _ in found.occlusion.values())
    assert torch.equal(prompt.delta, before) and len(found.full.ids) == 8 and len(found.tokens) == 8


def test_models_of_one_tower_are_looked_at_once_and_say_what_each_says_alone():
    cells = {key(): pad_prompt(0.8), key("tvp"): pad_prompt(0.8), key("fca"): pad_prompt(0.3)}
    swept, towers = toy_swept(cells), Towers()
    models = [tiny_mllm("minigpt4"), tiny_mllm("vpgtrans", seed=1)]
    for own, given in zip(models[1].tower_parts(), models[0].tower_parts(), strict=True):
        own.load_state_dict(given.state_dict())
    together = [measure_model(model, swept, towers, None, [], ()) for model in models]
    alone = [measure_model(model, swept, Towers(), None, [], ()) for model in models]
    for one, other in zip(together, alone, strict=True):
        for cell in cells:
            assert np.allclose(one.drift[cell], other.drift[cell]) and np.isfinite(one.drift[cell]).all()
            assert np.array_equal(one.prompted[cell].scores, other.prompted[cell].scores)
    assert (
        towers.features.hits > ROWS // 8 and (together[0].drift[key()][:, -1] != together[1].drift[key()][:, -1]).all()
    )


def test_blocks_are_seen_also_where_the_features_of_these_pixels_were_kept():
    mllm, memory, frames = tiny_mllm("llava"), TowerFeatures(), torch.rand(2, 3, FRAME, FRAME)
    blocks = at_depths(tower_blocks(mllm))
    with memory.lent_to(mllm), torch.inference_mode():
        first, again = (look(mllm, frames, ["what?"] * 2, blocks) for _ in range(2))
    assert memory.hits == 1 and all(torch.equal(first.layers[i], again.layers[i]) for i in range(len(DEPTHS)))


def test_only_validation_pictures_are_read(monkeypatch):
    asked = []
    load = Toy.load_image
    monkeypatch.setattr(Toy, "load_image", lambda self, split, i: asked.append(split) or load(self, split, i))
    measure_model(tiny_mllm("llava"), toy_swept({key(): pad_prompt(0.5)}), Towers(), 6, [], ())
    assert set(asked) == {"val"}


def test_occlusion_is_told_in_nats_of_the_right_answer_and_in_right_answers():
    whole = record(np.log([[0.5, 0.5], [0.9, 0.1], [0.5, 0.5]]), np.array([0, 0, 1]))
    without = record(np.log([[0.4, 0.6], [0.2, 0.8]]), np.array([0, 0]))._replace(ids=["001", "000"])
    nats, right = occlusion_change(without._replace(labels=np.array([0, 0])), whole)
    assert nats == pytest.approx(np.log([0.4 / 0.9, 0.2 / 0.5]).mean()) and right == -1.0


def test_frames_are_occluded_on_their_source_and_on_models_that_share_most_and_least():
    swept = toy_swept({})._replace(specs=[SimpleNamespace(name=name) for name in ("web_llava_other", *WEB)])
    found = occluded_models(swept, key(source="web_minigpt4"), 2)
    assert found[0] == "web_minigpt4" and found[1] == "web_vpgtrans" and len(found) == 3
    assert occluded_models(swept, key(source="web_minigpt4+web_llava"), 0) == ["web_minigpt4", "web_llava"]


# ---- frames ----------------------------------------------------------------------------------------------------------
def waves(delta: torch.Tensor) -> dict[str, float]:
    prompt = PadPrompt(64, 8, "unbounded")
    prompt.delta.data.copy_(delta.expand(3, 64, 64))
    prompt.project_()
    return spectrum(prompt)


def test_a_flat_frame_has_no_waves_a_chessboard_only_the_shortest_and_a_black_one_nothing():
    place = torch.arange(64)
    board = 2.0 * ((place[:, None] + place) % 2) - 1
    stripes = torch.sin(2 * torch.pi * place / 16).expand(64, 64)
    assert waves(torch.full((64, 64), 0.5)) == pytest.approx({"rms": 0.5, "flat": 1, "low": 0, "mid": 0, "high": 0})
    assert waves(board) == pytest.approx({"rms": 1, "flat": 0, "low": 0, "mid": 0, "high": 1})
    assert waves((board + 1) / 2)["flat"] == pytest.approx(0.5)
    assert waves(torch.zeros(64, 64)) == dict.fromkeys(("rms", *BANDS), 0.0)
    long = waves(stripes)
    assert long["low"] + long["flat"] > 0.9 and sum(long[band] for band in BANDS) == pytest.approx(1)


def test_segments_are_the_border_each_pixel_once():
    parts = segments(FRAME, PAD)
    assert len(parts) == 8 and torch.equal(sum(parts.values()), PadPrompt(FRAME, PAD).mask)
    prompt = pad_prompt(0.5)
    for name, delta in occluded(prompt):
        assert torch.equal(delta, prompt.delta * (1 - parts[name]))


# ---- offsets ---------------------------------------------------------------------------------------------------------
def test_a_prompt_that_only_shifts_answers_buys_its_offsets_and_nothing_else():
    noisy, values = noise(), np.array([3.0, -1.5, 0.9, -1.8, -0.6])
    clean = noisy._replace(scores=(noisy.scores + 3 * np.eye(K)[noisy.labels] - values).astype(np.float32))
    prompted = clean._replace(scores=(clean.scores + values + 2.5).astype(np.float32))
    found = what_it_buys("top1", prompted, clean, Offsets(values, 64))
    assert bought_offsets(prompted, clean).values == pytest.approx(values, abs=1e-6)
    assert found.correlation == pytest.approx(1) and found.prompted == found.shifted > 0.1 and found.rest == 0


def test_a_prompt_that_works_picture_by_picture_gains_without_a_shift():
    clean = noise()
    right = np.eye(K)[clean.labels] * 10
    prompted = clean._replace(scores=(clean.scores + right - right.mean(0)).astype(np.float32))
    found = what_it_buys("top1", prompted, clean, Offsets(np.arange(K) - 2.0, 64))
    assert found.shifted == 0 and found.rest == found.prompted > 0.5


def test_offsets_of_too_few_candidates_correlate_with_nothing():
    clean = record(np.random.default_rng(0).normal(0, 1, (8, 2)), np.arange(8) % 2)
    assert what_it_buys("accuracy", clean, clean, Offsets(np.array([1.0, -1.0]), 8)).correlation is None


# ---- the predictor ---------------------------------------------------------------------------------------------------
def entries(sources: int, planted: str, *, turned: tuple[str, ...] = (), seed: int = 0) -> list[Entry]:
    """Of every source five pairs; the planted candidate orders the gains, of `turned` sources the other way."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(sources):
        for target in "abcde":
            gain = float(rng.normal())
            values = {name: float(rng.normal()) for name in CANDIDATES}
            values[planted] = np.exp(-gain if f"s{i}" in turned else gain)
            found.append(Entry(f"s{i}", target, "evp", gain, values))
    return found


@pytest.mark.parametrize("seed", range(20))
def test_no_source_is_in_both_halves_and_none_in_neither(seed):
    names = [f"s{i}" for i in range(4 + seed % 5)]
    first, second = halves(names * 2, seed)
    assert not set(first) & set(second) and sorted(first + second) == names and 0 <= len(second) - len(first) <= 1
    assert halves(names[::-1], seed) == (first, second)


def test_the_predictor_is_chosen_on_one_half_and_tested_on_the_other():
    first, second = halves([f"s{i}" for i in range(7)], 2)
    found = choose_predictor(entries(7, "cka"), 2)
    assert (found["chosen_on"]["sources"], found["tested_on"]["sources"]) == (first, second)
    assert found["chosen_on"]["pairs"]["cka"] == 5 * len(first) and found["tested_on"]["pairs"] == 5 * len(second)


def test_the_planted_predictor_is_found_and_holds():
    found = choose_predictor(entries(7, "drift"), 3)
    assert found["best"] == "drift" and found["tested_on"]["rho"] == pytest.approx(1)
    assert found["tested_on"]["low"] == pytest.approx(1) == found["chosen_on"]["rho"]["drift"]


def test_a_predictor_that_fails_on_the_other_half_is_reported_so():
    _, second = halves([f"s{i}" for i in range(6)], 0)
    found = choose_predictor(entries(6, "offsets", turned=tuple(second)), 0)
    assert found["best"] == "offsets" and found["tested_on"]["rho"] == pytest.approx(-1)
    assert "not shown on sources it was not chosen on" in sentences({"predictor": found})[0]


def test_what_only_says_which_targets_are_frail_says_nothing_within_targets():
    some = entries(6, "drift")
    frail = dict(zip("abcde", (0.3, 0.1, 0.5, 0.2, 0.4), strict=True))
    some = [e._replace(gain=e.gain / 100 - frail[e.target], values=e.values | {"clip": frail[e.target]}) for e in some]
    assert spearman(some, "clip") < -0.9 and spearman(within(some, "clip", of_target), "clip") is None
    assert spearman(within(some, "clip", of_prompt), "clip") < -0.9
    assert spearman(within(entries(6, "drift"), "drift", of_target), "drift") > 0.6


def test_the_second_half_chooses_nothing():
    some = entries(6, "offsets")
    first, _ = halves([f"s{i}" for i in range(6)], 0)
    other = [e if e.source in first else e._replace(gain=-e.gain, values=dict.fromkeys(CANDIDATES, 0.5)) for e in some]
    assert choose_predictor(some, 0)["chosen_on"] == choose_predictor(other, 0)["chosen_on"]


def test_a_candidate_that_few_pairs_have_is_not_chosen_and_few_sources_are_refused():
    some = entries(6, "offsets")
    for entry in some[::2]:
        del entry.values["offsets"]
    found = choose_predictor(some, 0)
    assert found["best"] != "offsets" and "offsets" not in found["chosen_on"]["rho"]
    assert "fewer than 4" in choose_predictor(entries(3, "cka"), 0)["reason"]


def test_a_prompt_of_several_sources_is_no_pair_of_two_models():
    assert is_source(key(source="a+b"), "b") and not is_source(key(source="a+b"), "c")
    assert predictor_entries([{"source": "a+b", "target": "c", "method": "evp", "gain": 0.1, "own": False}]) == []


# ---- files -----------------------------------------------------------------------------------------------------------
def test_numbers_are_written_short_and_nan_as_nothing():
    assert compact({"a": [1 / 3, float("nan"), 7], "b": "x"}) == {"a": [0.3333, None, 7], "b": "x"}


def test_a_chart_stands_alone_as_a_file():
    text = standalone(depth_curves("d", "drift", ["first", "last"], [((2, "evp"), [0.1, 0.2])]))
    assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
    assert "var(" not in text and "currentColor" not in text


def test_a_damaged_file_is_no_section(tmp_path):
    assert why_section(tmp_path) is None
    for text in ("{", "[]", '{"format": 0}', '{"format": 1, "sets": [{}]}'):
        (tmp_path / WHY).write_text(text)
        assert why_section(tmp_path) is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{out}/nowhere"], "statistics.json"),
        (["{out}", "methods=tvpp"], "Did you mean 'tvp'"),
        (["{out}", "seeds=7"], "No prompt of seeds 7"),
    ],
)
def test_wrong_use_is_one_message(tmp_path, words, message):
    out = write_sweep(tmp_path / "sweep", models=MODELS[:1], methods=("none", "tvp"), seeds=(0,), n=16)
    write_statistics(out)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        main([word.format(out=out) for word in [*words, f"out={tmp_path}"]])


def test_validation_rows_that_are_test_rows_are_refused(tmp_path):
    out = write_sweep(tmp_path / "sweep", models=MODELS[:1], methods=("none", "tvp"), seeds=(0,), n=16)
    write_statistics(out)
    for path in out.glob("cells/*/config.yaml"):
        path.write_text(path.read_text().replace("val: train", "val: official"))
    with pytest.raises(ValueError, match="are test rows"):
        main([str(out), f"out={tmp_path}"])


@pytest.mark.slow
def test_a_finished_sweep_is_explained_and_its_report_has_a_section_and_nothing_else_is_written_there(tmp_path):
    sweep = write_sweep(tmp_path / "sweep", methods=("none", "vp", "tvp"), seeds=(0,), n=24)
    write_statistics(sweep)
    before = {path: path.stat().st_mtime_ns for path in sweep.rglob("*")}
    assert main([str(sweep), "n=8", "seeds=0", "n_occlude=3", f"out={tmp_path / 'out'}"]) == 0
    assert {path: path.stat().st_mtime_ns for path in sweep.rglob("*")} == before
    content = read_why(tmp_path / "out")
    (one,) = content["sets"]
    assert len(one["pairs"]) == 2 * 9 and len(one["prompts"]) == 6 and one["n"] == 8 and content["split"] == "val"
    assert all(len(pair["drift"]) == 6 and None not in pair["drift"] for pair in one["pairs"])
    assert all(table.rows for table in why_tables(one)[:4]) and "fewer than 4" in one["predictor"]["reason"]
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files >= {"why.json", "why.md", "why_emoji_recognition_drift.svg", "why_emoji_recognition_offsets.svg"}
    report([str(sweep), "examples=1"])
    assert 'id="why"' not in (sweep / "report.html").read_text()
    (sweep / WHY).write_text(json.dumps(content))
    report([str(sweep), "examples=1"])
    page = (sweep / "report.html").read_text()
    assert 'id="why"' in page and "## Why: emoji_recognition" in (sweep / "report.md").read_text()
