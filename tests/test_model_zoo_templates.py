"""Templates render the same text for ever: a published score depends on every space."""

from __future__ import annotations

import doctest

import pytest

import model_zoo.generation
import model_zoo.templates
from model_zoo.generation import cut_at_stop
from model_zoo.templates import TEMPLATES, render

QUESTION = "This is a photo of a"
RENDERED = {
    "minigpt4": ("<Img>", "</Img>", QUESTION),
    "vpgtrans": ("<Img>", "</Img>", QUESTION),
    "instructblip": ("", "", QUESTION),
    "blip2": ("", "", QUESTION),
    "bliva": ("", "", QUESTION),
    "visualglm": ("<img>", "</img>", f" {QUESTION}"),
    "llava": ("", "", QUESTION),
}


def test_every_template_has_a_snapshot() -> None:
    assert RENDERED.keys() == TEMPLATES.keys()


@pytest.mark.parametrize("name", RENDERED)
def test_ranking_text_is_unchanged(name: str) -> None:
    assert tuple(render(TEMPLATES[name], QUESTION)) == RENDERED[name]


def test_the_image_mark_ends_the_text_before_it() -> None:
    before, after, text = render(TEMPLATES["minigpt4"], "why?", "vqa")
    assert before.endswith("###Human: <Img>")
    assert (after, text) == ("</Img>", "why? Answer this question in a single word. ###Assistant:")


def test_braces_in_a_question_survive() -> None:
    assert render(TEMPLATES["blip2"], "what is {x}?", "infer").text == "Question: what is {x}? Answer:"


@pytest.mark.parametrize(("text", "expected"), [("a ### b", "a"), (" a ", "a"), ("###", ""), ("a ###x ##", "a")])
def test_text_ends_at_the_first_stop(text: str, expected: str) -> None:
    assert cut_at_stop(text, ["###", "##"]) == expected


@pytest.mark.parametrize("module", [model_zoo.templates, model_zoo.generation])
def test_examples_in_docstrings_hold(module) -> None:
    assert doctest.testmod(module).failed == 0
