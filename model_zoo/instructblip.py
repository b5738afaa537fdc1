"""InstructBLIP: the Q-Former reads the question too; image tokens first, then `</s>` as BOS, text, answer, `</s>`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from model_zoo.base import Visual
from model_zoo.connectors import QFormerConnector
from model_zoo.decoder import DecoderMLLM
from model_zoo.sequences import IMAGE, pad_rows, require_texts, special_id
from model_zoo.templates import TEMPLATES, Template, render


class TextReadingMLLM(DecoderMLLM):
    """What InstructBLIP and BLIVA share: a question-reading Q-Former and the `</s>` ... `</s>` layout. Abstract.

    The training prefix carries `</s>` as BOS, the ranking prefix does not: the reference's published scores are made
    that way (docs/method.md#deviations, row 10).

    Args:
        qformer_tokenizer: the BERT-style tokenizer of the Q-Former; called with its special tokens ([CLS] text [SEP]).
        bos_id, eos_id: both the tokenizer's EOS by default.
        max_text, max_answer: most tokens of text (beginning cut off) and answer, BOS/EOS included [R].
    """

    def __init__(
        self,
        connector: QFormerConnector,
        llm: nn.Module,
        tokenizer: Any,
        qformer_tokenizer: Any,
        *,
        name: str,
        image_size: int = 224,
        template: Template,
        bos_id: int | None = None,
        eos_id: int | None = None,
        max_text: int = 128,
        max_answer: int = 256,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, image_size, llm, tokenizer, template, **kwargs)
        self.connector, self.qformer_tokenizer = connector, qformer_tokenizer
        self.eos_id = special_id(tokenizer, "eos") if eos_id is None else eos_id
        self.bos_id = self.eos_id if bos_id is None else bos_id
        self.max_text, self.max_answer = max_text, max_answer

    def qformer_ids(self, question: str) -> list[int]:
        """[CLS] + question + [SEP] as the Q-Former reads it, the question's beginning cut off when too long."""
        ids = list(self.qformer_tokenizer(question)["input_ids"])
        return ids if len(ids) <= self.max_text else ids[:1] + ids[len(ids) - self.max_text + 1 :]

    def encode_image(self, images: Tensor, questions: Sequence[str]) -> Visual:
        require_texts("questions", questions, len(images))
        ids, mask = pad_rows([self.qformer_ids(question) for question in questions], images.device)
        return Visual(self.connector.read(self.see(images), ids, mask), self.connector.n_query)

    def prefix_ids(self, question: str, n_visual: int, *, ranking: bool, style: str = "cls") -> list[int]:
        before, after, text = map(self.text_ids, render(self.template, question, style))
        bos = [] if ranking else [self.bos_id]
        text = text[max(0, len(text) - self.max_text + len(bos)) :]
        return [*before, *[IMAGE] * n_visual, *after, *bos, *text]

    def answer_ids(self, answer: str) -> list[int]:
        return [*self.text_ids(answer), self.eos_id][: self.max_answer - 1]


class InstructBLIP(TextReadingMLLM):
    """InstructBLIP (Vicuna). Arguments: see `TextReadingMLLM`."""

    def __init__(
        self, connector: QFormerConnector, llm: nn.Module, tokenizer: Any, qformer_tokenizer: Any, **kwargs: Any
    ) -> None:
        kwargs = {"name": "instructblip", "template": TEMPLATES["instructblip"], **kwargs}
        super().__init__(connector, llm, tokenizer, qformer_tokenizer, **kwargs)
