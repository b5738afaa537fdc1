"""What a tuning compares: the five methods of a recipe, or the rows of a sweep with their own words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from omegaconf import OmegaConf

from experiments.recipes import as_yaml, load_experiment
from experiments.sweep.recipe import data_label, load_sweep
from experiments.tuning.space import FIXES, METHODS, Arm
from lightning_modules.vocabulary import members

# Words of a sweep that speak of its targets, its test rows and its log: a trial has none of these.
NOT_OF_TRIALS = ("targets.", "log.", "data.n_test")


class Compared(NamedTuple):
    """What is tuned. words: source -> `key=value` of all its trials beside the recipe `exp`."""

    exp: str
    data: str
    sources: tuple[str, ...]
    arms: tuple[Arm, ...]
    words: Mapping[str, tuple[tuple[str, str], ...]] = {}


def methods_of_recipe(exp: str, data: str, sources: Sequence[str], methods: Sequence[str]) -> Compared:
    """The methods by name, on the recipe's data set and source where none is given."""
    recipe = load_experiment([("exp", exp)])
    arms = tuple(METHODS[name] for name in methods)
    return Compared(exp, data or recipe.data.name, tuple(sources) or (recipe.source.name,), arms)


def rows_of_sweep(name: str, data: str, sources: Sequence[str], methods: Sequence[str]) -> Compared:
    """The learned rows of a sweep that its recipe does not say to leave untuned, on one of its data sets.

    Of its sources those that are one model: an ensemble takes over what its first member was given.

    data, sources, methods: fewer than the recipe's, by the names it gives them.

    Raises:
        ValueError: unknown sweep or name, several data sets, or no row to tune.
    """
    narrowed = {"data": data, "sources": ",".join(sources), "methods": ",".join(methods)}
    sweep = load_sweep(name, [("tuned", ""), *((key, words) for key, words in narrowed.items() if words)])
    if len(sweep.data) != 1:
        raise ValueError(
            f"sweep={name} has {len(sweep.data)} data sets; settings are tuned on one at a time. Give "
            f"data=NAME, one of {', '.join(data_label(entry) for entry in sweep.data)}."
        )
    (of,) = sweep.data
    arms = tuple(_arm(method) for method in sweep.methods if method.name != "none" and method.tuned != "")
    if not arms:
        raise ValueError(f"sweep={name} has no method whose settings could be tuned.")
    alone = tuple(source for source in sweep.sources if len(members(source)) == 1)
    words = {
        source: _trial_words({**sweep.words, **sweep.source_words.get(source, {}), **of.words}) for source in alone
    }
    return Compared(of.exp or sweep.exp, of.name, alone, arms, words)


def _trial_words(said: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((key, as_yaml(value)) for key, value in said.items() if not key.startswith(NOT_OF_TRIALS))


def _arm(method: Any) -> Arm:
    """A weight that the row's own words give is not searched for; its rate, length and start are, as everyone's."""
    known = METHODS.get(method.name)
    base = method.base or (known.base if known else method.name)
    said = cast("dict[str, Any]", OmegaConf.to_container(method.words))
    losses = {
        key: (base == "tvp" if known is None else getattr(known, key)) and f"method.{key}" not in said
        for key in ("fca", "tse")
    }
    words = {key: value for key, value in said.items() if key not in (*FIXES, "train.val_every_steps")}
    return Arm(method.name, base, **losses, words=words)
