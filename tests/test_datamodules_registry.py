"""Data sets by name: lazy, and a typo is answered."""

import ast
from pathlib import Path

import pytest

import datamodules
from datamodules.registry import DATAMODULES, load_datamodule


def test_a_typo_is_answered_with_the_nearest_name():
    with pytest.raises(
        ValueError, match=r"Unknown data set 'cifar-10'\. Did you mean 'cifar10'\? Available: cifar10, "
    ):
        load_datamodule("cifar-10")


def test_a_name_like_no_other_gets_the_list_only():
    with pytest.raises(ValueError, match=r"Unknown data set 'xyzzy'\. Available: "):
        load_datamodule("xyzzy")


@pytest.mark.parametrize("name", sorted(DATAMODULES))
def test_every_registered_class_exists_and_bears_its_name(name):
    module, _, attribute = DATAMODULES[name].partition(":")
    path = Path(datamodules.__file__).parent.parent / f"{module.replace('.', '/')}.py"
    assert attribute in {n.name for n in ast.parse(path.read_text()).body if isinstance(n, ast.ClassDef)}
    data = load_datamodule(name, root="nowhere", seed=3, official=True)
    assert data.name == name and data.seed == 3 and data.val == "official"


def test_the_list_is_sorted():
    assert datamodules.list_datamodules() == sorted(DATAMODULES)
