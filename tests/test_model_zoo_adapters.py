"""What every adapter owes its callers, on tiny random models of all five architectures."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_models import ANSWERS, CANDIDATES, IMAGE_SIZE, N_QUERY, QUESTIONS, TINY, tiny_images, tiny_mllm
from torch import Tensor, nn

from model_zoo.base import MLLM, resize_square


@pytest.fixture(scope="module", params=TINY)
def model(request: pytest.FixtureRequest) -> MLLM:
    return tiny_mllm(request.param)


def loss_of(model: MLLM, frames: Tensor) -> Tensor:
    nats, tokens = model.answer_loss(frames, QUESTIONS, ANSWERS)
    return nats.sum() / tokens.sum()


def test_gradient_reaches_every_border_pixel(model: MLLM) -> None:
    frames = tiny_images().requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(model, frames), frames)
    border = torch.ones(IMAGE_SIZE, IMAGE_SIZE, dtype=torch.bool)
    border[4:-4, 4:-4] = False
    assert (gradient.abs().sum(1)[:, border] > 0).float().mean() > 0.99


def exact_rms_norm(module: nn.Module, hidden: Tensor) -> Tensor:
    """The library's RMS norms without their detour through float32, which finite differences would measure."""
    eps = module.variance_epsilon
    return module.weight * hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + eps)


def test_gradient_equals_finite_differences(model: MLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.llama.modeling_llama import LlamaRMSNorm
    from transformers.models.t5.modeling_t5 import T5LayerNorm

    for norm in (LlamaRMSNorm, T5LayerNorm):
        monkeypatch.setattr(norm, "forward", exact_rms_norm)
    exact, frames = copy.deepcopy(model).double(), tiny_images().double().requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(exact, frames), frames)
    direction = torch.randn(frames.shape, dtype=torch.float64)
    step = 1e-5 * direction
    with torch.no_grad():
        slope = (loss_of(exact, frames + step) - loss_of(exact, frames - step)) / 2e-5
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-6, atol=1e-9)


def test_a_batch_equals_its_single_images(model: MLLM) -> None:
    """Padding to the longest question and answer of the batch must not show."""
    frames = tiny_images()
    with torch.no_grad():
        nats, tokens = model.answer_loss(frames, QUESTIONS, ANSWERS)
        scores = model.score(frames, QUESTIONS, CANDIDATES)
        for i in range(len(frames)):
            one = slice(i, i + 1)
            alone = model.answer_loss(frames[one], QUESTIONS[one], ANSWERS[one])
            torch.testing.assert_close(alone[0], nats[one], atol=1e-4, rtol=1e-5)
            assert alone[1].tolist() == tokens[one].tolist()
            single = model.score(frames[one], QUESTIONS[one], CANDIDATES)
            torch.testing.assert_close(single, scores[one], atol=1e-5, rtol=1e-5)


def test_token_counts_are_known_without_the_model(model: MLLM) -> None:
    with torch.no_grad():
        _, tokens = model.answer_loss(tiny_images(), QUESTIONS, ANSWERS)
    counts = model.answer_token_counts(QUESTIONS, ANSWERS)
    assert counts.dtype == tokens.dtype == torch.int64
    assert counts.tolist() == tokens.tolist()


def test_loss_is_positive_float32(model: MLLM) -> None:
    with torch.no_grad():
        nats, _ = model.answer_loss(tiny_images(), QUESTIONS, ANSWERS)
    assert nats.dtype == torch.float32
    assert (nats > 0).all()


@pytest.mark.parametrize("name", ["minigpt4", "llava"])
def test_loss_without_the_end_is_minus_the_score(name: str) -> None:
    """Where training and ranking share a prefix, the loss of an answer without its end token is its likelihood."""
    model = tiny_mllm(name)
    model.answer_ids = model.text_ids
    with torch.no_grad():
        nats, _ = model.answer_loss(tiny_images(), QUESTIONS, ANSWERS)
        scores = model.score(tiny_images(), QUESTIONS, ANSWERS, normalize=False)
    torch.testing.assert_close(-nats, scores.diagonal(), atol=1e-4, rtol=1e-5)


def test_a_reused_encoding_gives_the_same_results_without_images(model: MLLM) -> None:
    frames = tiny_images()
    with torch.no_grad():
        visual = model.encode_image(frames, QUESTIONS)
        loss, reused = (model.answer_loss(x, QUESTIONS, ANSWERS, visual=v) for x, v in ((frames, None), (None, visual)))
        torch.testing.assert_close(loss[0], reused[0])
        score, again = (model.score(x, QUESTIONS, CANDIDATES, visual=v) for x, v in ((frames, None), (None, visual)))
        torch.testing.assert_close(score, again)


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


def test_it_is_frozen_and_stays_in_eval_mode(model: MLLM) -> None:
    model.train()
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_bfloat16_runs_and_stays_close(model: MLLM) -> None:
    half, frames = copy.deepcopy(model).to(torch.bfloat16), tiny_images().requires_grad_()
    loss = loss_of(half, frames)
    (gradient,) = torch.autograd.grad(loss, frames)
    assert loss.dtype == gradient.dtype == torch.float32
    assert gradient.abs().sum() > 0
    with torch.no_grad():
        scores = half.score(frames.detach(), QUESTIONS, CANDIDATES)
        exact = model.score(frames.detach(), QUESTIONS, CANDIDATES)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, exact, atol=0.5, rtol=0)


def test_frames_of_another_size_are_resized_and_out_of_range_values_pass(model: MLLM) -> None:
    frames = (tiny_images(3, 48) * 3 - 1).requires_grad_()
    with torch.no_grad():
        expected = loss_of(model, resize_square(frames, IMAGE_SIZE))
    loss = loss_of(model, frames)
    torch.testing.assert_close(loss.detach(), expected, atol=1e-5, rtol=0)
    assert torch.autograd.grad(loss, frames)[0].abs().min(dim=0).values.sum() > 0


@pytest.mark.parametrize("style", ["infer", "vqa"])
def test_generation_answers_every_image(model: MLLM, style: str) -> None:
    visual = model.encode_image(tiny_images(), QUESTIONS)
    greedy = {"num_beams": 1, "max_new_tokens": 4}
    texts = model.generate(tiny_images(), QUESTIONS, style=style, **greedy)
    assert len(texts) == 3
    assert texts == model.generate(None, QUESTIONS, style=style, visual=visual, **greedy)
    alone = model.generate(tiny_images()[1:2], QUESTIONS[1:2], style=style, **greedy)
    assert alone == texts[1:2]


def test_beam_search_runs(model: MLLM) -> None:
    assert len(model.generate(tiny_images(), QUESTIONS, num_beams=2, max_new_tokens=3)) == 3


def test_a_wrong_number_of_texts_is_named(model: MLLM) -> None:
    with pytest.raises(ValueError, match="Got 2 questions for 3 images"):
        model.answer_loss(tiny_images(), QUESTIONS[:2], ANSWERS)
    with pytest.raises(ValueError, match="questions is one string"):
        model.score(tiny_images(), "what is it?", CANDIDATES)


def test_an_unknown_style_is_named(model: MLLM) -> None:
    with pytest.raises(ValueError, match="Expected one of cls, infer, vqa"):
        model.generate(tiny_images(), QUESTIONS, style="chat")


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
