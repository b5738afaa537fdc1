"""VisualGLM-6B: ViT -> Q-Former -> linear -> ChatGLM-6B v1, the image between `<img>` and `</img>`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from model_zoo.connectors import QFormerConnector
from model_zoo.decoder import DecoderMLLM
from model_zoo.prefix_lm import PREFIX_LM, glm_rows
from model_zoo.sequences import IMAGE, Rows, embed_rows, log_softmax_pick, special_id
from model_zoo.templates import TEMPLATES, Template, render


class VisualGLM(DecoderMLLM):
    """`<img>` + image + (`</img>` and text, tokenised together) + `[gMASK]` `<sop>` + answer; no end token [R].

    With official=True (docs/method.md#deviations, row 9): the loss counts ALL tokens of a row, image placeholders
    included, because the reference's label mask slices the wrong axis; it takes one image at a time. Ranking uses the
    first row's text for every row.

    Args:
        connector, llm, tokenizer: ready modules; llm is a `ChatGLMForCausalLM`, tokenizer a `ChatGLMTokenizer`.
        gmask_id, sop_id: what ends a prefix; the tokenizer's `[gMASK]` and BOS by default.
        template, scoring, max_nodes, official, mean, std: see `Adapter`.
    """

    layout = PREFIX_LM

    def __init__(
        self,
        connector: QFormerConnector,
        llm: nn.Module,
        tokenizer: Any,
        *,
        name: str = "visualglm",
        image_size: int = 224,
        template: Template = TEMPLATES["visualglm"],
        gmask_id: int | None = None,
        sop_id: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, image_size, llm, tokenizer, template, **kwargs)
        self.connector = connector
        self.gmask_id = special_id(tokenizer, "gmask") if gmask_id is None else gmask_id
        self.sop_id = special_id(tokenizer, "bos") if sop_id is None else sop_id
        self.unk_id = special_id(tokenizer, "unk")
        self.decoding["num_beams"] = 1  # greedy, as the reference

    def prefix_ids(self, question: str, n_visual: int, *, ranking: bool, style: str = "cls") -> list[int]:
        before, after, text = render(self.template, question, style)
        tail = after + text if style == "cls" else f"{after} {text}"  # the reference joins its prompts by a blank
        return [*self.text_ids(before), *[IMAGE] * n_visual, *self.text_ids(tail), self.gmask_id, self.sop_id]

    def answer_ids(self, answer: str) -> list[int]:
        return self.text_ids(answer)

    def row_states(self, embeds: Tensor, mask: Tensor, lengths: Sequence[int]) -> Tensor:
        counts = torch.tensor(list(lengths), device=mask.device)
        return self.hidden_states(embeds, *glm_rows(mask, counts, embeds.dtype))

    def answer_token_counts(self, questions: Sequence[str], answers: Sequence[str]) -> Tensor:
        if not self.official:
            return super().answer_token_counts(questions, answers)
        rows = [self.loss_ids(*pair, self.connector.n_query) for pair in zip(questions, answers, strict=True)]
        return torch.tensor([len(prefix) + len(target) - 1 for prefix, target in rows], dtype=torch.long)

    def answer_logp(self, tokens: Tensor, prefixes: Rows, targets: Rows) -> tuple[Tensor, Tensor]:
        if not self.official:
            return super().answer_logp(tokens, prefixes, targets)
        if len(tokens) != 1:
            raise ValueError(
                f"The reference's VisualGLM loss takes one image at a time, got {len(tokens)}. "
                "Use batches of 1, or official=false for the loss on answer tokens, which takes any batch."
            )
        # The reference's loss: every token but the first is a target, image placeholders (`<unk>`) included.
        ids = torch.tensor([prefixes[0] + targets[0]], device=tokens.device)
        embeds = embed_rows(self.llm.get_input_embeddings(), ids, tokens)
        hidden = self.row_states(embeds, torch.ones_like(ids, dtype=torch.bool), [len(prefixes[0])])
        labels = ids[0, 1:].masked_fill(ids[0, 1:] == IMAGE, self.unk_id)
        return log_softmax_pick(self.llm.lm_head(hidden[0, :-1]), labels), torch.zeros_like(labels)

    def score(self, images: Tensor, questions: Sequence[str], *args: Any, **kwargs: Any) -> Tensor:
        if self.official and not isinstance(questions, str):
            questions = [*questions[:1]] * len(questions)
        return super().score(images, questions, *args, **kwargs)
