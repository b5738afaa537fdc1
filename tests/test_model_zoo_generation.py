"""Free text: stop strings end a row, the reference's decoding is the default, everything can be overridden."""

from __future__ import annotations

import pytest
import torch
from support.tiny_models import QUESTIONS, tiny_images, tiny_mllm
from torch import Tensor

from model_zoo.base import MLLM
from model_zoo.generation import REFERENCE_DECODING, stop_criteria


class Dictate:
    """A logits processor that makes the model write given texts, one a row."""

    def __init__(self, model: MLLM, texts: list[str]) -> None:
        self.rows, self.step = [model.text_ids(text) for text in texts], 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        forced = torch.full_like(scores, float("-inf"))
        for b, ids in enumerate(self.rows):
            forced[b, ids[min(self.step, len(ids) - 1)]] = 0.0
        self.step += 1
        return forced


def dictated(model: MLLM, texts: list[str]) -> tuple[list[str], int]:
    """(what `generate` returns when the model is made to write `texts`, how many steps it took)."""
    from transformers import LogitsProcessorList

    voice = Dictate(model, texts)
    decoding = {"num_beams": 1, "max_new_tokens": 40, "logits_processor": LogitsProcessorList([voice])}
    return model.generate(tiny_images(len(texts)), QUESTIONS[: len(texts)], **decoding), voice.step


@pytest.mark.parametrize("name", ["minigpt4", "vpgtrans"])
def test_a_stop_string_ends_the_answer_and_the_decoding(name: str) -> None:
    texts, steps = dictated(tiny_mllm(name), ["a red cat###Human: and", "dog ### go on and on"])
    assert texts == ["a red cat", "dog"]
    assert steps < 12


def test_rows_stop_on_their_own() -> None:
    texts, _ = dictated(tiny_mllm("minigpt4"), ["no###xxxxxxxx", "a much longer answer###"])
    assert texts == ["no", "a much longer answer"]


@pytest.mark.parametrize("name", ["blip2_opt"])
def test_a_newline_ends_an_answer_of_opt(name: str) -> None:
    model = tiny_mllm(name)
    texts, steps = dictated(model, ["two cats\nand more"])
    assert texts == ["two cats"]
    assert steps == len(model.text_ids("two cats\n"))


def test_no_stop_strings_stop_nothing() -> None:
    assert len(stop_criteria(None, ())) == 0


@pytest.mark.parametrize(("name", "penalty"), [("minigpt4", -1.0), ("vpgtrans", 1.0), ("instructblip", None)])
def test_the_references_decoding_is_the_default(name: str, penalty: float, monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = tiny_mllm(name), {}
    monkeypatch.setattr(model.llm, "generate", lambda **kwargs: seen.update(kwargs) or torch.zeros(1, 1).long())
    model.generate(tiny_images(1), QUESTIONS[:1])
    assert {key: seen[key] for key in REFERENCE_DECODING} == REFERENCE_DECODING
    assert seen.get("length_penalty") == penalty
    model.generate(tiny_images(1), QUESTIONS[:1], num_beams=2, length_penalty=0.5, max_new_tokens=7)
    assert (seen["num_beams"], seen["length_penalty"], seen["max_new_tokens"]) == (2, 0.5, 7)
