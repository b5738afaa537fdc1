"""What all adapters around a decoder-only LLM (LLaMA, OPT, ChatGLM) share: how it runs over prefix and answer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from model_zoo.adapter import Adapter
from model_zoo.cache_argument import cache_argument
from model_zoo.scoring.packing import CAUSAL, Scorer
from model_zoo.sequences import Rows, embed_rows, log_softmax_pick, pad_rows, positions_of


class DecoderMLLM(Adapter):
    """An image encoder in front of a decoder-only LLM. Arguments: see `Adapter`.

    llm is a Hugging Face causal LM with `.model` (hidden states) and `.lm_head`. `layout` says what prefix entries see
    and where they stand; a subclass around a prefix LM has another one.
    """

    layout = CAUSAL

    def hidden_states(self, embeds: Tensor, mask: Tensor | None, positions: Tensor, cache: Any = None) -> Tensor:
        """Final hidden states (B, L, D) from embeds (B, L, D); mask is (B, L) bool or additive (R, 1, L, past+L).

        R is B or 1, here and in positions (R, L), or (R, 2, L) where an LLM has two of them; a mask of None is plain
        causal attention without padding. A `cache` is extended in place by these L entries.
        """
        return self.llm.model(
            inputs_embeds=embeds,
            attention_mask=mask.long() if mask is not None and mask.ndim == 2 else mask,
            position_ids=positions,
            use_cache=cache is not None,
            **cache_argument(self.llm.model, cache),
        ).last_hidden_state

    def row_states(self, embeds: Tensor, mask: Tensor, lengths: Sequence[int]) -> Tensor:
        """Final hidden states (B, L, D) of padded rows of prefix + answer, mask (B, L) bool, prefixes of `lengths`."""
        return self.hidden_states(embeds, mask, positions_of(mask))

    def answer_logp(self, tokens: Tensor, prefixes: Rows, targets: Rows) -> tuple[Tensor, Tensor]:
        ids, mask = pad_rows([p + t for p, t in zip(prefixes, targets, strict=True)], tokens.device)
        embeds = embed_rows(self.llm.get_input_embeddings(), ids, tokens)
        hidden = self.row_states(embeds, mask, [len(prefix) for prefix in prefixes])  # (B, L, D)
        row, at = answer_index(prefixes, targets, tokens.device)  # (N,), (N,)
        # Only the rows that predict an answer token meet the vocabulary.
        return log_softmax_pick(self.llm.lm_head(hidden[row, at - 1]), ids[row, at]), row

    def candidate_logits(self, tokens: Tensor, prefix: list[int], candidate: list[int]) -> Tensor:
        embeds, mask = self.place([prefix + candidate], tokens)
        return self.llm.lm_head(self.row_states(embeds, mask, [len(prefix)])[0, len(prefix) - 1 : -1])

    def packed_parts(self, tokens: Tensor, prefixes: Rows) -> tuple[Scorer, Tensor, Tensor]:
        return self.scorer(), *self.place(prefixes, tokens)

    def scorer(self) -> Scorer:
        """The parts of the LLM that packed scoring calls."""
        cache = partial(DynamicCache, config=self.llm.config)
        return Scorer(self.hidden_states, self.llm.get_input_embeddings(), self.llm.lm_head, cache, self.layout)


def answer_index(prefixes: Rows, targets: Rows, device: torch.device) -> tuple[Tensor, Tensor]:
    """(row (N,), position (N,)) of every answer token in right-padded rows of prefix + answer."""
    pairs = [(b, len(p) + i) for b, (p, t) in enumerate(zip(prefixes, targets, strict=True)) for i in range(len(t))]
    row, at = torch.tensor(pairs, dtype=torch.long, device=device).view(-1, 2).unbind(-1)
    return row, at
