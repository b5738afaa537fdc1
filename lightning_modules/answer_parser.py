"""Reads generated answers: free text -> the candidate it names, or None. Pure functions, no data set known.

Texts are folded first (case, width of letters, punctuation, a leading article). The candidates decide the rule:
any       a text that equals one candidate is that one; without such:
yes/no    the first word decides; "not sure" and "yes or no" are no answer; a first sentence that negates ("There is no
          dog", "I don't see one") is no; one that merely affirms something ("It is a cat") is no answer
numbers   digits or the words zero to twenty; the answer must hold one number only, however often
names     whole words, plurals too; of overlapping names the longest counts ("slice of pizza", not "pizza"); a name
          after "not" or "no" does not; two different names are no answer
A number or name that is no candidate is no answer. No rule guesses: what is ambiguous is None and is counted.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import numpy as np

NUMBER_WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
YES, NO = ("yes", "yeah", "yep", "yup"), ("no", "nope", "nah")
ARTICLES = ("a", "an", "the")
UNSURE = re.compile(
    r"\b(?:yes (?:or|and) no|no (?:or|and) yes|yes no|no yes|no idea|not (?:sure|certain|clear)|unsure|unclear|"
    r"(?:can t|cannot|can not|could not|couldn t|unable to) (?:tell|say|determine|answer))\b"
)
NEGATION = re.compile(r"\b(?:no|not|never|none|nothing|cannot|without|n t|\w+n t)\b")
IDIOM = re.compile(r"\bno (?:doubt|question|problem)\b|\bnot only\b")


def parse_answer(text: str, candidates: Sequence[str]) -> int | None:
    """Index of the candidate the text names, or None.

    >>> parse_answer("A dog.", ["cat", "dog"]), parse_answer("a cat or a dog", ["cat", "dog"])
    (1, None)
    >>> parse_answer("There are seven objects.", ["3", "7", "10"]), parse_answer("3 of 7", ["3", "7", "10"])
    (1, None)
    >>> [parse_answer(t, ["no", "yes"]) for t in ("Yes, there is.", "There isn't one.", "Not sure", "It is a cat")]
    [1, 0, None, None]
    """
    numbers = [number_of(candidate) for candidate in candidates]
    if None not in numbers:
        said_number = parse_number(text)
        return numbers.index(said_number) if numbers.count(said_number) == 1 else None
    folded = [fold(candidate) for candidate in candidates]
    exact = [k for k, candidate in enumerate(folded) if candidate == fold(text)]
    if exact:
        return exact[0] if len(exact) == 1 else None
    if sorted(folded) == ["no", "yes"]:
        said = parse_yes_no(text)
        return None if said is None else folded.index(said)
    return parse_name(text, folded)


def fold(text: str) -> str:
    """Lower case, compatibility form, punctuation as spaces, no leading article.

    >>> fold(" The Cup-of-Coffee! ")
    'cup of coffee'
    """
    words = re.sub(r"[^\w]+|_", " ", unicodedata.normalize("NFKC", text).casefold()).split()
    return " ".join(words[1:] if len(words) > 1 and words[0] in ARTICLES else words)


def parse_yes_no(text: str) -> str | None:
    """ "yes", "no" or None, by the rules above, from the first sentence.

    >>> [parse_yes_no(t) for t in ("No, a cat.", "No doubt, yes", "There is no dog.", "Yes or no?", "I think yes")]
    ['no', 'yes', 'no', None, 'yes']
    """
    sentences = [s for s in re.split(r"[.!?\n]+", text) if fold(s)]
    sentence = IDIOM.sub(" ", fold(sentences[0])).strip() if sentences else ""
    words = sentence.split()
    if not words or UNSURE.search(sentence):
        return None
    if words[0] in (*YES, *NO):
        return "yes" if words[0] in YES else "no"
    if NEGATION.search(sentence):
        return None if set(words) & set(YES) else "no"
    return "yes" if set(words) & set(YES) else None


def parse_number(text: str) -> int | None:
    """The one whole number in a text, however often it is said.

    >>> [parse_number(t) for t in ("There are Twelve (12) cubes", "3.5", "two or three", "-4", "many", "1,000")]
    [12, None, None, None, None, None]
    """
    if re.search(r"\d[.,]\d|[-\N{MINUS SIGN}]\d", text):
        return None
    words = fold(text).split()
    found = {int(w) for w in words if w.isdecimal() and len(w) < 10} | {
        NUMBER_WORDS.index(w) for w in words if w in NUMBER_WORDS
    }
    return found.pop() if len(found) == 1 else None


def number_of(candidate: str) -> int | None:
    """The number a candidate is: digits or a word, nothing beside it.

    >>> number_of("7"), number_of("seven"), number_of("7 cubes")
    (7, 7, None)
    """
    word = fold(candidate)
    return parse_number(candidate) if word.isdecimal() or word in NUMBER_WORDS else None


def candidate_numbers(candidates: Sequence[Sequence[str]]) -> np.ndarray | None:
    """(N, K) the numbers N rows' candidates stand for, NaN past a row's last; None if any is no number.

    >>> candidate_numbers([["3", "four"], ["5"]])
    array([[ 3.,  4.],
           [ 5., nan]])
    """
    table = np.full((len(candidates), max(map(len, candidates), default=0)), np.nan)
    for i, row in enumerate(candidates):
        numbers = [number_of(candidate) for candidate in row]
        if None in numbers:
            return None
        table[i, : len(numbers)] = numbers
    return table


def parse_name(text: str, names: Sequence[str]) -> int | None:
    """Index of the one folded name in the text, or None.

    >>> names = ["pizza", "slice of pizza", "dog", "car"]
    >>> [parse_name(t, names) for t in ("Two slices of pizza? A slice of pizza!", "not a dog but a car", "cardigan")]
    [None, 3, None]
    >>> parse_name("It shows dogs.", names)
    2
    """
    folded = fold(text)
    patterns = [(k, rf"\b{re.escape(name)}(?:e?s)?\b") for k, name in enumerate(names) if name]
    spans = [(*m.span(), k) for k, pattern in patterns for m in re.finditer(pattern, folded)]
    longest = [s for s in spans if not any(o[0] <= s[0] and s[1] <= o[1] and o[1] - o[0] > s[1] - s[0] for o in spans)]
    found = {k for start, _, k in longest if not re.search(r"\b(?:not|no)(?: an?| the)? $", folded[:start])}
    return found.pop() if len(found) == 1 else None
