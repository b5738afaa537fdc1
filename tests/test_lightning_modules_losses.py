"""FCA and TSE against hand-computed numbers and their behaviour where nothing moved."""

import pytest
import torch

from lightning_modules.losses import FCA_TOLERANCE, fca_distances, fca_loss, tse_losses


def tokens(batch: int = 2, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(batch, 5, 8, generator=torch.Generator().manual_seed(0)).to(dtype)


def gradient(prompted: torch.Tensor, clean: torch.Tensor, **options) -> torch.Tensor:
    prompted = prompted.clone().requires_grad_()
    fca_loss(prompted, clean, **options).backward()
    return prompted.grad


def test_fca_equals_the_mean_token_distance():
    clean = tokens()
    prompted = clean + torch.randn_like(clean)
    expected = (prompted - clean).norm(dim=-1)
    torch.testing.assert_close(fca_loss(prompted, clean), expected.mean())
    torch.testing.assert_close(fca_distances(prompted, clean), expected.mean(-1))


def test_fca_of_one_moved_token_by_hand():
    clean = torch.ones(1, 2, 4)
    prompted = clean.clone()
    prompted[0, 1] += torch.tensor([3.0, 0.0, 4.0, 0.0])
    assert fca_loss(prompted, clean).item() == pytest.approx(2.5)  # (0 + 5) / 2 tokens
    assert fca_loss(prompted, clean, relative=True).item() == pytest.approx(1.25)  # clean tokens have norm 2
    expected = torch.tensor([[0.0, 0, 0, 0], [0.3, 0, 0.4, 0]])[None]  # unit vector / 2 tokens
    torch.testing.assert_close(gradient(prompted, clean), expected)


@pytest.mark.parametrize("relative", [False, True])
def test_fca_at_zero_prompt_is_zero_with_an_exactly_zero_gradient(relative):
    clean = tokens()
    assert fca_loss(clean.clone(), clean, relative=relative).item() == 0.0
    assert torch.equal(gradient(clean, clean, relative=relative), torch.zeros_like(clean))


def test_fca_of_all_zero_tokens_is_finite():
    zero = torch.zeros(2, 5, 8)
    for relative in (False, True):
        assert torch.equal(gradient(zero, zero, relative=relative), zero)
        assert torch.isfinite(gradient(zero + 1, zero, relative=relative)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rounding_sized_differences_get_no_gradient(dtype):
    exact = tokens()
    cached = exact.to(dtype)
    noise = 0.3 * FCA_TOLERANCE[dtype] * exact.norm(dim=-1, keepdim=True) * torch.nn.functional.normalize(exact, dim=-1)
    assert torch.equal(gradient(cached.float() + noise, cached), torch.zeros_like(exact))
    assert gradient(cached.float() + 10 * noise, cached).norm() > 0


def test_one_moved_token_does_not_wake_the_others():
    clean = tokens(1)
    prompted = clean + 1e-7
    prompted[0, 2] += 1.0
    moved = gradient(prompted, clean).norm(dim=-1)[0] > 0
    assert moved.tolist() == [False, False, True, False, False]


def test_relative_fca_does_not_depend_on_the_scale_of_the_connector():
    clean, prompted = tokens(), tokens() + 0.3
    small, large = (fca_loss(scale * prompted, scale * clean, relative=True) for scale in (1.0, 64.0))
    torch.testing.assert_close(small, large)
    assert fca_loss(64 * prompted, 64 * clean) > 60 * fca_loss(prompted, clean)


def test_clean_features_get_no_gradient():
    clean = tokens().requires_grad_()
    prompted = (tokens() + 1).requires_grad_()
    fca_loss(prompted, clean).backward()
    assert clean.grad is None and prompted.grad.norm() > 0


def test_half_precision_features_are_compared_in_float32():
    clean = torch.full((1, 1, 4), 200.0, dtype=torch.float16)
    prompted = torch.full((1, 1, 4), 500.0, dtype=torch.float16)
    loss = fca_loss(prompted, clean)  # 300^2 overflows float16
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(600.0)


def test_fca_of_different_tokens_says_what_to_do():
    with pytest.raises(
        ValueError, match=r"prompted \(2, 5, 8\) and clean \(2, 4, 8\).*same model, questions and frame"
    ):
        fca_loss(tokens(), tokens()[:, 1:])


def test_tse_is_minus_the_mean_similarity():
    assert tse_losses(torch.tensor([20.0, 30.0])).tolist() == [-20.0, -30.0]
