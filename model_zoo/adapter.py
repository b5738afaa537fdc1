"""The half of an adapter that every architecture shares: the frame of loss, scoring and generation around an LLM."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from model_zoo.base import MLLM, Visual
from model_zoo.connectors import QFormerConnector
from model_zoo.generation import generate_texts
from model_zoo.scoring.budget import budget_of, plan_rounds
from model_zoo.scoring.candidates import encode_candidates, finish, score_naive
from model_zoo.scoring.packing import Scorer, score_packed
from model_zoo.sequences import Rows, TextEncoder, embed_rows, pad_rows, require_texts
from model_zoo.templates import Template

SCORERS = ("packed", "naive")


class Adapter(MLLM):
    """An image encoder in front of an LLM. Subclasses say how images and questions become a prefix, and run the LLM.

    Args:
        name, image_size, official, mean, std: see `MLLM`.
        llm: a Hugging Face language model with `generate`.
        tokenizer: its tokenizer; used for plain text, `decode` and the special ids only.
        template: instruction texts (`model_zoo.templates`).
        scoring: `packed` (exact and fast) or `naive` (the oracle: one candidate at a time).
        max_nodes: most candidate nodes packed in one forward; None: as many as `memory` allows, where they fit in
            the same forward as the prefix. Scores depend on neither.
        memory: bytes for the short-lived tensors of packed scoring; None: a quarter of CUDA's free ones, else 2 GiB.

    `decoding` holds the family's own settings of `generate`. `mask_heads` is 1 where all heads share a mask.
    """

    connector: QFormerConnector
    llm: Any

    def __init__(
        self,
        name: str,
        image_size: int,
        llm: Any,
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
        self.decoding: dict[str, object] = {}
        self.mask_heads = 1

    def tower_parts(self) -> list[nn.Module]:
        return self.connector.tower_parts()

    @property
    def tower_outputs(self) -> int:
        return 1 if self.connector.patch_projection is None else 2

    def run_tower(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return self.connector.see(pixels)

    def encode_image(self, images: Tensor, questions: Sequence[str]) -> Visual:
        return Visual(self.connector.read(self.see(images)), self.connector.n_query)

    @abstractmethod
    def prefix_ids(self, question: str, n_visual: int, *, ranking: bool, style: str = "cls") -> list[int]:
        """Token ids before the answer, `IMAGE` n_visual times where the visual tokens go.

        `ranking` asks for the layout of candidate scoring where it differs from the training layout.
        """

    @abstractmethod
    def answer_ids(self, answer: str) -> list[int]:
        """Token ids that enter the loss: the answer and what ends it."""

    @abstractmethod
    def answer_logp(self, tokens: Tensor, prefixes: Rows, targets: Rows) -> tuple[Tensor, Tensor]:
        """Teacher-forced log-probabilities (N,) of all target ids of all rows, and which row each is of (N,)."""

    @abstractmethod
    def candidate_logits(self, tokens: Tensor, prefix: list[int], candidate: list[int]) -> Tensor:
        """Logits (n, V) that predict the n ids of one candidate of one image, tokens (1, T, D): the naive protocol."""

    @abstractmethod
    def packed_parts(self, tokens: Tensor, prefixes: Rows) -> tuple[Scorer, Tensor, Tensor]:
        """What packed scoring calls, and the prefix it appends candidates to: embeddings (B, P, D), mask (B, P)."""

    def loss_ids(self, question: str, answer: str, n_visual: int) -> tuple[list[int], list[int]]:
        """(ids before the targets, target ids) of the training loss; see `prefix_ids` and `answer_ids`."""
        return self.prefix_ids(question, n_visual, ranking=False), self.answer_ids(answer)

    def llm_tokens(self, visual: Visual, *, ranking: bool) -> Tensor:
        """The visual tokens (B, T, D) the LLM sees; a family may show it fewer in ranking."""
        return visual.tokens

    def place(self, rows: Rows, tokens: Tensor, *, left: bool = False) -> tuple[Tensor, Tensor]:
        """Embeddings (B, L, D) and mask (B, L) bool of padded rows of ids, tokens (B, T, D) at `IMAGE` entries."""
        ids, mask = pad_rows(rows, tokens.device, left=left)
        return embed_rows(self.llm.get_input_embeddings(), ids, tokens), mask

    def answer_token_counts(self, questions: Sequence[str], answers: Sequence[str]) -> Tensor:
        pairs = zip(questions, answers, strict=True)
        return torch.tensor([len(self.loss_ids(*pair, 0)[1]) for pair in pairs], dtype=torch.long)

    def answer_loss(
        self, images: Tensor, questions: Sequence[str], answers: Sequence[str], *, visual: Visual | None = None
    ) -> tuple[Tensor, Tensor]:
        tokens = self._tokens(images, questions, visual, ranking=False)
        require_texts("answers", answers, len(tokens))
        rows = [self.loss_ids(q, a, tokens.shape[1]) for q, a in zip(questions, answers, strict=True)]
        logp, row = self.answer_logp(tokens, [prefix for prefix, _ in rows], [target for _, target in rows])
        nats = logp.new_zeros(len(tokens)).index_add(0, row, -logp)
        return nats, row.new_zeros(len(tokens)).index_add(0, row, torch.ones_like(row))

    def score(
        self,
        images: Tensor,
        questions: Sequence[str],
        candidates: Sequence[str] | Sequence[Sequence[str]],
        *,
        visual: Visual | None = None,
        normalize: bool = True,
    ) -> Tensor:
        tokens = self._tokens(images, questions, visual, ranking=True)
        rows = encode_candidates(candidates, self.text_ids, len(tokens))
        prefixes = [self.prefix_ids(question, tokens.shape[1], ranking=True) for question in questions]
        if self.scoring == "packed":
            return finish(self._score_packed(tokens, prefixes, rows), rows, normalize)

        def logits_of(b: int, candidate: list[int]) -> Tensor:
            return self.candidate_logits(tokens[b : b + 1], prefixes[b], candidate)

        return finish(score_naive(logits_of, rows), rows, normalize)

    def _score_packed(self, tokens: Tensor, prefixes: list[list[int]], rows: list[list[list[int]]]) -> Tensor:
        scorer, prefix, mask = self.packed_parts(tokens, prefixes)
        budget = budget_of(self.llm.config, prefix, self.memory, heads=self.mask_heads)
        scorer, rounds = scorer._replace(vocab_rows=budget.vocab_rows()), plan_rounds(rows, self.max_nodes, budget)
        return score_packed(scorer, prefix, mask, rounds, max(len(row) for row in rows))

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
        tokens = self._tokens(images, questions, visual, ranking=False)
        prefixes = [self.prefix_ids(q, tokens.shape[1], ranking=False, style=style) for q in questions]
        embeds, mask = self.place(prefixes, tokens, left=True)
        settings = {**self.decoding, **decoding}
        return generate_texts(self.llm, self.tokenizer, embeds, mask, self.template.stops, **settings)

    def _tokens(self, images: Tensor, questions: Sequence[str], visual: Visual | None, *, ranking: bool) -> Tensor:
        """The visual tokens (B, T, D) the LLM sees, encoded unless given. Raises ValueError unless each has a text."""
        visual = self.encode_image(images, questions) if visual is None else visual
        tokens = self.llm_tokens(visual, ranking=ranking)
        require_texts("questions", questions, len(tokens))
        return tokens
