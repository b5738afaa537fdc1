"""Codecs and input diversity in training: what they do to frames, to gradients, and by which draws."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_modules.draws import step_generator, uniform, whole
from lightning_modules.frame_changes import (
    FrameChanges,
    Sent,
    coloured,
    jpeg,
    resize_and_back,
    round_8bit,
    scaled,
    shifted,
)
from lightning_modules.vocabulary import THROUGH

SIDE = 24
EVERYTHING = {"shift": 3, "scale": 0.2, "jitter": 0.3}


def frames(n=2, seed=0, low=0.0, high=1.0, dtype=torch.float32):
    noise = torch.rand(n, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (low + (high - low) * noise).to(dtype)


def test_with_nothing_set_frames_come_back_as_the_same_tensor():
    given = frames()
    assert FrameChanges().at(3)(given) is given


def test_draws_are_those_of_seed_update_and_purpose_and_stay_in_their_range():
    def numbers(*key):
        draws = step_generator(*key)
        return [uniform(draws, 75, 95) for _ in range(20)] + [whole(draws, -2, 2) for _ in range(50)]

    assert numbers(1, 2, "a") == numbers(1, 2, "a")
    assert len({tuple(numbers(*key)) for key in ((1, 2, "a"), (2, 1, "a"), (1, 3, "a"), (1, 2, "b"))}) == 4
    found = numbers(1, 2, "a")
    assert all(75 <= number < 95 for number in found[:20]) and {*found[20:]} == {-2, -1, 0, 1, 2}


@pytest.mark.parametrize("options", [*({"through": [way]} for way in THROUGH), EVERYTHING])
def test_changes_are_a_function_of_seed_and_update_whatever_the_batch(options):
    """So a resumed run, another rank and a micro-batch see what an uninterrupted run's whole batch sees."""
    given = frames(4)
    change = FrameChanges(**options, seed=5).at(7)
    torch.manual_seed(3)
    first = change(given)
    torch.manual_seed(4)
    assert torch.equal(FrameChanges(**options, seed=5).at(7)(given), first)
    assert torch.equal(torch.cat([change(given[:1]), change(given[1:])]), first)
    others = [FrameChanges(**options, seed=5).at(step)(given) for step in range(8, 12)]
    others += [FrameChanges(**options, seed=seed).at(7)(given) for seed in range(6, 10)]
    assert ("through" in options and options["through"][0] in ("8bit", "png")) == all(
        torch.equal(other, first) for other in others
    )


def test_8bit_frames_are_what_a_png_keeps_of_them():
    given = frames(low=-0.2, high=1.2)
    pixels = (given[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    stored = io.BytesIO()
    Image.fromarray(pixels).save(stored, "PNG")
    back = torch.from_numpy(np.array(Image.open(stored))).permute(2, 0, 1) / 255
    torch.testing.assert_close(round_8bit(given)[0], back, atol=1e-6, rtol=0)
    assert torch.equal(FrameChanges(["png"]).at(0)(given), round_8bit(given))


def test_jpeg_frames_are_pillow_s_own_and_its_quality_is_drawn_from_75_to_95():
    given = frames()
    stored = io.BytesIO()
    Image.fromarray((given[1] * 255).round().byte().permute(1, 2, 0).numpy()).save(stored, "JPEG", quality=80)
    back = torch.from_numpy(np.array(Image.open(stored))).permute(2, 0, 1) / 255
    torch.testing.assert_close(jpeg(given, 80)[1], back, atol=1e-6, rtol=0)
    errors = [(jpeg(given, quality) - given).square().mean() for quality in (75, 85, 95)]
    assert errors[0] > errors[1] > errors[2] > 0
    by_quality = {tuple(jpeg(given, quality).flatten()[:50].tolist()) for quality in range(75, 96)}
    seen = {tuple(FrameChanges(["jpeg"]).at(step)(given).flatten()[:50].tolist()) for step in range(30)}
    assert seen <= by_quality and len(seen) > 5


@pytest.mark.parametrize("change", [round_8bit, lambda x: jpeg(x, 75)])
def test_the_gradient_goes_straight_through_what_has_none(change):
    given = frames(low=-0.2, high=1.2).requires_grad_()
    weights = frames(seed=9)
    (change(given) * weights).sum().backward()
    torch.testing.assert_close(given.grad, weights)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: resize_and_back(x, 5),
        lambda x: shifted(x, 2, -1),
        lambda x: scaled(x, 7),
        lambda x: scaled(x, 10),
        lambda x: coloured(x, torch.tensor([0.8, 1.0, 1.3]), torch.tensor([-0.1, 0.0, 0.2])),
        FrameChanges(["resize"], shift=2, scale=0.3, jitter=0.3, seed=1).at(4),
    ],
)
def test_gradients_are_those_of_finite_differences(change):
    given = frames(1, dtype=torch.float64)[..., :8, :8].clone().requires_grad_()
    assert change(given).shape == given.shape and change(given).dtype == torch.float64
    assert not torch.equal(change(given), given)
    assert torch.autograd.gradcheck(change, (given,))


def test_resizing_and_back_to_the_same_side_changes_nothing_and_less_to_a_larger_one():
    given = frames()
    assert resize_and_back(given, SIDE) is given
    errors = [(resize_and_back(given, side) - given).abs().mean() for side in (12, 20)]
    assert errors[0] > errors[1] > 0


def test_a_shift_moves_every_pixel_and_repeats_the_edge():
    given = frames()
    moved = shifted(given, 2, -1)
    assert torch.equal(moved[..., 2:, :-1], given[..., :-2, 1:])
    assert torch.equal(moved[..., 0, :-1], given[..., 0, 1:]) and torch.equal(moved[..., 5, -1], given[..., 3, -1])
    assert shifted(given, 0, 0) is given


def test_a_smaller_frame_stands_in_black_and_a_larger_one_is_cropped():
    white = torch.ones(1, 3, SIDE, SIDE)
    small = scaled(white, SIDE - 6)
    assert small.sum().item() == pytest.approx(3 * (SIDE - 6) ** 2, rel=1e-5) and not small[..., :3, :].any()
    assert torch.allclose(scaled(white, SIDE + 7), white, atol=1e-5)
    given = frames()
    assert scaled(given, SIDE).equal(given)


def test_draws_of_diversity_reach_both_ends_and_never_leave_them():
    """A gradient picture tells by how much it was moved and how its colours changed."""
    ramp = torch.linspace(0, 1, SIDE).expand(1, 3, SIDE, SIDE)
    moves = {round(float((FrameChanges(shift=2).at(s)(ramp) - ramp)[0, 0, 8, 12] * (SIDE - 1))) for s in range(60)}
    assert moves == {-2, -1, 0, 1, 2}
    pictures = [FrameChanges(jitter=0.3).at(step)(ramp) for step in range(60)]
    contrasts = [float(picture[0, 0, 0, -1] - picture[0, 0, 0, 0]) for picture in pictures]
    assert 0.7 <= min(contrasts) < 0.8 and 1.2 < max(contrasts) <= 1.3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"through": ["jpg"]}, "Unknown 'jpg' in method.through. Available: 8bit, png, jpeg, resize"),
        ({"through": ["jpeg", "jpeg"]}, "names one change twice"),
        ({"shift": -1}, "shift=-1"),
        ({"scale": 1.0}, "scale=1.0"),
        ({"jitter": -0.1}, "jitter=-0.1"),
    ],
)
def test_nonsense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FrameChanges(**options)


def test_frames_that_are_scored_go_through_what_is_asked_in_order_and_through_nothing_else():
    given = frames()
    assert torch.equal(Sent(lambda x: x, [])(given), given)
    assert torch.equal(Sent(lambda x: x, ["8bit"])(given), round_8bit(given))
    both = Sent(lambda x: x, ["resize:0.5", "jpeg:40"])(given)
    assert torch.equal(both, jpeg(resize_and_back(given, SIDE // 2), 40))
    assert not torch.equal(both, resize_and_back(jpeg(given, 40), SIDE // 2))


@pytest.mark.parametrize(
    "word", ["jpg:75", "jpeg", "jpeg:0", "jpeg:75.5", "resize", "resize:0", "resize:nan", "8bit:3"]
)
def test_a_way_that_cannot_be_read_is_refused_with_examples(word):
    with pytest.raises(ValueError, match=rf"Cannot read '{word}' of targets.through.*\[resize:0.5,jpeg:75\]"):
        Sent(lambda x: x, [word])
