"""MiniGPT-4: EVA ViT -> BLIP-2 Q-Former -> linear -> Vicuna, the image between `<Img>` and `</Img>`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from model_zoo.base import Visual
from model_zoo.connectors import QFormerConnector
from model_zoo.decoder import DecoderMLLM
from model_zoo.sequences import IMAGE, special_id
from model_zoo.templates import TEMPLATES, Template, render


class MiniGPT4(DecoderMLLM):
    """BOS + `<Img>` + image + `</Img>` + text + answer + end symbol, every piece tokenised on its own.

    Args:
        connector, llm, tokenizer: ready modules; widths must agree.
        end_sym: what ends a training answer, tokenised together with it (MiniGPT-4: a newline).
        bos_id: first token; the tokenizer's own BOS by default.
        template, scoring, max_nodes, official, mean, std: see `DecoderMLLM`.
    """

    def __init__(
        self,
        connector: QFormerConnector,
        llm: nn.Module,
        tokenizer: Any,
        *,
        name: str = "minigpt4",
        image_size: int = 224,
        template: Template = TEMPLATES["minigpt4"],
        end_sym: str = "\n",
        bos_id: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, image_size, llm, tokenizer, template, **kwargs)
        self.connector = connector
        self.end_sym = end_sym
        self.bos_id = special_id(tokenizer, "bos") if bos_id is None else bos_id

    def encode_image(self, images: Tensor, questions: Sequence[str]) -> Visual:
        return Visual(self.connector(self.prepare(images)), self.connector.n_query)

    def prefix_ids(self, question: str, n_visual: int, *, ranking: bool, style: str = "cls") -> list[int]:
        before, after, text = map(self.text_ids, render(self.template, question, style))
        return [self.bos_id, *before, *[IMAGE] * n_visual, *after, *text]

    def answer_ids(self, answer: str) -> list[int]:
        return self.text_ids(answer + self.end_sym)

    def generate(self, *args: Any, **kwargs: Any) -> list[str]:
        """As `MLLM.generate`; the reference's length_penalty for MiniGPT-4 is -1."""
        return super().generate(*args, **{"length_penalty": -1.0, **kwargs})
