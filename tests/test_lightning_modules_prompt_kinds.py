"""Every kind of prompt: gradients, what it may change, what its files give back."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from experiments import schema
from lightning_modules.artefact import OWN_ENTRIES, prompt_sha256, read_manifest
from lightning_modules.artefact_png import cover, prompt_mask
from lightning_modules.optim import NormalizedSGD
from lightning_modules.prompt_kinds import BOUNDS, KINDS, prompt_kind
from lightning_modules.prompt_lowrank import LowRankPrompt
from lightning_modules.prompt_patch import patch_place
from lightning_modules.prompt_scaled import ScaledPrompt, resize_matrix
from lightning_modules.prompts import CLASSES, Prompt, build_prompt

# (kind, bounds): every kind as a recipe learns it, and what else it can be.
MADE = [(kind, "image") for kind in KINDS] + [(kind, "unbounded") for kind in KINDS]
MADE += [("pad", "sigmoid"), ("scaled", "sigmoid")]
ADDED = [kind for kind in KINDS if KINDS[kind].is_added]


def make(kind: str, bounds: str = "image", *, frame: int = 20, pad: int = 4, seed: int = 0, std: float = 0.3) -> Prompt:
    prompt = build_prompt(kind, frame=frame, pad=pad, bounds=bounds)
    prompt.init_("normal", std=std, seed=seed)
    if kind == "scaled":
        prompt.zoom.data.fill_(8 * 0.6437)  # an edge inside a pixel
        prompt.project_()
    return prompt


def images_for(prompt: Prompt, batch: int = 3) -> torch.Tensor:
    """8-bit pictures, as data sets give them."""
    generator = torch.Generator().manual_seed(1)
    shape = (batch, 3, prompt.image_size, prompt.image_size)
    return torch.randint(0, 256, shape, generator=generator).float() / 255


def test_the_table_of_kinds_the_classes_and_the_recipes_key_are_one():
    words = get_args(get_args(get_type_hints(schema.Prompt)["kind"])[0])
    assert set(words) == set(KINDS) == set(CLASSES)
    assert set(get_args(get_args(get_type_hints(schema.Prompt)["bounds"])[0])) == set(BOUNDS)
    for kind in KINDS:
        assert (make(kind).lowest < 0) is KINDS[kind].is_added


# Gradients


@pytest.mark.parametrize(("kind", "bounds"), MADE)
def test_gradients_agree_with_central_differences_in_double_precision(kind, bounds):
    """For every tensor that is learned, in some of its values and along a random direction of all of them."""
    prompt = make(kind, bounds, frame=12, pad=3, std=0.1).double()
    images = 0.3 + 0.4 * images_for(prompt, 2).double()  # far from the clamps
    generator = torch.Generator().manual_seed(2)
    weights = torch.rand(2, 3, 12, 12, generator=generator, dtype=torch.float64)

    def loss() -> torch.Tensor:
        return (weights * prompt(images).square()).sum()

    loss().backward()
    for parameter in prompt.parameters():
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        step, values = 1e-6, parameter.detach().clone()
        ends = []
        for sign in (1, -1):
            parameter.data = values + sign * step * direction
            ends.append(loss().item())
        parameter.data = values
        expected = (ends[0] - ends[1]) / (2 * step)
        assert (parameter.grad * direction).sum().item() == pytest.approx(expected, rel=1e-5, abs=1e-7)
        assert parameter.grad.any()


@pytest.mark.parametrize(("kind", "bounds"), MADE)
def test_a_normalised_step_moves_whatever_is_learned_and_stays_in_bounds(kind, bounds):
    prompt = make(kind, bounds)
    before = [parameter.detach().clone() for parameter in prompt.parameters()]
    optimizer, images = NormalizedSGD(prompt.parameters(), lr=0.5), images_for(prompt)
    target = images.mean(0) if prompt.image_size == 20 else torch.full((3, 20, 20), 0.4)
    loss = (prompt(images) - target).square().sum()
    loss.backward()
    optimizer.step()
    prompt.project_()
    for parameter, old in zip(prompt.parameters(), before, strict=True):
        assert not torch.equal(parameter, old)
    assert (prompt(images) - target).square().sum() < loss
    if bounds != "unbounded":
        assert prompt.lowest <= prompt.delta.min() and prompt.delta.max() <= 1


def test_a_scalar_moves_as_far_as_a_pixel_does_and_one_tensor_moves_as_it_always_did():
    field, scalar = (torch.nn.Parameter(torch.zeros(shape)) for shape in ((3, 10, 10), ()))
    field.grad, scalar.grad = torch.randn(3, 10, 10), torch.tensor(-7.0)
    NormalizedSGD([field, scalar], lr=2.0).step()
    assert field.norm().item() == pytest.approx(2.0)
    assert scalar.item() == pytest.approx(2.0 / 300**0.5)
    alone = torch.nn.Parameter(torch.zeros(3, 10, 10))
    alone.grad = field.grad.clone()
    NormalizedSGD([alone], lr=2.0).step()
    assert torch.equal(alone, field)


# What may change


@pytest.mark.parametrize(("kind", "bounds"), MADE)
def test_project_keeps_mask_and_bounds_whatever_came_before(kind, bounds):
    prompt = make(kind, bounds)
    for parameter in prompt.parameters():
        parameter.data = 5 * torch.randn(parameter.shape)
    prompt.project_()
    assert not (prompt.delta * (1 - prompt.mask)).any()
    if bounds != "unbounded":
        frames = prompt(images_for(prompt))
        assert prompt.lowest <= prompt.delta.min() and prompt.delta.max() <= 1
        assert frames.min() >= 0 and frames.max() <= 1 + 1e-6
    twice = copy.deepcopy(prompt)
    twice.project_()
    assert torch.allclose(twice.delta, prompt.delta, atol=1e-5)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("random_patch", "scaled")])
def test_the_picture_is_untouched_outside_the_mask(kind):
    prompt = make(kind, "unbounded")
    images = images_for(prompt)
    changed = (prompt(images) != prompt.blank(images)).any(0).any(0)
    assert changed.any() and not changed[prompt.mask[0] == 0].any()
    expected = {"pad": 256, "overlay": 256, "full": 400, "lowrank": 400, "patch": 16}[kind]
    assert prompt.mask.sum() == expected and changed.sum() == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_start_at_zero_is_the_blank_frame(kind):
    prompt = build_prompt(kind, frame=20, pad=4, bounds="image")
    prompt.init_("zero", seed=3)
    images = images_for(prompt)
    assert torch.equal(prompt(images), prompt.blank(images))
    assert not prompt.blank(images).requires_grad
    assert torch.equal(prompt.blank(images), images) or not KINDS[kind].is_added


@pytest.mark.parametrize(("kind", "bounds"), MADE)
def test_starts_are_seeded_and_those_without_a_meaning_are_refused(kind, bounds):
    first, same, other = (make(kind, bounds, seed=seed).delta for seed in (1, 1, 2))
    assert torch.equal(first, same) and not torch.equal(first, other)
    prompt = build_prompt(kind, frame=20, pad=4, bounds=bounds)
    if KINDS[kind].is_added:
        with pytest.raises(ValueError, match=f"a prompt of kind {kind} is ADDED.*prompt.init=zero or normal"):
            prompt.init_("grey")
    else:
        prompt.init_("grey")
        assert torch.equal(prompt.delta, 0.5 * prompt.mask.expand(3, -1, -1))
    if bounds == "sigmoid":
        with pytest.raises(ValueError, match=r"prompt.init=zero is black, which a sigmoid never reaches"):
            prompt.init_("zero")


def test_sigmoids_are_for_pixels_alone():
    for kind in ADDED:
        with pytest.raises(ValueError, match=f"prompt.bounds=sigmoid makes.*kind {kind} is ADDED"):
            build_prompt(kind, frame=20, pad=4, bounds="sigmoid")


# Patches


def test_a_picture_places_its_patch_by_its_own_pixels_alone():
    """Whatever else is in the batch and in which order, and as a reader of the manifest computes it with Pillow."""
    prompt = make("random_patch")
    images = images_for(prompt, 6)
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    assert torch.equal(prompt(images)[order], prompt(images[order]))
    assert torch.equal(prompt(images), torch.cat([prompt(image[None]) for image in images]))
    places = [patch_place(image, 4) for image in images]
    assert len(set(places)) > 1
    for image, place in zip(images, places, strict=True):
        picture = Image.fromarray((255 * image).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy())
        number = int.from_bytes(hashlib.sha256(picture.tobytes()).digest()[:8], "little")
        assert place == (number % 17, number // 17 % 17)
    other = images.clone()
    other[0, 0, 0, 0] = 1 - other[0, 0, 0, 0]
    assert patch_place(other[0], 4) != places[0]


def test_a_random_patch_is_the_corners_patch_moved_to_its_place_and_nothing_else():
    prompt, fixed = make("random_patch", "unbounded"), make("patch", "unbounded")
    assert torch.equal(prompt.delta, fixed.delta)
    for image in images_for(prompt, 4):
        top, left = patch_place(image, 4)
        added = prompt(image[None])[0] - image
        torch.testing.assert_close(added[:, top : top + 4, left : left + 4], fixed.delta[:, :4, :4])
        added = added.clone()
        added[:, top : top + 4, left : left + 4] = 0
        assert not added.any()


def test_places_are_spread_over_the_whole_picture():
    images = torch.rand(400, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    places = [patch_place(image, 4) for image in images]
    counts = [places.count((row, column)) for row in range(3) for column in range(3)]
    assert sum(counts) == 400 and min(counts) > 20 and max(counts) < 80


# The scaled picture


@pytest.mark.parametrize("size", [20, 14, 10, 6])
def test_a_picture_of_whole_size_is_torchs_antialiased_resize_in_an_untouched_border(size):
    prompt = make("scaled")
    prompt.zoom.data.fill_(8 * size / 20)
    prompt.project_()
    images, edge = images_for(prompt), (20 - size) // 2
    inside = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    frames = prompt(images)
    torch.testing.assert_close(frames[..., edge : 20 - edge, edge : 20 - edge], inside)
    border = F.pad(torch.zeros(size, size), [edge] * 4, value=1.0)
    torch.testing.assert_close(frames * border, (prompt.delta * border).expand(3, -1, -1, -1))
    torch.testing.assert_close(prompt.blank(images), F.pad(inside, [edge] * 4))


def test_a_fresh_scaled_prompt_leaves_the_border_that_a_pad_prompt_has():
    assert torch.equal(build_prompt("scaled", frame=20, pad=4, bounds="image").mask, prompt_mask("pad", 20, 4))


def test_the_covered_area_is_that_of_the_picture_at_any_scale():
    for scale in (0.125, 0.3, 0.6437, 0.71, 0.999, 1.0):
        share = cover(21, torch.tensor(scale, dtype=torch.float64))
        assert share.sum().item() == pytest.approx(21 * scale)
        rows = resize_matrix(21, torch.tensor(scale, dtype=torch.float64)).sum(1)
        torch.testing.assert_close(rows, torch.ones(21, dtype=torch.float64))


def test_the_scale_stays_between_an_eighth_and_the_whole_frame():
    prompt = make("scaled", "sigmoid")
    for value, kept in ((-3.0, 0.125), (99.0, 1.0)):
        prompt.zoom.data.fill_(value)
        prompt.project_()
        assert prompt.scale == kept
    images = images_for(prompt)
    torch.testing.assert_close(prompt(images), images)  # at 1 there is no border left


def test_a_scaled_prompt_starts_from_the_mean_images_edges_repeated():
    prompt = build_prompt("scaled", frame=20, pad=4, bounds="image")
    mean = torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(0))
    prompt.init_("replicate", mean_image=mean)
    inside = F.interpolate(mean[None], size=(12, 12), mode="bilinear", antialias=True, align_corners=False)
    repeated = F.pad(inside, [4] * 4, mode="replicate")[0]
    edge = prompt.mask[0] > 0
    assert (prompt.delta[:, edge] - repeated[:, edge]).abs().mean() < 0.2  # the pixel under the edge, not its average
    assert not (prompt.delta * (1 - prompt.mask)).any()


# Low rank


def test_a_low_rank_prompt_has_its_rank_in_every_colour_also_after_it_was_put_back_into_its_bounds():
    prompt = LowRankPrompt(20, 4, rank=2)
    prompt.init_("normal", std=3.0)
    assert prompt.delta.abs().max().item() == pytest.approx(1.0, abs=1e-4)
    for colour in prompt.delta.detach().double():
        assert torch.linalg.matrix_rank(colour, rtol=1e-5) == 2
    assert sum(parameter.numel() for parameter in prompt.parameters()) == 6 * 20 * 2


def test_the_start_of_a_low_rank_prompt_adds_nothing_and_can_learn():
    prompt = build_prompt("lowrank", frame=20, pad=4, bounds="image", rank=3)
    images = images_for(prompt)
    prompt(images).sum().backward()
    assert not prompt.delta.any() and prompt.left.grad.any() and prompt.rank == 3
    with pytest.raises(ValueError, match=r"Got prompt.rank=21 on a frame of 20 px. Expected 1 <= rank <= frame"):
        build_prompt("lowrank", frame=20, pad=4, bounds="image", rank=21)


def test_noise_of_a_low_rank_prompt_is_as_large_as_other_kinds_noise():
    for rank in (1, 4, 16):
        prompt = LowRankPrompt(64, 8, "unbounded", rank)
        prompt.init_("normal", std=0.27)
        assert prompt.delta.std().item() == pytest.approx(0.27, rel=0.3)


def test_half_precision_around_an_update_does_not_reach_the_pixels():
    for kind in ("lowrank", "scaled"):
        prompt = make(kind)
        images = images_for(prompt)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(prompt(images), make(kind)(images))


# Files


@pytest.mark.parametrize(("kind", "bounds"), MADE)
def test_a_saved_prompt_gives_the_same_frames_to_the_bit_and_can_be_saved_again(tmp_path, kind, bounds):
    prompt = make(kind, bounds)
    folder = prompt.save(tmp_path / "p", {"task": "toy"})
    loaded, images = Prompt.load(folder), images_for(prompt)
    assert loaded.kind == kind and torch.equal(loaded.delta, prompt.delta) and torch.equal(loaded.mask, prompt.mask)
    assert torch.equal(loaded(images), prompt(images)) and torch.equal(loaded.blank(images), prompt.blank(images))
    assert (loaded.scale, loaded.rank) == (prompt.scale, prompt.rank)
    again = loaded.save_pretrained(tmp_path / "again")
    for name in ("prompt.safetensors", "prompt.png", "manifest.json"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()
    assert "task" in read_manifest(again)
    card = (again / "README.md").read_text()
    assert prompt_kind(kind).words.split("{")[0] in card and read_manifest(folder)["prompt"] in card


@pytest.mark.parametrize(("kind", "bounds"), MADE)
def test_the_png_is_the_prompt_up_to_one_level(tmp_path, kind, bounds):
    prompt = make(kind, bounds)
    folder = prompt.save(tmp_path / "p", {})
    loaded, manifest = Prompt.load(folder, reading="png"), read_manifest(folder)
    if bounds != "unbounded":
        assert (loaded.delta - prompt.delta).abs().max() <= 1 / 255 + 1e-6
        assert (loaded(images_for(prompt)) - prompt(images_for(prompt))).abs().max() <= 1 / 255 + 1e-6
        assert manifest["png_clamped_fraction"] == 0
    assert prompt_sha256(loaded.delta) == manifest["prompt_png"]
    assert loaded.scale == prompt.scale and manifest["bounds"] == ("image" if bounds == "sigmoid" else bounds)


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_is_put_on_a_photograph_of_any_size(kind):
    prompt = make(kind).requires_grad_(False)
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 30, 3), dtype=np.uint8))
    framed = prompt(photo)
    assert framed.size == (20, 20) and framed.tobytes() == prompt(photo).tobytes()


def test_a_scaled_prompts_manifest_is_enough_to_put_it_on_a_picture(tmp_path):
    """Its words, done with numpy alone on the PNG, give the frame of `Prompt.load(reading="png")`."""
    folder = make("scaled").save(tmp_path / "p", {})
    manifest, frame = json.loads((folder / "manifest.json").read_text()), 20
    assert f"With s = {manifest['scale']!r} and F = 20" in manifest["preprocessing"]["words"]
    picture = np.random.default_rng(0).integers(0, 256, (frame, frame, 3)).astype(np.float64) / 255
    pixels, s = np.array(Image.open(folder / "prompt.png")) / 255, manifest["scale"]
    i = np.arange(frame)
    u = np.clip((i + 0.5 - frame / 2) / s + frame / 2 - 0.5, 0, frame - 1)
    w = np.maximum(0, 1 - s * np.abs(u[:, None] - i))
    w /= w.sum(1, keepdims=True)
    c = np.clip(s * frame / 2 - np.abs(i + 0.5 - frame / 2) + 0.5, 0, 1)
    c = np.outer(c, c)[..., None]
    expected = c * np.einsum("ij,jkc,lk->ilc", w, picture, w) + (1 - c) * pixels
    prompt = Prompt.load(folder, reading="png")
    found = prompt(torch.from_numpy(picture).float().permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_only_kinds_with_a_further_number_have_one_in_their_manifest(tmp_path):
    for kind in KINDS:
        manifest = read_manifest(make(kind).save(tmp_path / kind, {}))
        more = {"scaled": {"scale"}, "lowrank": {"rank"}}.get(kind, set())
        assert set(manifest) == OWN_ENTRIES | more
    with pytest.raises(ValueError, match="entries scale are written by save_artefact"):
        make("scaled").save(tmp_path / "again", {"scale": 0.5})


@pytest.mark.parametrize(
    ("kind", "entries", "message"),
    [
        ("pad", {"kind": "spiral"}, "Unknown prompt kind 'spiral'. Available: .*If a later release wrote it"),
        ("pad", {"bounds": "sigmoid"}, "has bounds sigmoid. Expected image"),
        ("scaled", {"scale": 2.0}, "no usable scale"),
        ("scaled", {"scale": "0.5"}, "no usable scale"),
        ("lowrank", {"rank": None}, "no usable rank"),
        ("full", {"kind": "patch"}, "not zero where kind patch holds nothing"),
        ("full", {"kind": "pad"}, "not zero inside its border of 4 px"),
    ],
)
def test_a_manifest_of_another_kind_is_refused_with_one_clear_message(tmp_path, kind, entries, message):
    folder = make(kind).save(tmp_path / "p", {})
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | entries))
    with pytest.raises(ValueError, match=message) as caught:
        Prompt.load(folder)
    assert "\n" not in str(caught.value)


# sha256 of prompt.safetensors and of manifest.json (without the hash of the PNG, whose bytes are Pillow's) as the code
# before there were further kinds wrote them: frame 20, pad 4, normal start, seed 0.
BEFORE = {
    "pad": (
        "1798ae7e8ee4c641c5b1e67148470548ccbb737ea8abcb7cc48b43fae788f433",
        "b5036d02079644c9c94de42e744b88dfcbac325df78af8a5eeac05a85080ce43",
    ),
    "overlay": (
        "f19c983c72e01358ffc38051edfb769e1930f050c89999ffc956e61241eb382e",
        "0d0a6fcc21f6223ec0660ce9d85d945333bbea3685ebfa4191b0f897ec9280e5",
    ),
}


@pytest.mark.parametrize("kind", ["pad", "overlay"])
def test_pad_and_overlay_files_are_those_of_the_first_release_byte_for_byte(tmp_path, kind):
    prompt = build_prompt(kind, frame=20, pad=4, bounds="image")
    prompt.init_("normal", std=0.5, seed=0)
    folder = prompt.save(tmp_path / "p", {})
    text = (folder / "manifest.json").read_text()
    text = text.replace(json.loads(text)["files"]["prompt.png"], "")
    found = (folder / "prompt.safetensors").read_bytes(), text.encode()
    assert tuple(hashlib.sha256(data).hexdigest() for data in found) == BEFORE[kind]


# The module


@pytest.mark.parametrize(("kind", "bounds"), MADE)
def test_a_checkpoint_brings_back_what_is_learned_and_an_average_is_of_what_is_learned(kind, bounds):
    prompt, other = make(kind, bounds), make(kind, bounds, seed=7)
    twin = build_prompt(kind, frame=20, pad=4, bounds=bounds)
    twin.load_state_dict(copy.deepcopy(prompt.state_dict()))
    assert torch.equal(twin.delta, prompt.delta)
    assert sorted(prompt.state_dict()) == sorted(dict(twin.named_parameters()))
    twin.lerp_(other, 1.0)
    torch.testing.assert_close(twin.delta, other.delta)
    assert isinstance(copy.deepcopy(prompt), type(prompt)) and (isinstance(prompt, ScaledPrompt) is (kind == "scaled"))
