"""The order of loading: neighbours share most, least is read, and which two fit together is told pair by pair."""

from __future__ import annotations

from itertools import pairwise, permutations

import pytest

from model_zoo.memory.loading import loading_order, new_bytes, plan_loading
from model_zoo.memory.parts import Part

SIZES = {"eva": 2, "vicuna": 12, "vicuna11": 12, "t5": 6, "glm": 11, "x": 1, "y": 3}


def parts(words: str) -> list[Part]:
    return [Part((word,), word, SIZES.get(word, 1)) for word in words.split()]


def read(held: list[Part], models: dict[str, list[Part]], order: list[str]) -> int:
    return sum(new_bytes([*held, *models.get(a, [])], models[b]) for a, b in pairwise(["", *order]))


PAPER = {
    "vpgtrans": parts("eva vicuna vq"),
    "instructblip": parts("eva vicuna11 iq"),
    "bliva": parts("eva vicuna bq"),
    "blip2": parts("eva t5 q"),
}


def test_models_with_a_part_in_common_are_neighbours_unless_the_sources_hold_it() -> None:
    assert loading_order([], PAPER) == ["vpgtrans", "bliva", "instructblip", "blip2"]
    assert loading_order(parts("eva vicuna"), PAPER) == list(PAPER)  # nothing is left to take from a neighbour


@pytest.mark.parametrize("held", ["", "eva", "x"])
def test_no_order_of_a_chain_reads_less(held: str) -> None:
    """b shares with both others: a chain that begins with it would read one part twice."""
    models = {"b": parts("vicuna t5"), "a": parts("vicuna x"), "c": parts("t5 y"), "alone": parts("glm")}
    found = loading_order(parts(held), models)
    least = min(read(parts(held), models, list(order)) for order in permutations(models))
    assert read(parts(held), models, found) == least and set(found) == set(models)


def test_the_order_does_not_depend_on_what_fits_and_is_left_alone_where_that_is_asked() -> None:
    models = {name: (own, 5) for name, own in PAPER.items()}
    every, none = (plan_loading([], models, 1, lambda size, yes=yes: yes, reorder=True) for yes in (True, False))
    assert every.order == none.order and every.ahead == every.order and none.ahead == []
    assert plan_loading([], models, 1, lambda size: True, reorder=False).order == list(PAPER)
    assert every.reads == read([], PAPER, every.order) < none.reads == sum(new_bytes([], own) for own in PAPER.values())


def test_two_fit_where_their_parts_and_the_scoring_of_the_first_do() -> None:
    models = {"a": (parts("eva vicuna"), 3), "b": (parts("eva vicuna x"), 1), "c": (parts("eva glm"), 9)}
    sizes = {("a", "b"): 14 + 1 + 3, ("b", "a"): 15 + 1, ("b", "c"): 2 + 12 + 11 + 1 + 1, ("", "a"): 14 + 4}
    for limit in range(12, 40):
        found = plan_loading([], models, 4, lambda size, limit=limit: size <= limit, reorder=True)
        for pair, size in sizes.items():
            assert (pair in found.beside) == (size <= limit)
        assert found.order == ["a", "b", "c"]
    assert found.extra == sizes["b", "c"] and ("a", "a") not in found.beside


def test_no_model_and_one_model_have_an_order() -> None:
    assert plan_loading([], {}, 0, lambda size: True, reorder=True) == ([], [], 0, 0)
    assert plan_loading([], {"a": (parts("x"), 2)}, 0, lambda size: True, reorder=True) == (["a"], [("", "a")], 1, 1)
