"""The drift read-out: FCA's distance of every scored model's features, beside its scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_lightning_modules_scorer import CONTEXT, FRAME, PAD, Spec, make_prompt, make_scorer

import lightning_modules.evaluation as evaluation
from lightning_modules.controls import ControlStore
from lightning_modules.losses import fca_loss
from lightning_modules.prompts import OverlayPrompt
from lightning_modules.result_rows import score_rows, summarise
from lightning_modules.scorer import PromptScorer


def rows_of(scorer, prompt, name="tiny_minigpt4", split="val"):
    spec = Spec(name, "heldout")
    records = scorer.score(spec, split, {"prompt": prompt})
    context = CONTEXT | {"epoch": 0, "step": 0}
    rows = score_rows(scorer, spec, split, records, {"prompt": prompt}, context)
    return {row["metric"]: row for row in rows if row["metric"].startswith("drift")}, records


@pytest.mark.parametrize("name", ["tiny_minigpt4", "tiny_bliva", "tiny_instructblip"])
def test_drift_is_the_fca_loss_of_the_scored_model_on_the_scored_rows(tmp_path, name):
    scorer, prompt = make_scorer(tmp_path), make_prompt()
    rows, _ = rows_of(scorer, prompt, name)
    model = Spec(name, "heldout").load("cpu")
    (batch,) = list(scorer.datamodule.loader("val", n=7, batch_size=7))
    with torch.no_grad():
        moved, clean = (model.encode_image(f(batch.images), batch.questions).tokens for f in (prompt, prompt.blank))
    for metric, relative in (("drift", False), ("drift_relative", True)):
        assert rows[metric]["value"] == pytest.approx(fca_loss(moved, clean, relative=relative).item(), rel=1e-4)
        assert rows[metric]["n"] == 7 and rows[metric]["low"] < rows[metric]["value"] < rows[metric]["high"]


def test_a_prompt_that_changes_nothing_does_not_drift(tmp_path):
    rows, _ = rows_of(make_scorer(tmp_path), make_prompt(0.0))
    assert rows["drift"]["value"] == 0 and rows["drift"]["high"] == 0


def test_an_overlay_drifts_from_the_full_image(tmp_path):
    scorer = make_scorer(tmp_path)
    data = scorer.datamodule.with_image_size(FRAME)
    scorer = PromptScorer(data, ControlStore(tmp_path), frame=FRAME, pad=PAD, sizes=scorer.sizes)
    prompt = OverlayPrompt(FRAME, PAD)
    assert rows_of(scorer, prompt)[0]["drift"]["value"] == 0
    prompt.delta.data.fill_(0.3)
    assert rows_of(scorer, prompt)[0]["drift"]["value"] > 0


def test_drift_is_no_answer_and_changes_none(tmp_path):
    scorer, prompt = make_scorer(tmp_path), make_prompt()
    _, records = rows_of(scorer, prompt)
    assert "drift" not in records
    alone = evaluation.score_inputs(
        Spec("tiny_minigpt4", "source").load("cpu"),
        scorer.datamodule,
        {"prompt": (prompt.image_size, prompt)},
        split="val",
        n=7,
    )
    np.testing.assert_array_equal(records["prompt"].scores, alone["prompt"].scores[np.argsort(alone["prompt"].ids)])


def test_drift_stops_after_its_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_modules.scorer.DRIFT_ROWS", 4)
    rows, _ = rows_of(make_scorer(tmp_path), make_prompt())
    assert rows["drift"]["n"] == 4


def test_drift_is_logged_for_every_model(tmp_path):
    scorer, prompt = make_scorer(tmp_path), make_prompt()
    rows, records = rows_of(scorer, prompt)
    assert summarise(scorer, "tiny_minigpt4", "val", records)["val/drift/tiny_minigpt4"] == rows["drift"]["value"]


def test_the_rows_of_a_drift_do_not_depend_on_how_batches_are_made(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_modules.scorer.DRIFT_ROWS", 4)
    scorer = make_scorer(tmp_path)
    first = [row.id for row in scorer.datamodule.subset("val", 7)[:4]]
    rows = scorer.datamodule.rows("val")
    longer = [row._replace(question="what " * (i % 5)) for i, row in enumerate(rows)]
    monkeypatch.setattr(scorer.datamodule, "rows", lambda split: longer)  # then batches group them
    for size in (3, 7):
        scorer.datamodule.eval_batch_size = size
        rows_of(scorer, make_prompt())
        assert scorer.drifts["val", "tiny_minigpt4"].ids == sorted(first)
