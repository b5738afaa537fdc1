"""VPGTrans (VL-Vicuna): MiniGPT-4's layout with the visual encoder of BLIP-2 OPT carried over; `###` ends answers."""

from __future__ import annotations

from typing import Any

from torch import nn

from model_zoo.connectors import QFormerConnector
from model_zoo.minigpt4 import WrappedImageMLLM
from model_zoo.templates import TEMPLATES


class VPGTrans(WrappedImageMLLM):
    """VL-Vicuna (Vicuna v0): `###` ends a training answer. Arguments: see `WrappedImageMLLM`."""

    def __init__(self, connector: QFormerConnector, llm: nn.Module, tokenizer: Any, **kwargs: Any) -> None:
        own = {"name": "vpgtrans", "template": TEMPLATES["vpgtrans"], "end_sym": "###", "length_penalty": 1.0}
        super().__init__(connector, llm, tokenizer, **{**own, **kwargs})
