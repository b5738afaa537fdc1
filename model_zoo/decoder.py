"""What all adapters around a decoder-only LLM (LLaMA, OPT) share: sequences, loss, scoring, generation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from model_zoo.base import MLLM, Visual
from model_zoo.cache_argument import cache_argument
from model_zoo.generation import generate_texts
from model_zoo.scoring.budget import budget_of, plan_rounds
from model_zoo.scoring.candidates import encode_candidates, finish, score_naive
from model_zoo.scoring.packing import CAUSAL, Scorer, score_packed
from model_zoo.sequences import TextEncoder, embed_rows, log_softmax_pick, pad_rows, positions_of, require_texts
from model_zoo.templates import Template

SCORERS = ("packed", "naive")


class DecoderMLLM(MLLM):
    """An image encoder in front of a decoder-only LLM. Subclasses say how images and questions become a prefix.

    Args:
        name, image_size, official, mean, std: see `MLLM`.
        llm: a Hugging Face causal LM with `.model` (hidden states) and `.lm_head`.
        tokenizer: its tokenizer; used for plain text, `decode` and the special ids only.
        template: instruction texts (`model_zoo.templates`).
        scoring: `packed` (exact and fast) or `naive` (the oracle: one candidate at a time).
        max_nodes: most candidate nodes packed in one forward; None: as many as `memory` allows, where they fit in
            the same forward as the prefix. Scores depend on neither.
        memory: bytes for the short-lived tensors of packed scoring; None: a quarter of CUDA's free ones, else 2 GiB.

    `layout` says what prefix entries see and where they stand; a subclass around a prefix LM has another one.
    """

    layout = CAUSAL

    def __init__(
        self,
        name: str,
        image_size: int,
        llm: nn.Module,
        tokenizer: Any,
        template: Template,
        *,
        scoring: str = "packed",
        max_nodes: int | None = None,
        memory: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, image_size, **kwargs)
        if scoring not in SCORERS:
            raise ValueError(f"Unknown scoring {scoring!r}. Expected one of {', '.join(SCORERS)}.")
        self.llm, self.tokenizer, self.template = llm, tokenizer, template
        self.scoring, self.max_nodes, self.memory = scoring, max_nodes, memory
        self.text_ids = TextEncoder(tokenizer)

    @abstractmethod
    def prefix_ids(self, question: str, n_visual: int, *, ranking: bool, style: str = "cls") -> list[int]:
        """Token ids before the answer, `IMAGE` n_visual times where the visual tokens go.

        `ranking` asks for the layout of candidate scoring where it differs from the training layout.
        """

    @abstractmethod
    def answer_ids(self, answer: str) -> list[int]:
        """Token ids that enter the loss: the answer and what ends it."""

    def loss_ids(self, question: str, answer: str, n_visual: int) -> tuple[list[int], list[int]]:
        """(ids before the targets, target ids) of the training loss; see `prefix_ids` and `answer_ids`."""
        return self.prefix_ids(question, n_visual, ranking=False), self.answer_ids(answer)

    def llm_tokens(self, visual: Visual, *, ranking: bool) -> Tensor:
        """The visual tokens (B, T, D) the LLM sees; a family may show it fewer in ranking."""
        return visual.tokens

    def hidden_states(self, embeds: Tensor, mask: Tensor | None, positions: Tensor, cache: Any = None) -> Tensor:
        """Final hidden states (B, L, D) from embeds (B, L, D); mask is (B, L) bool or additive (R, 1, L, past+L).

        R is B or 1, here and in positions (R, L); a mask of None is plain causal attention without padding. A `cache`
        is extended in place by these L entries.
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

    def answer_token_counts(self, questions: Sequence[str], answers: Sequence[str]) -> Tensor:
        pairs = zip(questions, answers, strict=True)
        return torch.tensor([len(self.loss_ids(*pair, 0)[1]) for pair in pairs], dtype=torch.long)

    def answer_loss(
        self, images: Tensor, questions: Sequence[str], answers: Sequence[str], *, visual: Visual | None = None
    ) -> tuple[Tensor, Tensor]:
        visual = self.encode_image(images, questions) if visual is None else visual
        tokens = self.llm_tokens(visual, ranking=False)
        require_texts("questions", questions, len(tokens))
        require_texts("answers", answers, len(tokens))
        rows = [self.loss_ids(q, a, tokens.shape[1]) for q, a in zip(questions, answers, strict=True)]
        prefixes, targets = [row[0] for row in rows], [row[1] for row in rows]
        ids, mask = pad_rows([p + t for p, t in zip(prefixes, targets, strict=True)], tokens.device)
        embeds = embed_rows(self.llm.get_input_embeddings(), ids, tokens)
        hidden = self.row_states(embeds, mask, [len(prefix) for prefix in prefixes])  # (B, L, D)
        row, at = answer_index(prefixes, targets, tokens.device)  # (N,), (N,)
        # Only the rows that predict an answer token meet the vocabulary.
        logp = log_softmax_pick(self.llm.lm_head(hidden[row, at - 1]), ids[row, at])
        nats = logp.new_zeros(len(tokens)).index_add(0, row, -logp)
        return nats, torch.tensor([len(t) for t in targets], device=nats.device)

    def score(
        self,
        images: Tensor,
        questions: Sequence[str],
        candidates: Sequence[str] | Sequence[Sequence[str]],
        *,
        visual: Visual | None = None,
        normalize: bool = True,
    ) -> Tensor:
        visual = self.encode_image(images, questions) if visual is None else visual
        tokens = self.llm_tokens(visual, ranking=True)
        require_texts("questions", questions, len(tokens))
        rows = encode_candidates(candidates, self.text_ids, len(tokens))
        prefixes = [self.prefix_ids(question, tokens.shape[1], ranking=True) for question in questions]
        score = self._score_packed if self.scoring == "packed" else self._score_naive
        return finish(score(tokens, prefixes, rows), rows, normalize)

    def _score_packed(self, tokens: Tensor, prefixes: list[list[int]], rows: list[list[list[int]]]) -> Tensor:
        ids, mask = pad_rows(prefixes, tokens.device)
        embeds = embed_rows(self.llm.get_input_embeddings(), ids, tokens)
        budget = budget_of(self.llm.config, embeds, self.memory)
        scorer = self.scorer()._replace(vocab_rows=budget.vocab_rows())
        rounds = plan_rounds(rows, self.max_nodes, budget)
        return score_packed(scorer, embeds, mask, rounds, max(len(row) for row in rows))

    def scorer(self) -> Scorer:
        """The parts of the LLM that packed scoring calls."""
        from transformers import DynamicCache

        embedding, config = self.llm.get_input_embeddings(), self.llm.config
        cache = partial(DynamicCache, config=config)
        return Scorer(self.hidden_states, embedding, self.llm.lm_head, cache, self.layout)

    def _score_naive(self, tokens: Tensor, prefixes: list[list[int]], rows: list[list[list[int]]]) -> Tensor:
        embedding = self.llm.get_input_embeddings()

        def logits_of(b: int, candidate: list[int]) -> Tensor:
            ids, mask = pad_rows([prefixes[b] + candidate], tokens.device)
            hidden = self.row_states(embed_rows(embedding, ids, tokens[b : b + 1]), mask, [len(prefixes[b])])
            return self.llm.lm_head(hidden[0, len(prefixes[b]) - 1 : -1])

        return score_naive(logits_of, rows)

    @torch.no_grad()
    def generate(
        self,
        images: Tensor,
        questions: Sequence[str],
        *,
        style: str = "infer",
        visual: Visual | None = None,
        **decoding: object,
    ) -> list[str]:
        visual = self.encode_image(images, questions) if visual is None else visual
        tokens = self.llm_tokens(visual, ranking=False)
        require_texts("questions", questions, len(tokens))
        prefixes = [self.prefix_ids(q, tokens.shape[1], ranking=False, style=style) for q in questions]
        ids, mask = pad_rows(prefixes, tokens.device, left=True)
        embeds = embed_rows(self.llm.get_input_embeddings(), ids, tokens)
        return generate_texts(self.llm, self.tokenizer, embeds, mask, self.template.stops, **decoding)


def answer_index(
    prefixes: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], device: torch.device
) -> tuple[Tensor, Tensor]:
    """(row (N,), position (N,)) of every answer token in right-padded rows of prefix + answer."""
    pairs = [(b, len(p) + i) for b, (p, t) in enumerate(zip(prefixes, targets, strict=True)) for i in range(len(t))]
    row, at = torch.tensor(pairs, dtype=torch.long, device=device).view(-1, 2).unbind(-1)
    return row, at
