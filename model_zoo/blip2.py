"""BLIP-2 with an encoder-decoder LLM (FlanT5): image tokens and text in the encoder, the answer in the decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from model_zoo.base import MLLM, Visual
from model_zoo.connectors import QFormerConnector
from model_zoo.decoder import SCORERS
from model_zoo.generation import generate_texts
from model_zoo.scoring.budget import budget_of, plan_rounds
from model_zoo.scoring.candidates import encode_candidates, finish, score_naive
from model_zoo.scoring.packing import Scorer, score_packed
from model_zoo.scoring.t5 import decode_packed
from model_zoo.sequences import (
    TextEncoder,
    additive_mask,
    embed_rows,
    log_softmax_pick,
    pad_rows,
    require_texts,
    special_id,
)
from model_zoo.templates import TEMPLATES, Template, render


class Blip2T5(MLLM):
    """Encoder: image + text + `</s>` (loss, generation) or image + text (ranking). Decoder: start + answer.

    Args:
        connector, llm, tokenizer: ready modules; llm is a transformers `T5ForConditionalGeneration`.
        eos_id: the tokenizer's EOS by default. start_id: the LLM config's decoder_start_token_id by default.
        max_text: most text and answer tokens of the loss, `</s>` included [R]; ranking is never cut.
        scoring, max_nodes, memory: see `DecoderMLLM`.
    """

    def __init__(
        self,
        connector: QFormerConnector,
        llm: nn.Module,
        tokenizer: Any,
        *,
        name: str = "blip2",
        image_size: int = 224,
        template: Template = TEMPLATES["blip2"],
        eos_id: int | None = None,
        start_id: int | None = None,
        max_text: int = 32,
        scoring: str = "packed",
        max_nodes: int | None = None,
        memory: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, image_size, **kwargs)
        if scoring not in SCORERS:
            raise ValueError(f"Unknown scoring {scoring!r}. Expected one of {', '.join(SCORERS)}.")
        self.connector, self.llm, self.tokenizer, self.template = connector, llm, tokenizer, template
        self.eos_id = special_id(tokenizer, "eos") if eos_id is None else eos_id
        self.start_id = llm.config.decoder_start_token_id if start_id is None else start_id
        self.max_text, self.scoring, self.max_nodes, self.memory = max_text, scoring, max_nodes, memory
        self.text_ids = TextEncoder(tokenizer)

    def encode_image(self, images: Tensor, questions: Sequence[str]) -> Visual:
        return Visual(self.connector(self.prepare(images)), self.connector.n_query)

    def prompt_ids(self, question: str, *, ranking: bool, style: str = "cls") -> list[int]:
        """Text ids after the image: no end token in ranking, cut to max_text with one otherwise."""
        ids = self.text_ids("".join(render(self.template, question, style)))
        return ids if ranking else [*ids[: self.max_text - 1], self.eos_id]

    def answer_ids(self, answer: str) -> list[int]:
        """Decoder targets: the answer and `</s>`."""
        return [*self.text_ids(answer)[: self.max_text - 1], self.eos_id]

    def answer_token_counts(self, questions: Sequence[str], answers: Sequence[str]) -> Tensor:
        return torch.tensor([len(self.answer_ids(answer)) for answer in answers], dtype=torch.long)

    def encoder_input(self, tokens: Tensor, prompts: list[list[int]]) -> tuple[Tensor, Tensor]:
        """(embeds (B, T+L, D), mask (B, T+L) bool): visual tokens (B, T, D), then right-padded text."""
        ids, mask = pad_rows(prompts, tokens.device)
        embeds = torch.cat([tokens, embed_rows(self.llm.get_input_embeddings(), ids, None).to(tokens.dtype)], dim=1)
        return embeds, torch.cat([mask.new_ones(tokens.shape[:2]), mask], dim=1)

    def encode(self, embeds: Tensor, mask: Tensor) -> Tensor:
        """Encoder states (B, T+L, D)."""
        return self.llm.encoder(inputs_embeds=embeds, attention_mask=mask.long()).last_hidden_state

    def decode(self, states: Tensor, mask: Tensor, targets: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor]:
        """Teacher-forced log-probabilities: (logp (N,), row (N,), token (N,)) over all target tokens of all rows."""
        inputs, seen = pad_rows([[self.start_id, *target[:-1]] for target in targets], states.device)
        labels, _ = pad_rows(targets, states.device)
        hidden = self.llm.decoder(
            input_ids=inputs,
            attention_mask=seen.long(),
            encoder_hidden_states=states,
            encoder_attention_mask=mask.long(),
            use_cache=False,
        ).last_hidden_state
        row, at = seen.nonzero(as_tuple=True)
        return log_softmax_pick(self.logits(hidden[row, at]), labels[row, at]), row, labels[row, at]

    def logits(self, hidden: Tensor) -> Tensor:
        """Vocabulary logits of decoder states (..., D); T5 v1.0 with tied embeddings scales them first."""
        config = self.llm.config
        scaled = getattr(config, "scale_decoder_outputs", config.tie_word_embeddings)
        return self.llm.lm_head(hidden * config.d_model**-0.5 if scaled else hidden)

    def answer_loss(
        self, images: Tensor, questions: Sequence[str], answers: Sequence[str], *, visual: Visual | None = None
    ) -> tuple[Tensor, Tensor]:
        visual = self.encode_image(images, questions) if visual is None else visual
        require_texts("questions", questions, len(visual.tokens))
        require_texts("answers", answers, len(visual.tokens))
        prompts = [self.prompt_ids(question, ranking=False) for question in questions]
        embeds, mask = self.encoder_input(visual.tokens, prompts)
        logp, row, _ = self.decode(self.encode(embeds, mask), mask, [self.answer_ids(answer) for answer in answers])
        nats = logp.new_zeros(len(visual.tokens)).index_add(0, row, -logp)
        return nats, self.answer_token_counts(questions, answers).to(nats.device)

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
        require_texts("questions", questions, len(visual.tokens))
        rows = encode_candidates(candidates, self.text_ids, len(visual.tokens))
        prompts = [self.prompt_ids(question, ranking=True) for question in questions]
        score = self._score_packed if self.scoring == "packed" else self._score_naive
        return finish(score(visual.tokens, prompts, rows), rows, normalize)

    def _score_packed(self, tokens: Tensor, prompts: list[list[int]], rows: list[list[list[int]]]) -> Tensor:
        """The decoder's prefix is its start token; the encoder runs once per image."""
        embeds, mask = self.encoder_input(tokens, prompts)
        budget = budget_of(self.llm.config, embeds[:, :1], self.memory, heads=self.llm.config.num_heads)
        scorer = self.scorer(self.encode(embeds, mask), mask)._replace(vocab_rows=budget.vocab_rows())
        start = scorer.embed(torch.full((len(tokens), 1), self.start_id, device=tokens.device))
        rounds, real = plan_rounds(rows, self.max_nodes, budget), start.new_ones(start.shape[:2], dtype=torch.bool)
        return score_packed(scorer, start, real, rounds, max(len(row) for row in rows))

    def scorer(self, states: Tensor, mask: Tensor) -> Scorer:
        """The parts that packed scoring calls, behind encoder states (B, E, D) with mask (B, E) bool."""
        from transformers import DynamicCache, EncoderDecoderCache

        decoder, config = self.llm.decoder, self.llm.config
        seen = additive_mask((mask[:1] if bool(mask.all()) else mask).unsqueeze(1), states.dtype)
        return Scorer(
            lambda embeds, *rest: decode_packed(decoder, embeds, *rest, states, seen),
            self.llm.get_input_embeddings(),
            self.logits,
            lambda: EncoderDecoderCache(DynamicCache(config=config), DynamicCache(config=config)),
        )

    def _score_naive(self, tokens: Tensor, prompts: list[list[int]], rows: list[list[list[int]]]) -> Tensor:
        def logits_of(b: int, candidate: list[int]) -> Tensor:
            embeds, mask = self.encoder_input(tokens[b : b + 1], prompts[b : b + 1])
            inputs = torch.tensor([[self.start_id, *candidate[:-1]]], device=tokens.device)
            return self.llm(inputs_embeds=embeds, attention_mask=mask.long(), decoder_input_ids=inputs).logits[0]

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
        require_texts("questions", questions, len(visual.tokens))
        prompts = [self.prompt_ids(question, ranking=False, style=style) for question in questions]
        embeds, mask = self.encoder_input(visual.tokens, prompts)
        decoding = {"decoder_start_token_id": self.start_id, **decoding}
        return generate_texts(self.llm, self.tokenizer, embeds, mask, self.template.stops, **decoding)
