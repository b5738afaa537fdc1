"""BLIP-2 with OPT: the query tokens first, then the text; LAVIS's loss on the text itself under `official`."""

from __future__ import annotations

from typing import Any

from torch import nn

from model_zoo.connectors import QFormerConnector
from model_zoo.decoder import DecoderMLLM
from model_zoo.sequences import IMAGE, special_id
from model_zoo.templates import TEMPLATES, Template, render

END = "\n"
"""What ends a text for LAVIS's OPT models."""


class Blip2OPT(DecoderMLLM):
    """Loss: image + `</s>` + text + answer + newline, the answer and the newline being predicted. Ranking: no `</s>`.

    The reference ignores the answer: it predicts `</s>` + text + newline after the image. `official=True` reproduces
    that loss (docs/method.md#deviations); scores and generation are the same in both.

    Args:
        connector, llm, tokenizer: ready modules; llm is a transformers `OPTForCausalLM`.
        bos_id: the `</s>` before a text; the tokenizer's BOS by default.
        max_text: most tokens of `</s>` + text in the loss, the end cut off [R]. Ranking is never cut.
        template, scoring, max_nodes, official, mean, std: see `Adapter`.
    """

    def __init__(
        self,
        connector: QFormerConnector,
        llm: nn.Module,
        tokenizer: Any,
        *,
        name: str = "blip2_opt",
        image_size: int = 224,
        template: Template = TEMPLATES["blip2"],
        bos_id: int | None = None,
        max_text: int = 32,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, image_size, llm, tokenizer, template, **kwargs)
        self.connector = connector
        self.bos_id = special_id(tokenizer, "bos") if bos_id is None else bos_id
        self.max_text = max_text
        self.decoding["eos_token_id"] = self.text_ids(END)[-1]  # a newline ends the text, as in LAVIS

    def prefix_ids(self, question: str, n_visual: int, *, ranking: bool, style: str = "cls") -> list[int]:
        text = self.text_ids("".join(render(self.template, question, style)))
        return [*[IMAGE] * n_visual, *(text if ranking else [self.bos_id, *text][: self.max_text])]

    def answer_ids(self, answer: str) -> list[int]:
        return self.text_ids(answer + END)

    def loss_ids(self, question: str, answer: str, n_visual: int) -> tuple[list[int], list[int]]:
        if not self.official:
            return super().loss_ids(question, answer, n_visual)
        text = self.text_ids("".join(render(self.template, question)) + END)
        return [IMAGE] * n_visual, [self.bos_id, *text][: self.max_text]
