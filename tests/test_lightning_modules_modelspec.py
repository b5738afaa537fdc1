"""How a model is loaded is part of what its scores are: quantised ones share no row and no cache entry with others."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import model_zoo.registry as registry
from experiments.recipes import load_experiment
from experiments.run.build import RunParts
from lightning_modules.controls import Control, ControlStore
from lightning_modules.evaluation import ModelSpec


@pytest.mark.parametrize(("quant", "said"), [(None, "bfloat16"), ("8bit", "bfloat16+8bit"), ("4bit", "bfloat16+4bit")])
def test_the_precision_names_dtype_and_quantisation(quant: str | None, said: str) -> None:
    assert ModelSpec("blip2", "select", dtype="bfloat16", quant=quant).precision == said


def test_controls_of_a_quantised_model_are_stored_apart(tmp_path) -> None:
    store, control = ControlStore(tmp_path), Control("black", 64, 8)
    specs = [ModelSpec("blip2", "select", quant=quant) for quant in (None, "8bit", "4bit")]
    assert len({store.path(control, dtype=spec.precision) for spec in specs}) == 3


def test_a_spec_hands_everything_to_load_mllm(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def load(name: str, **options: object) -> SimpleNamespace:
        seen.update(options, name=name)
        return SimpleNamespace(parameters=list, to=lambda device: device)

    monkeypatch.setattr(registry, "load_mllm", load)
    spec = ModelSpec("blip2", "source", "w", "float16", True, {"max_nodes": 8}, "8bit", True)
    assert spec.load("cuda:0") == "cuda:0"
    assert seen == {
        **{"name": "blip2", "weights": "w", "dtype": "float16", "official": True},
        **{"quant": "8bit", "checkpointing": True, "max_nodes": 8},
    }


def test_recipe_keys_reach_the_specs() -> None:
    words = {"exp": "cifar10_minigpt4", "source.quant": "8bit", "targets.quant": "4bit", "train.checkpointing": "true"}
    config = load_experiment([*words.items(), ("targets.select", "[bliva]")])
    (source,), (target,) = RunParts(config).sources, RunParts(config).targets
    assert (source.quant, source.checkpointing, target.quant, target.checkpointing) == ("8bit", True, "4bit", False)


@pytest.mark.parametrize("key", ["source.quant", "targets.quant", "train.memory_check"])
def test_an_unknown_choice_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="6bit"):
        load_experiment([("exp", "smoke"), (key, "6bit")])
