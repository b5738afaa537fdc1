"""BLIP-2 with an encoder-decoder LLM (FlanT5): image tokens and text in the encoder, the answer in the decoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

from model_zoo.adapter import Adapter
from model_zoo.connectors import QFormerConnector
from model_zoo.scoring.packing import Scorer
from model_zoo.scoring.t5 import decode_packed
from model_zoo.sequences import IMAGE, Rows, additive_mask, log_softmax_pick, pad_rows, special_id
from model_zoo.templates import TEMPLATES, Template, render


class Blip2T5(Adapter):
    """Encoder: image + text + `</s>` (loss, generation) or image + text (ranking). Decoder: start + answer.

    Args:
        connector, llm, tokenizer: ready modules; llm is a transformers `T5ForConditionalGeneration`.
        eos_id: the tokenizer's EOS by default. start_id: the LLM config's decoder_start_token_id by default.
        max_text: most text and answer tokens of the loss, `</s>` included [R]; ranking is never cut.
        template, scoring, max_nodes, memory, official, mean, std: see `Adapter`.
    """

    def __init__(
        self,
        connector: QFormerConnector,
        llm: Any,
        tokenizer: Any,
        *,
        name: str = "blip2",
        image_size: int = 224,
        template: Template = TEMPLATES["blip2"],
        eos_id: int | None = None,
        start_id: int | None = None,
        max_text: int = 32,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, image_size, llm, tokenizer, template, **kwargs)
        self.connector, self.max_text = connector, max_text
        self.eos_id = special_id(tokenizer, "eos") if eos_id is None else eos_id
        self.start_id: int = llm.config.decoder_start_token_id if start_id is None else start_id
        self.decoding["decoder_start_token_id"] = self.start_id
        self.mask_heads = llm.config.num_heads  # T5's position bias differs from head to head and is added to the mask

    def prefix_ids(self, question: str, n_visual: int, *, ranking: bool, style: str = "cls") -> list[int]:
        """What the encoder reads: no end token in ranking, the text cut to max_text with one otherwise."""
        text = self.text_ids("".join(render(self.template, question, style)))
        return [*[IMAGE] * n_visual, *(text if ranking else [*text[: self.max_text - 1], self.eos_id])]

    def answer_ids(self, answer: str) -> list[int]:
        """Decoder targets: the answer and `</s>`."""
        return [*self.text_ids(answer)[: self.max_text - 1], self.eos_id]

    def place(self, rows: Rows, tokens: Tensor, *, left: bool = False) -> tuple[Tensor, Tensor]:
        """As `Adapter.place`, padded on the right always: the answer does not continue the encoder's rows."""
        embeds, mask = super().place(rows, tokens)
        return embeds.to(tokens.dtype), mask

    def encode(self, embeds: Tensor, mask: Tensor) -> Tensor:
        """Encoder states (B, T+L, D)."""
        return self.llm.encoder(inputs_embeds=embeds, attention_mask=mask.long()).last_hidden_state

    def answer_logp(self, tokens: Tensor, prefixes: Rows, targets: Rows) -> tuple[Tensor, Tensor]:
        embeds, mask = self.place(prefixes, tokens)
        inputs, seen = pad_rows([[self.start_id, *target[:-1]] for target in targets], tokens.device)
        labels, _ = pad_rows(targets, tokens.device)
        hidden = self.llm.decoder(
            input_ids=inputs,
            attention_mask=seen.long(),
            encoder_hidden_states=self.encode(embeds, mask),
            encoder_attention_mask=mask.long(),
            use_cache=False,
        ).last_hidden_state
        row, at = seen.nonzero(as_tuple=True)
        return log_softmax_pick(self.logits(hidden[row, at]), labels[row, at]), row

    def logits(self, hidden: Tensor) -> Tensor:
        """Vocabulary logits of decoder states (..., D); T5 v1.0 with tied embeddings scales them first."""
        config = self.llm.config
        scaled = getattr(config, "scale_decoder_outputs", config.tie_word_embeddings)
        return self.llm.lm_head(hidden * config.d_model**-0.5 if scaled else hidden)

    def candidate_logits(self, tokens: Tensor, prefix: list[int], candidate: list[int]) -> Tensor:
        embeds, mask = self.place([prefix], tokens)
        inputs = torch.tensor([[self.start_id, *candidate[:-1]]], device=tokens.device)
        return self.llm(inputs_embeds=embeds, attention_mask=mask.long(), decoder_input_ids=inputs).logits[0]

    def packed_parts(self, tokens: Tensor, prefixes: Rows) -> tuple[Scorer, Tensor, Tensor]:
        """The decoder's prefix is its start token; the encoder runs once per image."""
        embeds, mask = self.place(prefixes, tokens)
        scorer = self.scorer(self.encode(embeds, mask), mask)
        start = scorer.embed(torch.full((len(tokens), 1), self.start_id, device=tokens.device))
        return scorer, start, start.new_ones(start.shape[:2], dtype=torch.bool)

    def scorer(self, states: Tensor, mask: Tensor) -> Scorer:
        """The parts that packed scoring calls, behind encoder states (B, E, D) with mask (B, E) bool."""
        decoder, config = self.llm.decoder, self.llm.config
        seen = additive_mask((mask[:1] if bool(mask.all()) else mask).unsqueeze(1), states.dtype)

        def forward(embeds: Tensor, among: Tensor | None, positions: Tensor, cache: Any) -> Tensor:
            return decode_packed(decoder, embeds, among, positions, cache, states, seen)

        def new_cache() -> Any:
            return EncoderDecoderCache(DynamicCache(config=config), DynamicCache(config=config))

        return Scorer(forward, self.llm.get_input_embeddings(), self.logits, new_cache)
