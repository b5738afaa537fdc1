"""BLIVA: InstructBLIP's query tokens followed by projected patch tokens of the block before the last."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from model_zoo.base import Visual
from model_zoo.connectors import QFormerConnector
from model_zoo.instructblip import TextReadingMLLM
from model_zoo.templates import TEMPLATES


class BLIVA(TextReadingMLLM):
    """BLIVA (Vicuna). The connector needs a `patch_projection`. Other arguments: see `TextReadingMLLM`.

    The reference ranks without the patch tokens but trains with them (docs/method.md#deviations, row 8). By default
    both see them; `official=True` drops them in ranking. `Visual.tokens` holds all, `Visual.n_query` counts the first.
    """

    def __init__(
        self, connector: QFormerConnector, llm: nn.Module, tokenizer: Any, qformer_tokenizer: Any, **kwargs: Any
    ) -> None:
        if connector.patch_projection is None:
            raise ValueError("BLIVA needs patch tokens. Expected a connector with patch_projection; got None.")
        kwargs = {"name": "bliva", "template": TEMPLATES["bliva"], **kwargs}
        super().__init__(connector, llm, tokenizer, qformer_tokenizer, **kwargs)

    def llm_tokens(self, visual: Visual, *, ranking: bool) -> Tensor:
        return visual.tokens[:, : visual.n_query] if ranking and self.official else visual.tokens
