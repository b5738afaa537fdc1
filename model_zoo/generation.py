"""Free-text decoding with Hugging Face's `generate`, from embeddings, with stop strings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

REFERENCE_DECODING = {"num_beams": 5, "max_new_tokens": 128, "do_sample": False}
"""The reference's decoding [R]; LAVIS and MiniGPT-4 add their own length_penalty."""


def cut_at_stop(text: str, stops: Sequence[str]) -> str:
    """The part of `text` before the first stop string, stripped.

    >>> cut_at_stop("a cat ### Human: and", ["###"])
    'a cat'
    """
    ends = [at for stop in stops if (at := text.find(stop)) >= 0]
    return text[: min(ends)].strip() if ends else text.strip()


def stop_criteria(tokenizer: Any, stops: Sequence[str]) -> Any:
    """A Hugging Face criterion that ends a row when its last tokens spell a stop string."""

    class StopStrings(StoppingCriteria):
        def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
            tails = [tokenizer.decode(row[-16:].tolist(), skip_special_tokens=True) for row in input_ids]
            done = [any(stop in tail for stop in stops) for tail in tails]
            return torch.tensor(done, device=input_ids.device)

    return StoppingCriteriaList([StopStrings()] if stops else [])


def generate_texts(
    llm: Any, tokenizer: Any, embeds: Tensor, mask: Tensor, stops: Sequence[str] = (), **decoding: Any
) -> list[str]:
    """Decode from prefix embeddings (B, L, D), padded on the left where mask (B, L) is False.

    `decoding` overrides the reference's settings: num_beams, max_new_tokens, length_penalty, eos_token_id, ...
    """
    eos = tokenizer.eos_token_id
    settings = {**REFERENCE_DECODING, "eos_token_id": eos, **decoding}
    if settings["num_beams"] == 1:
        settings.pop("length_penalty", None)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else eos
    ids = llm.generate(
        inputs_embeds=embeds,
        attention_mask=mask.long(),
        pad_token_id=pad,
        stopping_criteria=stop_criteria(tokenizer, stops),
        **settings,
    )
    return [cut_at_stop(tokenizer.decode(row.tolist(), skip_special_tokens=True), stops) for row in ids]
