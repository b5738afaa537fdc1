"""VisualGLM: the prefix LM's masks and positions, its two losses, its ranking, and decoding with a cache."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.tiny_models import ANSWERS, CANDIDATES, QUESTIONS, tiny_chatglm, tiny_images, tiny_mllm
from torch import Tensor

from model_zoo.base import MLLM
from model_zoo.chatglm import ChatGLMConfig, inverse_frequencies, rotary_tables, rotate
from model_zoo.layer_options import checkpoint_layers_
from model_zoo.prefix_lm import PREFIX_LM, glm_positions, glm_rows, prefix_seen
from model_zoo.scoring.packing import block_mask, score_packed
from model_zoo.scoring.trie import build_trie
from model_zoo.sequences import IMAGE, embed_rows, pad_rows


@pytest.fixture(scope="module")
def ours() -> MLLM:
    return tiny_mllm("visualglm")


@pytest.fixture(scope="module")
def official() -> MLLM:
    return tiny_mllm("visualglm", official=True)


@torch.no_grad()
def row_logits(model: MLLM, ids: list[int], length: int, image: Tensor) -> Tensor:
    """Vocabulary logits (L, V) of one unpadded row whose prefix has `length` entries; image (1, T, D)."""
    row = torch.tensor([ids])
    embeds = embed_rows(model.llm.get_input_embeddings(), row, image)
    mask, positions = glm_rows(torch.ones_like(row).bool(), torch.tensor([length]), embeds.dtype)
    return model.llm(inputs_embeds=embeds, attention_mask=mask, position_ids=positions).logits[0]


def test_the_context_sees_itself_and_the_rest_looks_back() -> None:
    """Context of two, <sop>, one answer token; then the same row padded on each side."""
    row = [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    full = prefix_seen(torch.ones(1, 4, dtype=torch.bool), torch.tensor([3]))
    assert full[0].int().tolist() == row
    for side in (slice(0, 4), slice(2, 6)):
        mask = torch.zeros(1, 6, dtype=torch.bool)
        mask[:, side] = True
        seen = prefix_seen(mask, torch.tensor([3]))[0].int()
        assert seen[side, side].tolist() == row
        assert seen.sum(0)[~mask[0]].tolist() == [0, 0]


def test_positions_stop_at_gmask_and_blocks_count_from_sop() -> None:
    positions = glm_positions(torch.tensor([[0, 1, 2, 3, 4], [0, 0, 0, 1, 2]]), torch.tensor([4, 2]))
    assert positions[0].tolist() == [[0, 1, 2, 2, 2], [0, 0, 0, 1, 2]]
    assert positions[1].tolist() == [[0, 0, 0, 0, 0], [0, 0, 0, 1, 2]]


def test_packed_candidates_stand_where_they_would_in_their_own_row() -> None:
    mask = torch.tensor([[True, True, True, True, False]])
    after = PREFIX_LM.after(mask, torch.tensor([[0, 1]]))
    alone = glm_positions(torch.arange(6)[None], torch.tensor([4]))
    assert after.tolist() == alone[:, :, 4:].tolist()
    assert PREFIX_LM.start(mask)[:, :, :4].tolist() == alone[:, :, :4].tolist()
    seen = block_mask(mask, torch.ones(1, 1, 1, dtype=torch.bool), torch.float32, PREFIX_LM)[0, 0] == 0
    assert seen[5].int().tolist() == [1, 1, 1, 1, 0, 1]
    assert seen[0].int().tolist() == [1, 1, 1, 0, 0, 0]


def test_rotary_frequencies_are_rounded_through_float16() -> None:
    exact = 10000 ** (-torch.arange(0, 64, 2).float() / 64)
    rounded = inverse_frequencies(64, torch.device("cpu"))
    assert rounded.dtype == torch.float32 and torch.equal(rounded, rounded.half().float())
    assert 0 < (rounded - exact).abs().max() <= 2**-11
    assert rounded[8].item() == 0.0999755859375  # float16's 0.1


def test_rotation_turns_each_half_by_its_own_position() -> None:
    x, positions = torch.randn(1, 2, 3, 8), torch.tensor([[[0, 1, 5], [0, 0, 2]]])
    turned = rotate(x, *rotary_tables(positions, 4, x.dtype))
    torch.testing.assert_close(turned[:, :, 0], x[:, :, 0])
    torch.testing.assert_close(turned[:, :, 1, 4:], x[:, :, 1, 4:])  # block position 0
    for half, position in ((x[0, 0, 2, :4], 5), (x[0, 0, 2, 4:], 2)):
        angles = position * inverse_frequencies(4, torch.device("cpu"))
        pairs = torch.complex(half[:2], half[2:]) * torch.polar(torch.ones(2), angles)
        at = 0 if position == 5 else 4
        torch.testing.assert_close(turned[0, 0, 2, at : at + 4], torch.cat([pairs.real, pairs.imag]))


def test_the_residual_factor_does_not_follow_the_depth() -> None:
    """The original leaves its block's num_layers at 28 at any depth; golden's two-layer model shows it."""
    assert ChatGLMConfig(num_hidden_layers=2).residual_layers == 28
    assert tiny_chatglm(10).transformer.layers[0].alpha == 2.0  # sqrt(2 * residual_layers)


def test_a_row_is_image_text_gmask_sop_answer(ours: MLLM) -> None:
    prefix, target = ours.loss_ids("what is it?", "a cat", 2)
    after = ours.text_ids("</img> what is it?")
    assert prefix == [*ours.text_ids("<img>"), IMAGE, IMAGE, *after, ours.gmask_id, ours.sop_id]
    assert target == ours.text_ids("a cat")
    free = ours.prefix_ids("what is it?", 0, ranking=False, style="infer")
    assert free[:-2] == ours.text_ids("<img>") + ours.text_ids("</img> Q: what is it? \nA:")


def test_the_default_loss_is_minus_the_likelihood_of_each_rows_own_answer(ours: MLLM) -> None:
    with torch.no_grad():
        nats, tokens = ours.answer_loss(tiny_images(), QUESTIONS, ANSWERS)
        scores = ours.score(tiny_images(), QUESTIONS, ANSWERS, normalize=False)
    torch.testing.assert_close(-nats, scores.diagonal(), atol=1e-4, rtol=1e-5)
    assert tokens.tolist() == [len(ours.text_ids(answer)) for answer in ANSWERS]


def test_the_official_loss_counts_every_token_but_the_first(official: MLLM) -> None:
    image, question, answer = tiny_images(1), QUESTIONS[:1], ANSWERS[:1]
    with torch.no_grad():
        visual = official.encode_image(image, question).tokens
        nats, tokens = official.answer_loss(image, question, answer)
    prefix, target = official.loss_ids(question[0], answer[0], visual.shape[1])
    logits = row_logits(official, prefix + target, len(prefix), visual)
    labels = torch.tensor([official.unk_id if i == IMAGE else i for i in (prefix + target)[1:]])
    torch.testing.assert_close(nats[0], F.cross_entropy(logits[:-1], labels, reduction="sum"), rtol=1e-5, atol=1e-4)
    assert tokens.tolist() == [len(labels)] == official.answer_token_counts(question, answer).tolist()


def test_the_official_loss_takes_one_image(official: MLLM) -> None:
    with pytest.raises(ValueError, match=r"one image at a time, got 3.*official=false"):
        official.answer_loss(tiny_images(), QUESTIONS, ANSWERS)
    with pytest.raises(ValueError, match="Got 3 questions for 1 images"):
        official.answer_loss(tiny_images(1), QUESTIONS, ANSWERS)


def test_official_ranking_uses_the_first_rows_text(ours: MLLM, official: MLLM) -> None:
    with torch.no_grad():
        expected = ours.score(tiny_images(), QUESTIONS[:1] * 3, CANDIDATES)
        own, first = (model.score(tiny_images(), QUESTIONS, CANDIDATES) for model in (ours, official))
    torch.testing.assert_close(first, expected)
    assert (own[1:] - first[1:]).abs().max() > 1e-3
    with pytest.raises(ValueError, match="questions is one string"):
        official.score(tiny_images(), "what is it?", CANDIDATES)


@torch.no_grad()
def test_the_side_of_the_padding_does_not_change_scores(ours: MLLM) -> None:
    tokens = ours.encode_image(tiny_images(), QUESTIONS).tokens
    prefixes = [ours.prefix_ids(question, tokens.shape[1], ranking=True) for question in QUESTIONS]
    tries, embedding = [build_trie([ours.text_ids(text) for text in CANDIDATES])] * 3, ours.llm.get_input_embeddings()
    right, left = (
        score_packed(ours.scorer(), embed_rows(embedding, ids, tokens), mask, [tries], len(CANDIDATES))
        for ids, mask in (pad_rows(prefixes, tokens.device, left=side) for side in (False, True))
    )
    torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-6)


@torch.no_grad()
def decode(model: MLLM, rows: slice, **decoding) -> list[list[int]]:
    """Generated ids of some of the three images, asked questions of different length."""
    questions = QUESTIONS[rows]
    visual = model.encode_image(tiny_images()[rows], questions).tokens
    prefixes = [model.prefix_ids(q, visual.shape[1], ranking=False, style="infer") for q in questions]
    ids, mask = pad_rows(prefixes, visual.device, left=True)
    embeds = embed_rows(model.llm.get_input_embeddings(), ids, visual)
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": -1, **decoding}
    return model.llm.generate(inputs_embeds=embeds, attention_mask=mask.long(), **settings).tolist()


@pytest.mark.parametrize("decoding", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
def test_batched_decoding_equals_unbatched_with_and_without_a_cache(ours: MLLM, decoding: dict) -> None:
    together = decode(ours, slice(None), **decoding)
    assert together == [decode(ours, slice(i, i + 1), **decoding)[0] for i in range(3)]
    assert together == decode(ours, slice(None), use_cache=False, **decoding)


def test_greedy_decoding_follows_the_full_forward(ours: MLLM) -> None:
    written = decode(ours, slice(1, 2))[0]
    with torch.no_grad():
        visual = ours.encode_image(tiny_images()[1:2], QUESTIONS[1:2]).tokens
    prefix = ours.prefix_ids(QUESTIONS[1], visual.shape[1], ranking=False, style="infer")
    logits = row_logits(ours, prefix + written, len(prefix), visual)
    assert logits[len(prefix) - 1 : -1].argmax(-1).tolist() == written


def test_generation_needs_the_prefix_as_embeddings(ours: MLLM) -> None:
    with pytest.raises(ValueError, match="Pass the prefix as inputs_embeds"):
        ours.llm.generate(torch.tensor([[1, 2]]), max_new_tokens=1, pad_token_id=0, eos_token_id=-1)


def test_decoding_is_greedy_unless_asked_otherwise(ours: MLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict = {}
    monkeypatch.setattr(ours.llm, "generate", lambda **kwargs: seen.update(kwargs) or torch.zeros(1, 1).long())
    ours.generate(tiny_images(1), QUESTIONS[:1])
    assert (seen["num_beams"], seen["do_sample"], seen["max_new_tokens"]) == (1, False, 128)
    ours.generate(tiny_images(1), QUESTIONS[:1], num_beams=4)
    assert seen["num_beams"] == 4


def test_recomputed_blocks_give_the_same_gradient_and_generation(ours: MLLM) -> None:
    def gradient(model: MLLM) -> Tensor:
        frames = tiny_images().requires_grad_()
        return torch.autograd.grad(model.answer_loss(frames, QUESTIONS, ANSWERS)[0].sum(), frames)[0]

    wrapped = checkpoint_layers_(tiny_mllm("visualglm"))
    assert torch.equal(gradient(wrapped), gradient(ours))
    assert decode(wrapped, slice(None)) == decode(ours, slice(None))


def test_embeddings_and_head_are_one_matrix_unless_told_otherwise(ours: MLLM) -> None:
    assert ours.llm.lm_head.weight is ours.llm.transformer.word_embeddings.weight
    apart = type(ours.llm)(ChatGLMConfig(**{**ours.llm.config.to_dict(), "tie_word_embeddings": False}))
    assert apart.lm_head.weight is not apart.transformer.word_embeddings.weight
