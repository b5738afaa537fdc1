"""The README says what the code does: its tables of weights follow from the registry, its commands exist."""

from __future__ import annotations

import re

import pytest

from experiments.recipes import list_recipes
from experiments.write_docs import README, replace, sections
from model_zoo.registry import list_mllms
from model_zoo.weights.catalogue import PUBLISHED


@pytest.mark.parametrize("mark", sections())
def test_generated_tables_are_up_to_date(mark: str) -> None:
    text = README.read_text()
    assert replace(text, mark, sections()[mark]) == text, "run: python -m experiments.write_docs"


def test_a_missing_mark_is_named() -> None:
    with pytest.raises(ValueError, match="<!-- weights -->"):
        replace("nothing", "weights", "")


def test_every_published_model_has_a_recipe_and_is_registered() -> None:
    assert {f"cifar10_{name}" for name in PUBLISHED} <= set(list_recipes())
    assert set(PUBLISHED) <= set(list_mllms())


def test_every_recipe_the_readme_names_exists() -> None:
    named = set(re.findall(r"EXP=(\w+)", README.read_text())) - {"cifar10_NAME"}
    assert named and named <= set(list_recipes())
