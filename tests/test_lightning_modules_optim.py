"""The normalised step and the schedules, against torch's own and numbers computed by hand."""

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from lightning_modules.optim import NormalizedSGD, build_optimizer, build_schedule, cosine_factor
from lightning_modules.prompts import PadPrompt


def step(values: list[float], gradients: list[list[float]], **options) -> torch.Tensor:
    param = nn.Parameter(torch.tensor(values))
    optimizer = NormalizedSGD([param], **options)
    for gradient in gradients:
        param.grad = torch.tensor(gradient)
        optimizer.step()
    return param.detach()


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_each_step_is_lr_long_whatever_the_gradients_scale(scale):
    moved = step([0.0, 0.0], [[3.0 * scale, 4.0 * scale]], lr=10.0)
    torch.testing.assert_close(moved, torch.tensor([-6.0, -8.0]), rtol=2e-4, atol=0)


def test_a_zero_gradient_moves_nothing():
    assert torch.equal(step([1.0, 2.0], [[0.0, 0.0]], lr=10.0), torch.tensor([1.0, 2.0]))


def test_the_norm_is_over_the_whole_tensor_and_the_mask_comes_after():
    prompt = PadPrompt(frame=4, pad=1, bounds="unbounded")
    prompt.delta.grad = torch.full((3, 4, 4), -1.0)  # 48 values: norm sqrt(48)
    NormalizedSGD([prompt.delta], lr=10.0).step()
    prompt.project_()
    expected = 10.0 / 48**0.5 * prompt.mask.expand(3, 4, 4)
    torch.testing.assert_close(prompt.delta.detach(), expected)


def test_each_parameter_has_its_own_norm():
    params = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
    params[0].grad, params[1].grad = torch.tensor([100.0]), torch.tensor([-0.01])
    NormalizedSGD(params, lr=2.0).step()
    assert [round(p.item(), 4) for p in params] == [-2.0, 2.0]


def test_momentum_by_hand():
    # v1 = (1, 0); v2 = 0.5 v1 + (0, 1) = (0.5, 1); v3 = 0.5 v2 + (-1, 0) = (-0.75, 0.5)
    moved = step([0.0, 0.0], [[5.0, 0.0], [0.0, 2.0], [-1.0, 0.0]], lr=1.0, momentum=0.5)
    torch.testing.assert_close(moved, torch.tensor([-0.75, -1.5]))


def test_momentum_survives_a_checkpoint():
    gradients = [torch.tensor([1.0, 2.0]), torch.tensor([-1.0, 0.5])]
    straight = step([0.0, 0.0], [g.tolist() for g in gradients], lr=1.0, momentum=0.9)
    param = nn.Parameter(torch.zeros(2))
    first = NormalizedSGD([param], lr=1.0, momentum=0.9)
    param.grad = gradients[0]
    first.step()
    second = NormalizedSGD([param], lr=1.0, momentum=0.9)
    second.load_state_dict(first.state_dict())
    param.grad = gradients[1]
    second.step()
    assert torch.equal(param.detach(), straight)


def test_parameters_without_gradient_stay_and_the_closure_is_called():
    param = nn.Parameter(torch.ones(1))
    assert NormalizedSGD([param]).step(lambda: torch.tensor(3.0)) == 3.0
    assert param.item() == 1.0


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_adam_first_moves_every_pixel_of_the_border_by_lr_whatever_its_gradient(scale):
    prompt = PadPrompt(frame=4, pad=1, bounds="unbounded")
    prompt.delta.grad = scale * torch.linspace(-2.0, -1.0, 48).view(3, 4, 4)
    build_optimizer("adam", [prompt.delta], lr=0.01).step()
    prompt.project_()
    torch.testing.assert_close(prompt.delta.detach(), 0.01 * prompt.mask.expand(3, 4, 4), rtol=1e-4, atol=0)


def test_wrong_settings_are_refused():
    for wrong in ({"lr": -1.0}, {"momentum": 1.0}, {"eps": -1e-3}):
        with pytest.raises(ValueError, match=r"Expected lr >= 0, eps >= 0, 0 <= momentum < 1"):
            NormalizedSGD([nn.Parameter(torch.zeros(1))], **wrong)
    with pytest.raises(ValueError, match=r"Unknown optimizer 'lion'. Available: adam, normalized, sgd"):
        build_optimizer("lion", [nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(ValueError, match=r"Unknown schedule 'linear'. Available: constant, cosine_epoch, cosine_step"):
        build_schedule("linear", torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0), total=3)


def rates(schedule_name: str, steps: int, **options) -> list[float]:
    optimizer = build_optimizer("normalized", [nn.Parameter(torch.zeros(1))], lr=10.0)
    schedule = build_schedule(schedule_name, optimizer, **options)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


@pytest.mark.parametrize("epochs", [1, 2, 10])
def test_cosine_per_epoch_equals_torchs_cosine_annealing(epochs):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=10.0)
    oracle, expected = CosineAnnealingLR(optimizer, T_max=epochs), []
    for _ in range(epochs):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        oracle.step()
    assert rates("cosine_epoch", epochs, total=epochs) == pytest.approx(expected)
    assert expected[0] == 10.0  # the one epoch of CIFAR-10 runs at the full rate


def test_warm_up_rises_to_the_full_rate_and_the_cosine_ends_at_zero():
    seen = rates("cosine_step", 21, total=20, warmup=4)
    assert seen[:5] == pytest.approx([2.5, 5.0, 7.5, 10.0, 10.0])
    assert all(a > b for a, b in pairwise(seen[4:]))
    assert seen[20] == pytest.approx(0.0, abs=1e-9)


def test_the_paper_has_no_warm_up():
    assert rates("cosine_epoch", 1, total=5, warmup=3) == [10.0]


def test_constant_rate_with_and_without_warm_up():
    assert rates("constant", 3, total=3) == [10.0] * 3
    assert rates("constant", 4, total=9, warmup=2) == [5.0, 10.0, 10.0, 10.0]


def test_cosine_stays_at_zero_after_its_end():
    assert cosine_factor(50, 10) == pytest.approx(0.0)
