"""The controls' pixels, and the store that keeps their scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_modules.controls import COLOURS, Control, ControlStore, all_controls, read_scores, write_scores
from lightning_modules.metrics import Scores

IMAGES = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
KEY = {"model": "m", "data": "d", "dtype": "float32"}


def record():
    return Scores(["a", "b"], np.array([0, 1]), np.array([[0.5, -1], [0, -np.inf]], np.float32), ["", "g"])


@pytest.mark.parametrize("control", [c for c in all_controls(10, 2) if c.name != "full"])
def test_padded_controls_keep_the_image_inside(control):
    frames = control(IMAGES)
    assert frames.shape == (2, 3, 10, 10) and control.image_size == 6
    assert torch.equal(frames[..., 2:8, 2:8], IMAGES)


def test_borders_are_what_their_names_say():
    black, grey = Control("black", 10, 2)(IMAGES), Control("constant", 10, 2, (0.5, 0.0, 1.0))(IMAGES)
    assert black[..., :2, :].abs().sum() == 0
    for place in (grey[0, :, 0, 0], grey[1, :, 9, 5]):
        assert torch.equal(place, torch.tensor([0.5, 0.0, 1.0]))
    assert torch.equal(Control("replicate", 10, 2)(IMAGES)[..., 0, 2:8], IMAGES[..., 0, :])
    full = torch.rand(1, 3, 10, 10)
    assert Control("full", 10, 2).image_size == 10 and torch.equal(Control("full", 10, 2)(full), full)


def test_constant_borders_are_the_27_corner_and_middle_colours():
    assert len(set(COLOURS)) == 27 and set(sum(COLOURS, ())) == {0.0, 0.5, 1.0}
    assert torch.equal(Control("constant", 10, 2, (0.0, 0.0, 0.0))(IMAGES), Control("black", 10, 2)(IMAGES))


def test_the_store_returns_what_was_saved(tmp_path):
    store, control = ControlStore(tmp_path), Control("black", 10, 2)
    assert store.load(control, **KEY) is None
    store.save(record(), control, **KEY)
    back = store.load(control, **KEY)
    assert back.ids == ["a", "b"] and back.groups == ["", "g"]
    assert np.array_equal(back.scores, record().scores) and np.array_equal(back.labels, record().labels)


@pytest.mark.parametrize("change", [{"model": "n"}, {"data": "e"}, {"dtype": "float16"}, {"official": True}])
def test_any_changed_part_of_the_key_misses(tmp_path, change):
    store, control = ControlStore(tmp_path), Control("black", 10, 2)
    store.save(record(), control, **KEY)
    assert store.load(control, **(KEY | change)) is None


@pytest.mark.parametrize("other", [Control("replicate", 10, 2), Control("black", 12, 2), Control("black", 10, 3)])
def test_another_control_misses(tmp_path, other):
    store = ControlStore(tmp_path)
    store.save(record(), Control("black", 10, 2), **KEY)
    assert store.load(other, **KEY) is None


def test_a_damaged_entry_counts_as_absent(tmp_path):
    store, control = ControlStore(tmp_path), Control("black", 10, 2)
    store.save(record(), control, **KEY)
    path = store.path(control, **KEY)
    path.write_bytes(path.read_bytes()[:50])
    assert store.load(control, **KEY) is None


def test_records_keep_their_units_and_older_files_have_none(tmp_path):
    write_scores(tmp_path / "new.npz", record()._replace(units=["p", "p"]))
    write_scores(tmp_path / "old.npz", record())
    assert read_scores(tmp_path / "new.npz").units == ["p", "p"]
    with np.load(tmp_path / "old.npz") as file:
        assert "units" not in file
    assert read_scores(tmp_path / "old.npz").units == () and read_scores(tmp_path / "old.npz").unit_numbers is None
