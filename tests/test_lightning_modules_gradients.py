"""SAM's climb and SPSA's estimate, against hand-made functions; what they touch is put back to the bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_modules.draws import step_generator
from lightning_modules.gradients import SPSA, climbed, estimate_gradients_, total_norm


def parameters(seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.rand(shape, generator=generator).to(dtype)) for shape in ((3, 4), (2, 3))]


FREE = [torch.tensor([1.0, 0.0, 1.0, 1.0]), torch.ones(2, 3)]


def test_the_norm_of_several_tensors_is_that_of_all_their_numbers():
    both = [p.detach() for p in parameters()]
    torch.testing.assert_close(total_norm(both), torch.cat([t.flatten() for t in both]).norm())
    assert torch.equal(total_norm(both[:1]), both[0].norm())


def test_a_climb_is_rho_long_along_the_free_gradient_and_leaves_no_trace():
    learned = parameters()
    before = [p.detach().clone() for p in learned]
    for p, g in zip(learned, parameters(seed=1), strict=True):
        p.grad = g.detach()
    with climbed(learned, FREE, 0.3):
        moved = [p.detach() - b for p, b in zip(learned, before, strict=True)]
        assert torch.is_grad_enabled()
    assert total_norm(moved).item() == pytest.approx(0.3)
    direction = [p.grad * m for p, m in zip(learned, FREE, strict=True)]
    torch.testing.assert_close(moved, [d * 0.3 / total_norm(direction) for d in direction])
    assert all(torch.equal(p.detach(), b) for p, b in zip(learned, before, strict=True))


def test_what_was_moved_comes_back_to_the_bit_when_the_step_raises():
    learned = parameters(dtype=torch.float32)
    before = [p.detach().clone() for p in learned]

    def losses():
        raise RuntimeError("out of memory")

    for p in learned:
        p.grad = torch.ones_like(p)
    with pytest.raises(RuntimeError, match="out of memory"), climbed(learned, FREE, 0.3):
        losses()
    with pytest.raises(RuntimeError, match="out of memory"):
        estimate_gradients_(learned, FREE, losses, SPSA(), step_generator(0, 0, "spsa"))
    assert all(torch.equal(p.detach(), b) for p, b in zip(learned, before, strict=True))


def test_one_direction_is_spall_s_formula():
    (p,) = learned = [nn.Parameter(torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64))]
    asked = []

    def losses():
        asked.append(p.detach().clone())
        return torch.stack([(p**3).sum(), p.sum()])

    before = p.detach().clone()
    seen = estimate_gradients_(learned, [torch.ones(3)], losses, SPSA(0.1, 1), step_generator(0, 0, "spsa"))
    plus, minus = asked
    signs = (plus - before) / 0.1
    torch.testing.assert_close(signs.abs(), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(plus + minus, 2 * before)
    torch.testing.assert_close(p.grad, signs * ((plus**3).sum() - (minus**3).sum()) / 0.2)
    torch.testing.assert_close(seen[1], before.sum())
    assert torch.equal(p.detach(), before)


def test_many_directions_find_the_gradient_where_there_is_one_and_nothing_elsewhere():
    learned, targets = parameters(), [t.detach() for t in parameters(seed=2)]

    def losses():
        return torch.stack([sum(((p - t) ** 2).sum() for p, t in zip(learned, targets, strict=True))])

    estimate_gradients_(learned, FREE, losses, SPSA(0.05, 3000), step_generator(0, 0, "spsa"))
    for p, t, mask in zip(learned, targets, FREE, strict=True):
        true = 2 * (p.detach() - t) * mask
        assert nn.functional.cosine_similarity(p.grad.flatten(), true.flatten(), dim=0) > 0.99
        assert not p.grad[(mask == 0).expand_as(p)].any()


def test_directions_are_those_of_the_generator():
    def estimate(*key):
        learned = parameters()
        losses = lambda: torch.stack([sum((p**2).sum() for p in learned)])  # noqa: E731
        estimate_gradients_(learned, FREE, losses, SPSA(0.02, 2), step_generator(*key))
        return learned[0].grad

    assert torch.equal(estimate(0, 1, "spsa"), estimate(0, 1, "spsa"))
    assert not torch.equal(estimate(0, 1, "spsa"), estimate(0, 2, "spsa"))
