"""Prompts: what they may change and what not."""

import copy

import pytest
import torch

from lightning_modules.artefact_png import border_mask
from lightning_modules.controls import Control
from lightning_modules.prompts import OverlayPrompt, PadPrompt, Prompt, build_prompt

KINDS = ("pad", "overlay")


def make(kind: str = "pad", bounds: str = "image", **init) -> Prompt:
    prompt = build_prompt(kind, frame=20, pad=4, bounds=bounds)
    if init:
        prompt.init_(**init)
    return prompt


def images_for(prompt: Prompt, batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(batch, 3, prompt.image_size, prompt.image_size, generator=generator)


@pytest.mark.parametrize("bounds", ["image", "unbounded"])
@pytest.mark.parametrize("kind", KINDS)
def test_prompt_changes_only_the_border(kind, bounds):
    prompt = make(kind, bounds, how="normal", seed=3)
    images = images_for(prompt)
    changed = (prompt(images) != prompt.blank(images)).any(0).any(0)
    assert changed.any()
    assert not changed[4:16, 4:16].any()


@pytest.mark.parametrize("kind", KINDS)
def test_zero_prompt_equals_the_blank_frame_bit_for_bit(kind):
    prompt = make(kind)
    images = images_for(prompt)
    assert torch.equal(prompt(images), prompt.blank(images))


def test_pad_prompt_keeps_the_image_in_the_middle():
    prompt = make(how="normal")
    images = images_for(prompt)
    frames = prompt(images)
    assert frames.shape == (2, 3, 20, 20)
    assert torch.equal(frames[..., 4:16, 4:16], images)
    assert not prompt.blank(images)[:, :, prompt.mask[0] > 0].any()


@pytest.mark.parametrize(("kind", "low"), [("pad", 0.0), ("overlay", -1.0)])
def test_project_zeroes_the_inside_and_keeps_the_bounds(kind, low):
    prompt = make(kind)
    prompt.delta.data = torch.randn(prompt.delta.shape) * 5
    prompt.project_()
    assert not prompt.delta[:, 4:16, 4:16].any()
    assert prompt.delta.min() == low and prompt.delta.max() == 1.0


def test_project_of_an_unbounded_prompt_leaves_the_border_alone():
    prompt = make(bounds="unbounded")
    values = torch.randn(prompt.delta.shape) * 5
    prompt.delta.data = values.clone()
    prompt.project_()
    border = prompt.mask[0] > 0
    assert torch.equal(prompt.delta[:, border], values[:, border])


def test_overlay_in_image_bounds_stays_a_picture_and_unbounded_does_not():
    for bounds, inside in (("image", True), ("unbounded", False)):
        prompt = make("overlay", bounds, how="normal")
        frames = prompt(images_for(prompt))
        assert bool(((frames >= 0) & (frames <= 1)).all()) is inside


def test_overlay_clamp_stops_the_gradient_of_saturated_pixels():
    prompt = OverlayPrompt(frame=4, pad=1)
    images = torch.tensor([0.5, 1.0]).view(2, 1, 1, 1).expand(2, 3, 4, 4)
    prompt.delta.data += 0.25 * prompt.mask
    prompt(images).sum().backward()
    assert torch.equal(prompt.delta.grad[:, 0, 0], torch.ones(3))  # of the two images, only the grey one moves


def test_wrong_image_size_says_what_to_set():
    with pytest.raises(ValueError, match=r"takes images \(B, 3, 12, 12\), got \(1, 3, 20, 20\).*image_size to 12"):
        make()(torch.rand(1, 3, 20, 20))


def test_wrong_settings_say_what_is_available():
    with pytest.raises(ValueError, match=r"Unknown prompt bounds 'both'. Available: image, unbounded"):
        PadPrompt(bounds="both")
    with pytest.raises(ValueError, match=r"does not fit a frame of 20 px"):
        PadPrompt(frame=20, pad=10)
    with pytest.raises(ValueError, match=r"Unknown prompt kind 'frame'. Available: full, lowrank, overlay, pad,"):
        build_prompt("frame", frame=20, pad=4, bounds="image")
    with pytest.raises(ValueError, match=r"Unknown prompt init 'ones'. Available: zero, normal"):
        make(how="ones")


@pytest.mark.parametrize("bounds", ["image", "unbounded"])
def test_a_grey_start_is_half_of_white_on_the_border_alone(bounds):
    prompt = make("pad", bounds, how="grey")
    assert torch.equal(prompt.delta.detach(), 0.5 * prompt.mask.expand(3, 20, 20))


def test_a_start_of_the_mean_image_is_the_mean_of_the_images_replicate_padding():
    prompt = make()
    images = images_for(prompt, 5)
    prompt.init_("replicate", mean_image=images.mean(0))
    padded = Control("replicate", 20, 4)(images).mean(0)
    torch.testing.assert_close(prompt.delta.detach(), padded * prompt.mask)
    for wrong in (None, images[0, :, 1:]):
        with pytest.raises(ValueError, match=r"needs a mean image \(3, 12, 12\), got (None|\(3, 11, 12\))"):
            prompt.init_("replicate", mean_image=wrong)


@pytest.mark.parametrize("how", ["grey", "replicate"])
def test_an_overlay_refuses_a_start_that_is_a_border_by_itself(how):
    with pytest.raises(ValueError, match=f"prompt.init={how} is a border.*Expected prompt.init=zero or normal"):
        make("overlay", how=how)


def test_init_is_seeded_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    first, same, other = (make(how="normal", seed=seed).delta for seed in (1, 1, 2))
    assert torch.equal(first, same) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_paper_has_69840_trainable_values():
    assert int(3 * border_mask(224, 30).sum()) == 69_840


def test_a_checkpoint_of_a_prompt_holds_delta_alone_and_copies_are_independent():
    prompt = make(how="normal")
    assert list(prompt.state_dict()) == ["delta"]
    twin = copy.deepcopy(prompt)
    twin.delta.data.zero_()
    assert prompt.delta.any()
    assert torch.equal(twin.mask, prompt.mask)


def test_broadcast_delta_receives_the_sum_of_per_image_gradients():
    prompt = make()
    weights = torch.randn(3, 3, 20, 20)
    (prompt(images_for(prompt, 3)) * weights).sum().backward()
    torch.testing.assert_close(prompt.delta.grad, weights.sum(0))
