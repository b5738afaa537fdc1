"""Packed candidate scoring equals scoring candidates one at a time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny_models import CANDIDATES, QUESTIONS, TINY, tiny_images, tiny_mllm

from model_zoo.base import MLLM
from model_zoo.scoring.packing import block_mask, score_packed
from model_zoo.scoring.trie import ancestors, build_trie, chunks
from model_zoo.sequences import embed_rows, pad_rows

DECODERS = [name for name in TINY if name != "blip2"]


@pytest.fixture(scope="module", params=TINY)
def model(request: pytest.FixtureRequest) -> MLLM:
    return tiny_mllm(request.param)


@pytest.fixture(scope="module")
def llava() -> MLLM:
    return tiny_mllm("llava")


@torch.no_grad()
def score(model: MLLM, candidates: list, scoring: str = "packed", **kwargs) -> torch.Tensor:
    before, model.scoring = model.scoring, scoring
    try:
        return model.score(tiny_images(), QUESTIONS, candidates, **kwargs)
    finally:
        model.scoring = before


@torch.no_grad()
def test_the_side_of_the_padding_does_not_change_scores(llava: MLLM) -> None:
    tokens = llava.encode_image(tiny_images(), QUESTIONS).tokens
    prefixes = [llava.prefix_ids(question, tokens.shape[1], ranking=True) for question in QUESTIONS]
    tries, embedding = [build_trie([llava.text_ids(text) for text in CANDIDATES])] * 3, llava.llm.get_input_embeddings()
    right, left = (
        score_packed(llava.scorer(), embed_rows(embedding, ids, tokens), mask, [tries], 7)
        for ids, mask in (pad_rows(prefixes, tokens.device, left=side) for side in (False, True))
    )
    torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("normalize", [True, False])
def test_packed_scores_equal_naive_scores(model: MLLM, normalize: bool) -> None:
    """CANDIDATES hold a duplicate, shared beginnings, and `do` which begins `dog`."""
    packed, naive = (score(model, CANDIDATES, kind, normalize=normalize) for kind in ("packed", "naive"))
    torch.testing.assert_close(packed, naive, atol=1e-5, rtol=1e-6)


def test_naive_scores_equal_a_plain_log_softmax(llava: MLLM) -> None:
    """The oracle itself, against log_softmax of one hand-built sequence."""
    text = "a red car"
    with torch.no_grad():
        visual = llava.encode_image(tiny_images(), QUESTIONS)
        prefix, ids = llava.prefix_ids(QUESTIONS[1], visual.tokens.shape[1], ranking=True), llava.text_ids(text)
        table, image = llava.llm.get_input_embeddings(), visual.tokens[1]
        parts = [table(torch.tensor([i])) if i >= 0 else None for i in prefix + ids]
        tokens = iter(image)
        embeds = torch.stack([next(tokens) if part is None else part[0] for part in parts])
        logp = llava.llm(inputs_embeds=embeds[None]).logits[0].log_softmax(-1)
    expected = sum(logp[len(prefix) - 1 + i, token] for i, token in enumerate(ids)) / len(ids)
    torch.testing.assert_close(score(llava, [text], "naive")[1, 0], expected, atol=1e-5, rtol=0)


def test_duplicates_get_equal_scores(model: MLLM) -> None:
    scores = score(model, CANDIDATES)
    torch.testing.assert_close(scores[:, 0], scores[:, 6], atol=1e-6, rtol=0)


def test_class_order_does_not_change_scores(model: MLLM) -> None:
    scores, reversed_ = score(model, CANDIDATES), score(model, CANDIDATES[::-1])
    torch.testing.assert_close(scores, reversed_.flip(-1), atol=1e-5, rtol=0)


def test_other_candidates_do_not_change_a_score(model: MLLM) -> None:
    torch.testing.assert_close(score(model, CANDIDATES)[:, 2:3], score(model, ["carpet"]), atol=1e-5, rtol=0)


def test_per_row_lists_equal_single_rows_and_missing_ones_are_minus_infinity(model: MLLM) -> None:
    lists = [["cat", "carpet"], ["dog"], ["do", "a red car", "car"]]
    scores = score(model, lists)
    assert scores.shape == (3, 3)
    for row, names in enumerate(lists):
        torch.testing.assert_close(scores[row, : len(names)], score(model, names)[row], atol=1e-5, rtol=0)
        assert scores[row, len(names) :].eq(float("-inf")).all()


@pytest.mark.parametrize("limit", [1, 5, 12])
def test_chunking_does_not_change_scores(model: MLLM, limit: int) -> None:
    expected = score(model, CANDIDATES)
    before, model.max_nodes = model.max_nodes, limit
    try:
        torch.testing.assert_close(score(model, CANDIDATES), expected, atol=1e-5, rtol=0)
    finally:
        model.max_nodes = before


@pytest.mark.parametrize("name", DECODERS)
def test_one_token_candidates_need_the_prefix_only(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, lengths, forward = tiny_mllm(name), [], None
    forward = model.hidden_states
    monkeypatch.setattr(model, "hidden_states", lambda e, *rest: lengths.append(e.shape[1]) or forward(e, *rest))
    scores = score(model, ["a", "b", "do"])
    n_visual = model.encode_image(tiny_images(1), QUESTIONS[:1]).tokens.shape[1]
    assert lengths == [max(len(model.prefix_ids(q, n_visual, ranking=True)) for q in QUESTIONS)]
    torch.testing.assert_close(scores, score(model, ["a", "b", "do"], "naive"), atol=1e-5, rtol=0)


@torch.no_grad()
def test_chunking_runs_the_prefix_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, lengths = tiny_mllm("llava", max_nodes=4), []
    forward = model.hidden_states
    monkeypatch.setattr(model, "hidden_states", lambda e, *rest: lengths.append(e.shape[1]) or forward(e, *rest))
    model.score(tiny_images(), QUESTIONS, CANDIDATES)
    prefix = max(len(model.prefix_ids(question, 16, ranking=True)) for question in QUESTIONS)
    assert lengths[0] == prefix
    assert len(lengths) > 2 and all(length < 9 for length in lengths[1:])


def test_normalised_score_is_the_sum_over_the_number_of_tokens(model: MLLM) -> None:
    lengths = torch.tensor([len(model.text_ids(text)) for text in CANDIDATES])
    mean, total = score(model, CANDIDATES), score(model, CANDIDATES, normalize=False)
    torch.testing.assert_close(mean * lengths, total, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        (["cat", ""], "Candidate '' has no tokens"),
        ([], "Expected a non-empty list"),
        ("cat", "Expected a non-empty list"),
        ([["cat"]], "1 candidate lists for 3 images"),
        ([["cat"], [], ["dog"]], "empty candidate list"),
    ],
)
def test_bad_candidates_are_named(llava: MLLM, candidates: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score(llava, candidates)


def test_unknown_scoring_is_refused() -> None:
    with pytest.raises(ValueError, match="Expected one of packed, naive"):
        tiny_mllm("llava", scoring="fast")


words = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), min_size=1, max_size=8)


@settings(max_examples=50, deadline=None)
@given(words)
def test_trie_spells_every_candidate(candidates: list[list[int]]) -> None:
    trie = build_trie(candidates)
    spelled: list[list[int]] = [[] for _ in candidates]
    for k, row, token in trie.steps:
        assert row == 0 or trie.depths[row - 1] == len(spelled[k]) - 1
        spelled[k].append(token)
    assert spelled == candidates
    assert len(trie.tokens) == len({tuple(c[: i + 1]) for c in candidates for i in range(len(c) - 1)})
    assert ancestors(trie.parents).sum(-1).tolist() == [depth + 1 for depth in trie.depths]


@settings(max_examples=50, deadline=None)
@given(words, st.integers(1, 10))
def test_chunks_hold_every_candidate_once(candidates: list[list[int]], limit: int) -> None:
    groups = list(chunks(candidates, limit))
    assert sorted(k for group in groups for k in group) == list(range(len(candidates)))
    sizes = [len(build_trie([candidates[k] for k in group]).tokens) for group in groups]
    assert max(sizes) <= max(limit, *(len(ids) - 1 for ids in candidates), 0)


def test_block_mask_shows_nodes_the_prefix_and_their_ancestors_only() -> None:
    prefix = torch.tensor([[True, True, False]])
    mask = block_mask(prefix, ancestors([-1, 0, -1])[None], torch.float32)[0, 0] == 0
    expected = [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 0, 1, 0, 0],
        [1, 1, 0, 1, 1, 0],
        [1, 1, 0, 0, 0, 1],
    ]
    assert mask.int().tolist() == expected
