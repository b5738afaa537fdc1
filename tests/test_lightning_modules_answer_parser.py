"""Generated answers: what counts as which candidate, and what as none."""

from __future__ import annotations

import doctest

import pytest

import lightning_modules.answer_parser as answers
from lightning_modules.answer_parser import NUMBER_WORDS, fold, parse_answer, parse_number

YES_NO = ["no", "yes"]
COUNTS = [str(n) for n in range(3, 11)]
NAMES = ["airplane", "car", "cat", "dog", "frog", "slice of pizza", "pizza", "cup of coffee", "maine coon", "bus"]


def test_the_documented_examples_hold():
    found = doctest.testmod(answers)
    assert found.attempted >= 7 and found.failed == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("yes", 1), ("Yes.", 1), (" YES, there is a dog in the image", 1), ("yeah", 1), ("Yep!", 1),
        ("no", 0), ("No, there isn't.", 0), ("Nope", 0), ("no\nyes", 0), ("The answer is yes.", 1),
        ("The answer is no", 0), ("There is no dog in the image.", 0), ("There isn't a dog.", 0),
        ("I don’t see a dog", 0), ("The image does not show a dog. Yes.", 0), ("It cannot be seen", 0),
        ("Yes, but it is not red", 1), ("No doubt, yes", 1), ("Not only that, yes", 1),
        ("", None), ("...", None), ("It is a dog", None), ("yes or no", None), ("Yes and no.", None),
        ("Yes/No", None), ("I'm not sure", None), ("I can't tell.", None), ("No idea", None), ("dog", None),
        ("nothing like yes", None), ("yesterday", None), ("Norway", None), ("unclear: yes", None),
    ],
)  # fmt: skip
def test_yes_and_no(text, expected):
    assert parse_answer(text, YES_NO) == expected
    flipped = parse_answer(text, ["Yes", "No"])
    assert flipped == (None if expected is None else 1 - expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7", 7), ("7.", 7), ("Seven", 7), ("There are 7 objects.", 7), ("seven (7)", 7), ("７", 7), ("A ten", 10),
        ("There are 3 cubes, 3 in all", 3), ("2", None), ("12", None), ("twelve", None), ("3 and 4", None),
        ("one of the five", None), ("3.5", None), ("-3", None), ("1,000", None), ("many", None), ("", None),
        ("3rd", None), ("9" * 5000, None),
    ],
)  # fmt: skip
def test_numbers(text, expected):
    assert parse_answer(text, COUNTS) == (None if expected is None else COUNTS.index(str(expected)))


@pytest.mark.parametrize(("number", "word"), list(enumerate(NUMBER_WORDS)))
def test_number_words_are_numbers(number, word):
    assert parse_number(f"I count {word}.") == number
    assert parse_answer(str(number), [word, "x"]) is None and parse_answer(str(number), [word]) == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cat", "cat"), ("A cat.", "cat"), ("This is a photo of a CAT", "cat"), ("two cats", "cat"), ("buses", "bus"),
        ("a slice of pizza", "slice of pizza"), ("some pizza", "pizza"), ("cup-of-coffee", "cup of coffee"),
        ("a Maine_Coon", "maine coon"), ("not a dog, but a frog", "frog"), ("no car", None), ("it's not a cat", None),
        ("a cat and a dog", None), ("a slice of pizza and pizza", None), ("cats, a cat", "cat"), ("concatenate", None),
        ("carpet", None), ("wolf", None), ("", None),
    ],
)  # fmt: skip
def test_names(text, expected):
    assert parse_answer(text, NAMES) == (None if expected is None else NAMES.index(expected))


def test_candidates_that_fold_to_the_same_are_ambiguous():
    assert parse_answer("a cat", ["The cat", "cat"]) is None
    assert parse_answer("3", ["3", "three"]) is None and parse_answer("4", ["3", "three", "4"]) == 2


def test_every_candidate_names_itself():
    for candidates in (YES_NO, COUNTS, NAMES, ["annual crop land", "a", "the", "10 downing street"]):
        assert [parse_answer(text, candidates) for text in candidates] == list(range(len(candidates)))


def test_folding_is_idempotent():
    for text in ("  The Cup-of-Coffee! ", "Ｆｕｌｌ width", "a", "the the", "É"):
        assert fold(fold(text)) == fold(text) or text == "the the"
