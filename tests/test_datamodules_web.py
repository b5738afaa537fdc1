"""The web world's pictures and its data sets."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from datamodules.emoji.art import NAMES
from datamodules.emoji.scenes import GRID, SIZE, World, render_scenes
from datamodules.emoji.web import FILLS, Web, draw_pictures, lay_out, lower, picture_source, shelf, uniforms
from datamodules.registry import load_datamodule


def only(fill: str) -> tuple[float, ...]:
    return tuple(float(name == fill) for name in FILLS)


@pytest.mark.parametrize("kind", ["one", "hidden", "several"])
def test_a_picture_depends_on_its_index_alone(kind: str) -> None:
    few, many = (draw_pictures(Web(), kind, 3, "split", n) for n in (5, 70))
    for some, all_of_them in zip(few, many, strict=True):
        assert torch.equal(some, all_of_them[:5])
    assert not torch.equal(many.images[:5], draw_pictures(Web(), kind, 4, "split", 5).images)


def test_names_follow_zipf_in_one_order_per_web() -> None:
    drawn = draw_pictures(Web(scale=(0.4, 0.5)), "one", 1, "zipf", 600)
    counts = Counter(NAMES[c] for c in drawn.classes[:, 0].tolist())
    first, second, last = (counts[Web().ranked[rank]] for rank in (0, 1, 31))
    assert first > 1.8 * second > 5 * last  # 2.8 to 1 expected between the first two
    assert Web().ranked != replace(Web(), order=1).ranked and sorted(Web().ranked) == sorted(NAMES)
    assert len(set(Counter(Web().world("one", balanced=True).names).values())) == 1


def test_a_hidden_object_can_be_told_from_the_margin_alone() -> None:
    web = Web(wide_pads=(16,), fills=only("black"), resolutions=(64,), unreadable=3)
    scenes = render_scenes(World(scale=(0.4, 0.6)), 1, "hidden", range(40))
    u = uniforms(web, 1, "hidden", range(40))
    others = torch.where(scenes.classes < 0, -1, (scenes.classes + 1) % len(NAMES))
    other = scenes._replace(classes=others)
    one, two = (lay_out(web, some, u, hidden=True) for some in (scenes, other))
    inside = slice(16, SIZE - 16)
    assert torch.equal(one.images[:, :, inside, inside], two.images[:, :, inside, inside])
    differ = (one.images != two.images).flatten(1).any(1)
    assert differ.all()  # the symbols do
    told = [set(labels.unique().tolist()) - {0} for labels in one.patches]
    assert all(t <= {1 + c} for t, c in zip(told, scenes.classes[:, 0].tolist(), strict=True))
    assert sum(map(bool, told)) >= 36 and not one.patches[:, 2:-2, 2:-2].any()


def test_a_covered_object_leaves_no_pixel() -> None:
    web = Web(pads=(8,), wide_pads=(8,), fills=only("black"), resolutions=(64,), companion_symbols=0)
    plain = World(backgrounds=("solid",), scale=(0.4, 0.6), rotation=0)
    scenes = render_scenes(plain, 1, "cover", range(64))
    u = uniforms(web, 1, "cover", range(64))
    u[:, 2] = 0.1  # all by a card
    inside = lay_out(web, scenes, u, hidden=True).images[:, :, 9 : SIZE - 9, 9 : SIZE - 9]
    colours = [len(picture.flatten(1).unique(dim=1).T) for picture in inside]
    assert np.median(colours) < 40  # ground, card and their seam; an emoji has hundreds


def test_labels_and_object_move_together_into_the_border() -> None:
    web = Web(pads=(16,), fills=only("black"), resolutions=(64,), companion_symbols=0)
    scenes = render_scenes(World(scale=(0.9, 0.95), backgrounds=("solid",)), 1, "moved", range(8))
    drawn = lay_out(web, scenes, uniforms(web, 1, "moved", range(8)), hidden=False)
    assert not drawn.patches[:, :2].any() and not drawn.patches[:, :, -2:].any()
    assert not drawn.images[:, :, :16].any() and not drawn.images[:, :, :, -16:].any()
    share = (drawn.patches > 0).sum((1, 2)) / (scenes.patches > 0).sum((1, 2))
    assert (share > 0.15).all() and (share < 0.35).all()  # a quarter of the area
    assert drawn.patches.shape[1:] == (GRID, GRID)


def test_borders_are_filled_as_often_as_they_should_be() -> None:
    web = Web(pads=(16,), companion_symbols=0, resolutions=(64,))
    drawn = draw_pictures(web, "one", 2, "fills", 400)
    corner = drawn.images[:, :, :16].flatten(1)
    black, white = ((corner == value).all(1).float().mean().item() for value in (0, 255))
    assert abs(black - web.fills[0]) < 0.07 and abs(white - web.fills[2]) < 0.04


def test_a_picture_of_few_pixels_is_stored_in_8_bits_and_shown_smoothly() -> None:
    images = render_scenes(World(), 1, "low", range(3)).images
    small = lower(images, 10, 10)
    assert small.shape[-1] == 10 and torch.equal(small, (small * 255).round() / 255)
    assert torch.equal(lower(images, SIZE, SIZE), images)
    assert lower(images, 10, 48).shape[-1] == 48


def test_towers_see_all_names_equally_and_a_step_is_reproducible() -> None:
    pictures = picture_source(Web(), 1, "tower", 64)
    first, again, other = pictures(0, 32), pictures(0, 32), pictures(1, 32)
    assert torch.equal(first.images, again.images) and not torch.equal(first.images, other.images)
    assert len(first.images) == 32


def test_companions_come_from_the_first_objects_shelf() -> None:
    alone, beside = (World(objects=(2, 2), companions=c) for c in (0.0, 0.9))
    for world, low, high in ((alone, 0.03, 0.3), (beside, 0.8, 1.0)):
        pairs = render_scenes(world, 1, "shelf", range(128)).classes[:, :2]
        share = np.mean([NAMES[b] in shelf(NAMES[a]) for a, b in pairs.tolist()])
        assert low < share < high


def test_presence_asks_for_random_popular_and_adversarial_absent_names() -> None:
    data = load_datamodule("web_presence", image_size=48)
    rows, ranked = data.rows("val"), Web().ranked
    assert Counter(row.group for row in rows).most_common()[0][1] <= len(rows) / 3 + 2
    for row in rows[:120]:
        there = row.caption.split(", ")
        asked = next(name for name in sorted(NAMES, key=len, reverse=True) if f" {name} in" in row.question)
        assert (asked in there) == (row.answer == "yes")
        if row.answer == "no" and row.group == "popular":
            assert asked == next(name for name in ranked if name not in there)
        if row.answer == "no" and row.group == "adversarial" and not set(shelf(there[0])) <= set(there):
            assert asked in shelf(there[0])


@pytest.mark.parametrize(("name", "size"), [("web_recognition", 8), ("web_counting", 20), ("web_matching", 20)])
def test_downstream_pictures_have_few_pixels_and_answers_are_balanced(name: str, size: int) -> None:
    data = load_datamodule(name, image_size=48)
    assert data.original("val", 0).shape == (3, size, size)
    counts = Counter(row.label for row in data.rows("val"))
    assert max(counts.values()) == min(counts.values()) and data.image("val", 0).shape == (3, 48, 48)


def test_shares_that_do_not_add_up_and_sizes_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="add up to 1"):
        Web(fills=(0.5,) * len(FILLS))
    with pytest.raises(ValueError, match="increasing pair"):
        Web(symbols=(14, 8))
    with pytest.raises(ValueError, match=r"Unknown names \['owl'\]"):
        Web(names=("cat", "owl"))
    with pytest.raises(ValueError, match="set companions to 0"):
        Web(names=("cat", "dog"))


@pytest.mark.parametrize("kind", ["one", "several"])
def test_a_web_of_some_names_draws_and_ranks_no_other(kind: str) -> None:
    web = Web(names=("cat", "umbrella", "dog"), companions=0, popularity=1.0, order=5)
    drawn = draw_pictures(web, kind, 1, "some", 64)
    assert {NAMES[c] for c in drawn.classes.unique().tolist() if c >= 0} == set(web.names) == set(web.ranked)
    whole = replace(web, names=NAMES).ranked
    assert web.ranked == tuple(name for name in whole if name in web.names)


def test_kinds_of_borders_and_grounds_that_came_later_change_no_picture_of_before() -> None:
    longer = replace(Web(), fills=(*Web().fills, 0.0, 0.0))
    scenes = render_scenes(Web().world("one"), 1, "longer", range(40))
    u = uniforms(Web(), 1, "longer", range(40))
    assert torch.equal(*(lay_out(web, scenes, u, hidden=False).images for web in (Web(), longer)))
    for kind, total in (("one", 30425350), ("hidden", 30824391), ("several", 30581800)):
        assert draw_pictures(Web(), kind, 3, "x", 20).images.sum().item() == pytest.approx(total, rel=2e-5)
