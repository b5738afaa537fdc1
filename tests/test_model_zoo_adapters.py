"""What every adapter owes its callers, on tiny random models of all five architectures."""

from __future__ import annotations

import pytest
import torch
from support.tiny_models import ANSWERS, CANDIDATES, IMAGE_SIZE, N_QUERY, QUESTIONS, TINY, tiny_images, tiny_mllm

from model_zoo.base import MLLM, resize_square


@pytest.fixture(scope="module", params=TINY)
def model(request: pytest.FixtureRequest) -> MLLM:
    return tiny_mllm(request.param)


@pytest.mark.parametrize("name", ["minigpt4", "llava"])
def test_loss_without_the_end_is_minus_the_score(name: str) -> None:
    """Where training and ranking share a prefix, the loss of an answer without its end token is its likelihood."""
    model = tiny_mllm(name)
    model.answer_ids = model.text_ids
    with torch.no_grad():
        nats, _ = model.answer_loss(tiny_images(), QUESTIONS, ANSWERS)
        scores = model.score(tiny_images(), QUESTIONS, ANSWERS, normalize=False)
    torch.testing.assert_close(-nats, scores.diagonal(), atol=1e-4, rtol=1e-5)


def test_query_tokens_come_first(model: MLLM) -> None:
    with torch.no_grad():
        visual = model.encode_image(tiny_images(), QUESTIONS)
    patches = (IMAGE_SIZE // 8) ** 2
    expected = {"bliva": (N_QUERY + patches, N_QUERY), "llava": (16, 16)}.get(model.name, (N_QUERY, N_QUERY))
    assert (visual.tokens.shape[1], visual.n_query) == expected


def test_the_question_changes_the_encoding_only_where_the_qformer_reads_it(model: MLLM) -> None:
    with torch.no_grad():
        one, other = (model.encode_image(tiny_images(1), [text]).tokens for text in ("cat", "is it a dog?"))
    assert torch.equal(one, other) is (model.name not in ("instructblip", "bliva"))


def test_bliva_ranks_without_patches_only_in_official_mode() -> None:
    ours, official = tiny_mllm("bliva"), tiny_mllm("bliva", official=True)
    with torch.no_grad():
        visual = ours.encode_image(tiny_images(), QUESTIONS)
    cut = visual._replace(tokens=visual.tokens[:, : visual.n_query])
    with torch.no_grad():
        expected, full = (ours.score(None, QUESTIONS, CANDIDATES, visual=v) for v in (cut, visual))
        torch.testing.assert_close(official.score(None, QUESTIONS, CANDIDATES, visual=visual), expected)
        assert not torch.allclose(full, expected)
        loss, same = (m.answer_loss(None, QUESTIONS, ANSWERS, visual=visual)[0] for m in (ours, official))
        torch.testing.assert_close(loss, same)


def test_normalisation_keeps_full_precision_in_half_precision_models() -> None:
    model, frames = tiny_mllm("llava"), tiny_images()
    exact = model.prepare(frames)
    torch.testing.assert_close(model.to(torch.bfloat16).prepare(frames), exact.to(torch.bfloat16))


def test_resizing_to_the_own_size_is_the_identity() -> None:
    frames = tiny_images()
    assert resize_square(frames, IMAGE_SIZE) is frames
    with pytest.raises(ValueError, match="Expected square RGB images"):
        resize_square(frames[..., :-1], IMAGE_SIZE)


def test_opts_official_loss_ignores_the_answer_and_the_default_does_not() -> None:
    ours, official = tiny_mllm("blip2_opt"), tiny_mllm("blip2_opt", official=True)
    with torch.no_grad():
        (one, _), (other, _) = (official.answer_loss(tiny_images(), QUESTIONS, words) for words in (ANSWERS, ["x"] * 3))
        torch.testing.assert_close(one, other)
        (one, tokens), (other, _) = (
            ours.answer_loss(tiny_images(), QUESTIONS, words) for words in (ANSWERS, ["x"] * 3)
        )
    assert (one - other).abs().min() > 1e-3
    assert tokens.tolist() == [len(ours.text_ids(answer + "\n")) for answer in ANSWERS]
    counts = official.answer_token_counts(QUESTIONS, ANSWERS)
    assert counts.tolist() == [1 + len(official.text_ids(question + "\n")) for question in QUESTIONS]


def test_opts_loss_cuts_long_texts_and_its_ranking_does_not() -> None:
    model, long = tiny_mllm("blip2_opt"), "a very long question " * 9
    assert len(model.prefix_ids(long, 0, ranking=False)) == model.max_text == 32
    assert len(model.prefix_ids(long, 0, ranking=True)) == len(model.text_ids(long))
