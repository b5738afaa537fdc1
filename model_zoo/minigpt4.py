"""MiniGPT-4: EVA ViT -> BLIP-2 Q-Former -> linear -> Vicuna, the image between `<Img>` and `</Img>`."""

from __future__ import annotations

from typing import Any

from torch import nn

from model_zoo.connectors import QFormerConnector
from model_zoo.decoder import DecoderMLLM
from model_zoo.sequences import IMAGE, special_id
from model_zoo.templates import TEMPLATES, Template, render


class WrappedImageMLLM(DecoderMLLM):
    """What MiniGPT-4 and VPGTrans share: BOS + `<Img>` + image + `</Img>` + text + answer + end symbol. Abstract.

    Every piece is tokenised on its own; training and ranking share one prefix.

    Args:
        connector, llm, tokenizer: ready modules; widths must agree.
        end_sym: what ends a training answer, tokenised together with it.
        length_penalty: the family's own default for beam search [R].
        bos_id: first token; the tokenizer's own BOS by default.
        template, scoring, max_nodes, official, mean, std: see `Adapter`.
    """

    def __init__(
        self,
        connector: QFormerConnector,
        llm: nn.Module,
        tokenizer: Any,
        *,
        name: str,
        image_size: int = 224,
        template: Template,
        end_sym: str,
        length_penalty: float,
        bos_id: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, image_size, llm, tokenizer, template, **kwargs)
        self.connector = connector
        self.end_sym, self.decoding["length_penalty"] = end_sym, length_penalty
        self.bos_id = special_id(tokenizer, "bos") if bos_id is None else bos_id

    def prefix_ids(self, question: str, n_visual: int, *, ranking: bool, style: str = "cls") -> list[int]:
        before, after, text = map(self.text_ids, render(self.template, question, style))
        return [self.bos_id, *before, *[IMAGE] * n_visual, *after, *text]

    def answer_ids(self, answer: str) -> list[int]:
        return self.text_ids(answer + self.end_sym)


class MiniGPT4(WrappedImageMLLM):
    """MiniGPT-4 (Vicuna v0): a newline ends a training answer. Arguments: see `WrappedImageMLLM`."""

    def __init__(self, connector: QFormerConnector, llm: nn.Module, tokenizer: Any, **kwargs: Any) -> None:
        own = {"name": "minigpt4", "template": TEMPLATES["minigpt4"], "end_sym": "\n", "length_penalty": -1.0}
        super().__init__(connector, llm, tokenizer, **{**own, **kwargs})
