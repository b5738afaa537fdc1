"""Every registered MLLM as a test's parameter. `make test` takes one of each adapter; the rest repeat it elsewhere."""

from __future__ import annotations

import pytest

from model_zoo.registry import REGISTRY

# Other sizes of the same adapter are the same tiny model here, and the embedded ones are the same classes with trained
# weights: they have the slow half of the suite.
QUICK = ("minigpt4", "instructblip", "blip2", "blip2_opt", "vpgtrans", "bliva", "visualglm", "embedded_llava")
# Those of the hub have one adapter of their own, held to every family in test_model_zoo_hf.py.
EVERY_MLLM = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
    for name, entry in REGISTRY.items()
    if not entry.hf
]
