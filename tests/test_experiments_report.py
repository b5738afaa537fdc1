"""`python -m experiments.report DIR`: what the page and its tables say, that it stands alone, and wrong use."""

from __future__ import annotations

import json
import os
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from support.sweep_files import METHODS, MODELS, write_sweep

from experiments.report import tables
from experiments.report.__main__ import main
from experiments.report.charts import new_axes, scatter, to_svg
from experiments.report.gain_curves import average_curves, drift_rows, gain_points
from experiments.report.load import read_statistics
from experiments.report.markdown import result_section
from experiments.report.sections.examples import lead, regressions
from experiments.report.sections.prompts import spectrum
from experiments.report.settings import common, without_path
from experiments.report.verdict import EMBEDDED, about, verdicts
from experiments.statistics import write_statistics
from lightning_modules.metrics import Scores
from model_zoo.registry import REGISTRY

FAILED = [f"embedded_llava-emoji_recognition-vp-s{seed}" for seed in range(3)]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    out = write_sweep(tmp_path_factory.mktemp("report") / "sweep", seeds=(0, 1, 2), failed=FAILED, n=32)
    assert main([str(out), "examples=2"]) == 0
    return out


@pytest.fixture
def small(tmp_path):
    """A sweep of one seed."""
    return write_sweep(tmp_path / "small", models=MODELS[:2], methods=("none", "tvp"), seeds=(0,), n=16)


@pytest.fixture(scope="module")
def page(sweep):
    return (sweep / "report.html").read_text()


@pytest.fixture(scope="module")
def statistics(sweep):
    return json.loads((sweep / "statistics.json").read_text())


class Elements(HTMLParser):
    """Every element with its attributes, and the stack at the end."""

    VOID = {"meta", "link", "img", "br", "input", "hr"}

    def __init__(self, text):
        super().__init__()
        self.found, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, (tag, self.open[-4:])
        self.open.pop()


# ---- the page --------------------------------------------------------------------------------------------------------
def test_the_page_is_well_formed_and_asks_for_nothing_outside_itself(page):
    elements = Elements(page)
    assert elements.open == []
    for tag, attributes in elements.found:
        for key in ("src", "href", "xlink:href", "action", "data", "poster"):
            value = attributes.get(key, "")
            local = value.startswith(("data:", "#", "cells/")) or not value
            assert local, (tag, key, value[:80])
    assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttpRequest|<script src|<link rel=.stylesheet", page)


def test_every_id_is_unique_and_every_reference_has_its_target(page):
    ids = [attributes["id"] for _, attributes in Elements(page).found if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', page)) <= set(ids)


def test_the_same_folder_gives_the_same_bytes_wherever_it_lies(sweep, page, tmp_path):
    shutil.copytree(sweep, tmp_path / "elsewhere")
    main([str(tmp_path / "elsewhere"), "examples=2"])
    again = (tmp_path / "elsewhere/report.html").read_text()
    assert again == page and (tmp_path / "elsewhere/report.md").read_bytes() == (sweep / "report.md").read_bytes()


def test_no_path_of_this_machine_is_in_the_page(sweep, page):
    for word in (str(sweep), str(sweep.parent), os.path.expanduser("~") + "/", os.getcwd()):
        assert word not in page


def test_every_section_has_content(page):
    for key in (
        *("headline", "negative", "matrix", "curves", "prompts", "examples", "regressions", "drift", "runs"),
        *("missing", "reading"),
    ):
        section = page.split(f'<section id="{key}"')[1].split("</section>")[0]
        assert "<table" in section or "<li" in section or "<svg" in section, key
        assert 'class="none"' not in section, key


def test_negative_transfer_and_tiny_models_are_said_before_any_section(page):
    top = page.split("<main")[0]
    assert "Negative transfer of TVP" in top and EMBEDDED in top


def test_a_planted_regression_is_an_alarm_and_the_first_of_the_worst(sweep, page, statistics):
    hurt = (MODELS[0], MODELS[2])
    assert any((a["source"], a["target"]) == hurt for a in statistics["alarms"])
    worst = page.split('<section id="regressions"')[1]
    assert re.search(r'<tbody><tr><th scope="row">minigpt4 → llava</th>', worst)
    assert "samples turned from right to wrong" in worst and "data:image/webp" in worst


def test_the_matrix_states_every_pair_with_interval_n_and_p(page, statistics):
    stored = json.loads(page.split('id="matrix-data">')[1].split("</script>")[0])
    assert len(stored["pairs"]) == len(statistics["pairs"]) == len(MODELS) ** 2 * len(METHODS) - len(MODELS)
    pair = next(p for p in stored["pairs"] if (p["s"], p["t"], p["m"]) == ("minigpt4", "llava", "tvp"))
    truth = next(
        p
        for p in statistics["pairs"]
        if (p["source"], p["target"], p["method"]) == ("embedded_minigpt4", "embedded_llava", "tvp")
    )
    assert pair["g"]["black"][1] == tables.with_interval(truth["gains"]["black"])
    assert pair["n"] == 32 and pair["k"] == 3 and pair["g"]["full"][5] == int(truth["alarm"]["full"])
    assert page.count("data-pair=") == len(stored["pairs"])


def test_failed_cells_are_named(page, sweep):
    missing = page.split('<section id="missing"')[1]
    assert "llava-emoji_recognition-vp-s2" in missing and "failed" in missing
    assert "33 of 36 prompts" in page
    assert "llava-emoji_recognition-vp-s2" in (sweep / "report.md").read_text()


def test_run_links_lead_to_files(sweep, page):
    links = set(re.findall(r'href="(cells/[^"]+)"', page))
    assert len(links) == 3 * 33 and all((sweep / link).is_file() for link in links)


def test_tables_have_captions_and_headers_with_scope(page):
    elements = Elements(page).found
    tables_of_answers = page.count('<th scope="col">black border</th><th scope="col">prompt</th>')
    assert page.count("<caption") == sum(tag == "table" for tag, _ in elements) - tables_of_answers > 10
    assert all(a.get("scope") in ("row", "col") for tag, a in elements if tag == "th")


@pytest.mark.slow
def test_hostile_names_cannot_leave_their_text(small):
    (small / "sweep.json").write_text(json.dumps({"sweep": "</script><script>alert(1)</script>"}))
    main([str(small), "examples=1"])
    assert "<script>alert(1)" not in (small / "report.html").read_text()


# ---- what is used, and wrong use -------------------------------------------------------------------------------------
@pytest.mark.slow
def test_statistics_are_made_anew_when_samples_are_newer(small):
    main([str(small), "examples=1"])
    for sample in (small / "samples").glob("*-none-*"):
        sample.unlink()
    later = (small / "statistics.json").stat().st_mtime + 10
    os.utime(next((small / "samples").iterdir()), (later, later))
    main([str(small), "examples=1"])
    assert {cell["method"] for cell in json.loads((small / "statistics.json").read_text())["cells"]} == {"tvp"}


def test_a_folder_that_is_no_sweep_and_no_run_is_one_message(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected sweep\.json .* or results\.jsonl"):
        main([str(tmp_path)])


def test_a_sweep_without_results_says_how_to_go_on(tmp_path):
    (tmp_path / "sweep.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"Nothing has finished .*experiments\.transfer_sweep out="):
        main([str(tmp_path)])


@pytest.mark.parametrize(("text", "said"), [("{", "damaged"), ("{}", "lacks"), ('{"schema": 2}', "lacks")])
def test_damaged_statistics_are_one_message(tmp_path, text, said):
    (tmp_path / "sweep.json").write_text("{}")
    (tmp_path / "statistics.json").write_text(text)
    with pytest.raises(ValueError, match=rf"{said}.*Delete it"):
        main([str(tmp_path)])


def test_damaged_samples_are_one_message(tmp_path):
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples/a.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"no file of samples or damaged.*rebuilt"):
        main([str(tmp_path)])


def test_unknown_choices_are_named(sweep):
    with pytest.raises(ValueError, match=r"No control 'blak' here\. Did you mean 'black'"):
        main([str(sweep), "control=blak"])
    with pytest.raises(ValueError, match=r"No method 'tpv' here\. Did you mean 'tvp'"):
        main([str(sweep), "method=tpv"])


@pytest.mark.slow
def test_runs_without_their_folder_leave_a_page_of_numbers(small):
    shutil.rmtree(small / "cells")
    main([str(small)])
    page = (small / "report.html").read_text()
    assert "folder gone" in page and "No validation curve" in page and "No prompt could be read" in page


# ---- parts -----------------------------------------------------------------------------------------------------------
def row(**entries):
    base = {"split": "val", "group": "", "metric": "top1", "role": "heldout", "mllm": "m", "n": 4, "epoch": 0}
    return base | entries


def test_a_gain_is_prompt_minus_control_on_the_same_epoch():
    rows = [row(input="prompt", value=0.5), row(input="black", value=0.2), row(input="black", value=0.9, epoch=1)]
    (point,) = gain_points(rows, "top1")
    assert (point.update, point.control, point.n) == (0, "black", 4) and point.gain == pytest.approx(0.3)


def test_mean_curves_leave_out_the_source_and_epochs_that_some_run_lacks():
    def points(value, epochs, role="heldout"):
        both = [row(input="prompt", value=value, epoch=e, role=role) for e in epochs]
        return gain_points(both + [row(input="black", value=0.0, epoch=e, role=role) for e in epochs], "top1")

    runs = [(0, points(0.2, [0, 1])), (1, points(0.4, [0])), (0, points(0.9, [0], role="source"))]
    (average,) = average_curves(runs, "black")
    assert average.value == pytest.approx(0.3) and (average.low, average.high) == (0.2, 0.4) and average.seeds == 2


def test_relative_drift_is_preferred():
    rows = [row(split="test", input="prompt", metric=m, value=v) for m, v in (("drift", 3.0), ("drift_relative", 0.2))]
    assert drift_rows(rows) == ("drift_relative", {"m": 0.2}) and drift_rows(rows[:1]) == ("drift", {"m": 3.0})


def test_the_largest_loss_of_lead_comes_first():
    labels = np.zeros(3, int)
    before = Scores(["a", "b", "c"], labels, np.array([[1.0, 0], [3, 0], [0, 1]]), [""] * 3)
    after = before._replace(scores=np.array([[0.0, 1], [0, 1], [1, 0]]))
    record = type("R", (), {"scores": {"black": before, "prompt": after}})()
    lost, gained = regressions(record)
    assert [sample.id for sample in lost] == ["b", "a"] and gained == 1 and lost[0].drop == 4.0
    assert lead(before.scores, labels).tolist() == [1.0, 3.0, -1.0]


def test_the_spectrum_of_a_stripe_is_two_peaks_beside_the_middle():
    wave = np.cos(2 * np.pi * 8 * np.arange(64) / 64) * np.ones((3, 64, 1))
    image = np.asarray(spectrum(wave))
    assert sorted(zip(*np.nonzero(image > 200), strict=True)) == [(32, 24), (32, 40)]


def test_colours_of_a_chart_follow_the_theme_and_marks_have_titles():
    chart = scatter("x", "label", "x", [((3, "tvp"), [(1.0, 0.1, "<one>", False), (2.0, 0.2, "own", True)])])
    assert "var(--s3)" in chart and "currentColor" in chart and "#0a0b" not in chart
    assert "<title>&lt;one&gt;</title>" in chart and "<title>own</title>" in chart


def test_more_titles_than_marks_are_our_fault():
    figure, axes = new_axes(100, 100)
    axes.plot([1], [1], marker="o", gid="g")
    with pytest.raises(ValueError, match="fewer marks"):
        to_svg(figure, name="x", label="x", titles={"g": ["a", "b"]})


def test_paths_of_a_machine_keep_their_last_part():
    assert without_path("/a/b") == "…/b" and without_path("C:\\x\\y") == "…/y" and without_path(["weights", "/a"]) == [
        "weights", "…/a",
    ]  # fmt: skip
    assert common([{"a": 1, "b": 2}, {"a": 1, "b": 3}]) == {"a": 1}


def test_changes_are_signed_and_nothing_is_minus_zero():
    assert [tables.change(v) for v in (0.1234, -0.05, -0.0001)] == ["+12.3", "−5.0", "0.0"]
    assert tables.method_order(["zeta", "tvp", "none", "evp"]) == ["none", "evp", "tvp", "zeta"]


def test_a_difference_counts_only_when_it_survives_the_correction(statistics):
    entry = {
        "methods": ["tvp", "evp"],
        "data": "",
        "over": "targets",
        "value": 0.1,
        "low": 0.05,
        "high": 0.15,
        "p": 0.005,
    }
    said = [verdicts(statistics | {"differences": [entry | {"p_holm": p}]})[-1] for p in (0.01, 0.2)]
    assert said[0].endswith("TVP transfers better.") and "does not survive" in said[1]


@pytest.mark.parametrize("name", [name for name, entry in REGISTRY.items() if entry.embedded])
def test_every_model_that_ships_is_said_to_be_a_tiny_one_of_ours(name):
    def said(source, target):
        cell = {"source": source, "target": target, "data": "d", "method": "tvp", "seed": 0, "n": 5}
        return about({"cells": [cell], "missing": []})

    assert said(f"minigpt4+{name}", "blip2").endswith(EMBEDDED) and said("blip2", name).endswith(EMBEDDED)
    assert f"{name.split('_')[0].rstrip('012')}" in EMBEDDED and EMBEDDED not in said("minigpt4", "blip2")


def test_the_readme_section_has_controls_scores_gains_differences_and_alarms(statistics):
    text = result_section(statistics, label="`sweep=invented`")
    assert text.startswith("`sweep=invented`: 3 sources × 3 targets") and EMBEDDED in text
    for words in (
        "| method | over full image",
        "| tvp − evp |",
        "| minigpt4 | emoji_recognition |",
        "Negative-transfer",
    ):
        assert words in text
    target = next(line for line in text.splitlines() if line.startswith("| tvp |") and line.count("(") == 3)
    pairs = [p for p in statistics["pairs"] if (p["method"], p["target"]) == ("tvp", "embedded_llava")]
    others = [p for p in pairs if p["source"] != "embedded_llava"]
    mean = sum(p["gains"]["black"]["value"] for p in others) / len(others)
    assert f", {tables.change(mean)}, " in target
    assert len(text) < 12_000


def test_no_alarm_comes_with_the_loss_that_would_have_raised_one(statistics):
    said = next(text for text in verdicts(statistics) if text.startswith("Negative transfer of VP"))
    silent = [p["gains"]["black"]["smallest_alarm"] for p in statistics["pairs"] if p["method"] == "vp"]
    assert "no alarm" in said or "had to lose" in said
    assert re.search(r"had to lose this much to raise one: .*[\d.]+ to [\d.]+ points against the black border", said)
    assert all(0 < loss < 1 for loss in silent)


def test_the_primary_contrast_is_said_first_with_its_raw_p(statistics):
    shown = statistics["differences"]
    first = next(e for e in shown if (e["methods"], e["over"], e["data"]) == (["tvp", "vp"], "targets", ""))
    chosen = [e | {"primary": e is first} for e in shown]
    table = tables.differences(statistics | {"differences": chosen})
    assert table.rows[0][0] == "tvp − vp (primary)" and table.rows[0][2] == tables.p_text(first["p"])
    compared = [t for t in verdicts(statistics | {"differences": chosen}) if "paired" in t]
    assert compared[0].startswith("TVP − VP") and "tested first" in compared[0] and "adjusted" in compared[1]
    named = statistics | {"differences": [], "primary": {"methods": ["tvp", "evp"]}}
    assert verdicts(named)[-1] == "The primary contrast, TVP − EVP, has no results to test."


def test_questions_that_share_pictures_are_said_at_the_top(statistics):
    assert "pictures" not in about(statistics)
    assert "asks 32 questions about 8 pictures" in about(statistics | {"images": {"emoji_recognition": 8}})


def test_statistics_of_an_earlier_version_are_made_anew_where_the_samples_are(small):
    made = write_statistics(small)
    old = {key: value for key, value in made.items() if key not in ("images", "speaks_of", "primary")}
    (small / "statistics.json").write_text(json.dumps(old | {"schema": 1}))
    assert read_statistics(small) == made
    (small / "statistics.json").write_text(json.dumps(old | {"schema": 1}))
    shutil.rmtree(small / "samples")
    assert read_statistics(small)["schema"] == 1
