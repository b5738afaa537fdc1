"""The key/value cache under either of the names that transformers gave it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from torch import nn

from model_zoo.cache_argument import cache_argument, cache_name, cache_of


class Renamed(nn.Module):
    def forward(self, hidden, cache=None, **kwargs):
        return cache


class Former(nn.Module):
    def forward(self, hidden, past_key_values=None, **kwargs):
        return past_key_values


@pytest.mark.parametrize("module", [Renamed(), Former()])
def test_a_module_gets_its_cache_by_the_name_it_knows(module):
    assert module(0, **cache_argument(module, "kept")) == "kept"


def test_a_module_that_knows_neither_name_is_refused():
    with pytest.raises(TypeError, match="takes no key/value cache: expected a parameter `cache` or"):
        cache_name(nn.Linear.forward)


def test_an_output_gives_its_cache_back():
    from transformers.modeling_outputs import BaseModelOutputWithPast

    cache = SimpleNamespace(kept=True)
    assert cache_of(BaseModelOutputWithPast(None, **{cache_name(BaseModelOutputWithPast): cache})) is cache
