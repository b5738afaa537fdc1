"""What a folder does not say about its family, as data; everything else is read from the folder. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Family(NamedTuple):
    """one_tile: options of the processor under which a picture is one tile; empty where it always is.

    pinpoints: tiles are chosen from a list that processor and model both hold. suffix: no chat template; the answer is
    the tokenizer's second text, of token type 1. adapter: "module:class" where the doors are others.
    refused: why this family cannot be loaded; empty where it can. since: the transformers whose code of this family was
    seen to give right answers; empty where the oldest that we allow does.
    """

    one_tile: Mapping[str, Any] = {}
    pinpoints: bool = False
    suffix: bool = False
    adapter: str = "model_zoo.hf.adapter:HuggingFaceMLLM"
    refused: str = ""
    since: str = ""


PATCHES = Family(one_tile={"crop_to_patches": False})
SPLITS = Family(one_tile={"do_image_splitting": False})
PINPOINTS = Family(pinpoints=True)

FAMILIES: dict[str, Family] = {
    "aya_vision": PATCHES,
    "cohere2_vision": PATCHES,
    "granite4_vision": Family(pinpoints=True, since="5.24"),
    "idefics3": SPLITS,
    "internvl": PATCHES,
    "lfm2_vl": SPLITS,
    "llama4": Family(refused="its forward in transformers ends with an error after the picture was read"),
    "llava_next": PINPOINTS,
    "llava_onevision": PINPOINTS,
    "minicpmv4_6": Family(one_tile={"slice_mode": False}, since="5.24"),
    "mllama": Family(adapter="model_zoo.hf.mllama:MllamaMLLM"),
    "molmo2": Family(one_tile={"max_crops": 1}, since="5.24"),
    "ovis2": PATCHES,
    "paligemma": Family(suffix=True),
    "smolvlm": SPLITS,
}
"""config.json's model_type -> what to know; a type that is not here needs nothing."""


def family_of(model_type: str) -> Family:
    """The row of a model type, an empty one where nothing needs to be known."""
    return FAMILIES.get(model_type, Family())
