"""Packed ranking of every registered MLLM: exact on random candidates, whatever the order, batch, chunks, padding."""

from __future__ import annotations

import random
from functools import lru_cache

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support.every_mllm import EVERY_MLLM, QUICK
from support.tiny_models import CANDIDATES, QUESTIONS, registered_mllm, tiny_images
from torch import Tensor, nn

from model_zoo.base import MLLM
from model_zoo.blip2 import Blip2T5
from model_zoo.layer_options import stacked_layers
from model_zoo.registry import REGISTRY
from model_zoo.scoring.budget import budget_of
from model_zoo.scoring.packing import score_packed
from model_zoo.scoring.trie import build_trie, plan_tries
from model_zoo.sequences import embed_rows, pad_rows

LETTERS = "abcdo  éß日🙂"
DECODERS = [name for name in QUICK if "T5" not in REGISTRY[name].description]
FEW = settings(
    max_examples=3, deadline=None, suppress_health_check=list(HealthCheck), phases=(Phase.explicit, Phase.generate)
)


@pytest.fixture(scope="module", params=EVERY_MLLM)
def model(request: pytest.FixtureRequest) -> MLLM:
    return registered(request.param)


@lru_cache(maxsize=2)
def registered(name: str) -> MLLM:
    return registered_mllm(name)


def grow(draw: random.Random, known: list[str]) -> str:
    """A new text, one that goes on from a known one, the beginning of a known one, or a known one again."""
    old, kind = (draw.choice(known) if known else ""), draw.randrange(6)
    tail = "".join(draw.choices(LETTERS, k=draw.randint(1, 12)))
    return [tail, tail, old + tail[:3], old + tail[:1], old[: draw.randint(1, 12)], old][kind]


def texts(encode, count: int, longest: int, seed: int) -> list[str]:
    """`count` candidates of 1 to `longest` tokens with shared beginnings, duplicates and unicode."""
    draw, known = random.Random(seed), []
    while len(known) < count:
        text = grow(draw, known) if draw.random() < 0.9 else draw.choice("abcdo")
        if 1 <= len(encode(text)) <= max(longest, 1):
            known.append(text)
    return known


SETS = st.tuples(st.integers(1, 200), st.integers(1, 12), st.integers(0, 2**32))


@torch.no_grad()
def sums(model: MLLM, candidates: list, rows: slice = slice(0, 2), normalize: bool = False, **options) -> Tensor:
    """Scores under temporary options of the model (`scoring`, `max_nodes`, `memory`)."""
    before = {key: getattr(model, key) for key in options}
    vars(model).update(options)
    try:
        return model.score(tiny_images()[rows], QUESTIONS[rows], candidates, normalize=normalize)
    finally:
        vars(model).update(before)


@FEW
@given(SETS)
def test_packed_sums_and_means_equal_naive_ones(model: MLLM, drawn: tuple) -> None:
    candidates = texts(model.text_ids, *drawn)
    naive, lengths = sums(model, candidates, scoring="naive"), [len(model.text_ids(text)) for text in candidates]
    torch.testing.assert_close(sums(model, candidates), naive, atol=1e-5, rtol=1e-6)
    mean = naive / torch.tensor(lengths)
    torch.testing.assert_close(sums(model, candidates, normalize=True), mean, atol=1e-5, rtol=0)


def test_two_hundred_candidates_equal_naive_ones(model: MLLM) -> None:
    candidates = texts(model.text_ids, 200, 12, 0)
    lengths = {len(model.text_ids(text)) for text in candidates}
    assert len(set(candidates)) < 200 and {1, 2, 12} <= lengths
    one = slice(1, 2)
    naive = sums(model, candidates, one, scoring="naive")
    torch.testing.assert_close(sums(model, candidates, one), naive, atol=1e-5, rtol=1e-6)


@FEW
@given(SETS, st.randoms(use_true_random=False), st.integers(1, 40))
def test_order_batch_and_chunks_change_nothing(model: MLLM, drawn: tuple, draw: random.Random, limit: int) -> None:
    candidates = texts(model.text_ids, *drawn)
    expected, order = sums(model, candidates), draw.sample(range(len(candidates)), len(candidates))
    shuffled = sums(model, [candidates[k] for k in order], max_nodes=limit)
    torch.testing.assert_close(shuffled, expected[:, order], atol=1e-5, rtol=1e-6)
    alone = torch.cat([sums(model, candidates, slice(b, b + 1)) for b in range(2)])
    torch.testing.assert_close(alone, expected, atol=1e-5, rtol=1e-6)
    lists = [candidates, candidates[: 1 + limit]]
    ragged = sums(model, lists, max_nodes=limit)
    torch.testing.assert_close(ragged[0], expected[0], atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(ragged[1, : len(lists[1])], expected[1, : len(lists[1])], atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("memory", [1, 100_000, 3_000_000])
def test_the_memory_budget_changes_nothing(model: MLLM, memory: int) -> None:
    candidates = texts(model.text_ids, 60, 6, 3)
    within = sums(model, candidates, memory=memory)
    torch.testing.assert_close(within, sums(model, candidates), atol=1e-5, rtol=1e-6)


def test_the_budget_grows_with_memory_and_shrinks_with_the_batch() -> None:
    config, prefix = registered("minigpt4").llm.config, torch.zeros(2, 10, 32)
    fitting = [budget_of(config, prefix, memory).nodes(cached=True) for memory in (0, 10**5, 10**6, 10**7)]
    assert fitting == sorted(set(fitting)) and fitting[0] == 1
    more = budget_of(config, prefix.repeat(4, 1, 1), 10**6)
    assert more.nodes(cached=True) < fitting[2] < budget_of(config, prefix, 10**6).nodes(cached=False)
    assert budget_of(config, prefix, 0).vocab_rows() == 1


@pytest.mark.parametrize("limit", [None, 3])
@pytest.mark.parametrize("name", DECODERS)
@torch.no_grad()
def test_the_side_of_the_padding_changes_nothing(name: str, limit: int | None) -> None:
    model, frames = registered(name), tiny_images()
    tokens = model.encode_image(frames, QUESTIONS).tokens
    prefixes = [model.prefix_ids(question, tokens.shape[1], ranking=True) for question in QUESTIONS]
    rounds = plan_tries([[model.text_ids(text) for text in CANDIDATES]] * 3, limit)
    padded = (pad_rows(prefixes, tokens.device, left=left) for left in (False, True))
    embedding = model.llm.get_input_embeddings()
    right, left = (
        score_packed(model.scorer(), embed_rows(embedding, ids, tokens), mask, rounds, len(CANDIDATES))
        for ids, mask in padded
    )
    torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-6)


class Counted:
    """Entries that pass the LLM's last layer and rows that meet the vocabulary while inside."""

    def __init__(self, model: MLLM) -> None:
        self.entries = self.rows = self.encoded = 0
        llm, pairs = model.llm, [(stacked_layers(model.llm)[-1], "entries"), (model.llm.lm_head, "rows")]
        pairs += [(llm.encoder.block[0], "encoded")] if isinstance(model, Blip2T5) else []
        self.hooks = [module.register_forward_pre_hook(self.counter(key)) for module, key in pairs]

    def counter(self, key: str):
        def count(module: nn.Module, args: tuple) -> None:
            setattr(self, key, getattr(self, key) + args[0].shape[:-1].numel())

        return count

    def __enter__(self) -> Counted:
        return self

    def __exit__(self, *args: object) -> None:
        for hook in self.hooks:
            hook.remove()


def counted(model: MLLM, candidates: list, **options) -> Counted:
    with Counted(model) as seen:
        sums(model, candidates, slice(0, 3), **options)
    return seen


def test_cost_grows_with_the_nodes_of_the_trie(model: MLLM) -> None:
    """Not with classes x prefix: entries through the LLM are prefix + inner nodes; duplicates and leaves are free."""
    letters, few = "abcdo", CANDIDATES
    many = few * 3 + [text + letter for text in few for letter in letters]
    alone, small, large = (counted(model, candidates) for candidates in (["a"], few, many))
    for seen, candidates in ((small, few), (large, many)):
        nodes = len(build_trie([model.text_ids(text) for text in candidates]).tokens)
        assert seen.entries == alone.entries + 3 * nodes
        assert seen.rows == 3 * (1 + nodes)
        assert seen.encoded == alone.encoded
    chunked = counted(model, many, max_nodes=4)
    assert chunked.entries < alone.entries + 3 * 2 * nodes  # the prefix is not repeated, a few beginnings are
    assert chunked.encoded == alone.encoded


def test_only_rows_that_are_read_meet_the_vocabulary(model: MLLM) -> None:
    """The padding of smaller tries does not."""
    lists = [["a"], ["carpet", "a red car"], ["do"]]
    nodes = sum(len(build_trie([model.text_ids(text) for text in row]).tokens) for row in lists)
    assert counted(model, lists).rows == 3 + nodes


@torch.no_grad()
def test_the_cached_prefix_is_never_changed(model: MLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """After many rounds the cache holds bit for bit what the prefix alone left there."""
    caches, build = [], model.scorer

    def scorer(*args):
        made = build(*args)
        return made._replace(new_cache=lambda: caches.append(made.new_cache()) or caches[-1])

    monkeypatch.setattr(model, "scorer", scorer)
    for candidates in (["carpet", "a"], [*CANDIDATES, "a red dog"]):
        sums(model, candidates, max_nodes=1)
    few, many = caches
    parts = ("self_attention_cache", "cross_attention_cache") if isinstance(model, Blip2T5) else (None,)
    for part in parts:
        one, other = (getattr(cache, part) if part else cache for cache in (few, many))
        for layer, again in zip(one.layers, other.layers, strict=True):
            assert torch.equal(layer.keys, again.keys) and torch.equal(layer.values, again.values)
