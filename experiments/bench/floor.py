"""The floor: what cannot be left out, with nothing around it. One vision encode and one prefix forward for ranking."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.bench.models import Inputs, Size
from experiments.bench.naive import IGNORED, padded_targets, prefix_embeds, see, whole_row
from model_zoo.base import CLIP_MEAN, CLIP_STD, MLLM


def rank_floor(model: Any, frames: Tensor) -> Callable[[], Tensor]:
    """One vision encode of frames (B, 3, S, S), one prefix forward, and the next token's logits (B, V).

    T5's prefix is the encoder's input and the decoder's start token.
    """

    def run() -> Tensor:
        with torch.inference_mode():
            prefix = prefix_embeds(model, see(model, frames), ranking=True)
            if model.name == "blip2_t5":
                start = torch.full((len(prefix), 1), model.llm.config.decoder_start_token_id, device=prefix.device)
                return model.llm(inputs_embeds=prefix, decoder_input_ids=start, use_cache=False).logits
            row = whole_row(model, prefix, prefix.shape[1])
            return model.llm.lm_head(model.llm.model(**row, use_cache=False).last_hidden_state[:, -1])

    return run


def answer_loss_floor(model: Any, visual: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy () of target ids (B, n), `IGNORED` at padding; the vocabulary meets the answer's rows only."""
    prefix = prefix_embeds(model, visual, ranking=False)
    if model.name == "blip2_t5":
        return model.llm(inputs_embeds=prefix, labels=targets, use_cache=False).loss
    answer = model.llm.get_input_embeddings()(targets.clamp(min=0))
    row = whole_row(model, torch.cat([prefix, answer], dim=1), prefix.shape[1])
    hidden = model.llm.model(**row, use_cache=False).last_hidden_state[:, prefix.shape[1] - 1 : -1]
    logits = model.llm.lm_head(hidden).flatten(0, 1)
    return F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORED)


class FloorStep:
    """One forward and backward of the same graph, one clean encode, CLIP's image tower; no prompt is updated.

    Args:
        model, clip, size, delta, fca, tse: as `NaiveStep`; CLIP stays frozen.
        cached: leave the clean encode out, and compare with what was encoded once.
    """

    def __init__(
        self, model: MLLM, clip: Any, size: Size, delta: Tensor, batch: Inputs, *, fca: float, tse: float, cached: bool
    ) -> None:
        self.model, self.clip, self.fca, self.tse, self.cached = model, clip, fca, tse, cached
        self.clean = F.pad(batch.images, [size.pad] * 4)
        self.delta = delta.clone().requires_grad_()
        self.targets = padded_targets(model, batch.answers, delta.device)
        self.reference: Any = see(model, self.clean).detach() if cached else None
        self.captions: Any = clip.text_features(batch.captions) if tse else None

    def __call__(self) -> None:
        self.delta.grad = None
        frames = self.clean + self.delta
        visual = see(self.model, frames)
        loss = answer_loss_floor(self.model, visual, self.targets)
        if self.fca:
            reference = self.reference if self.cached else see(self.model, self.clean)
            loss = loss + self.fca * (visual - reference).norm(dim=-1).mean()
        if self.tse:
            mean, std = (frames.new_tensor(value).view(1, 3, 1, 1) for value in (CLIP_MEAN, CLIP_STD))
            seen = F.normalize(self.clip.model.encode_image((frames - mean) / std), dim=-1)
            loss = loss - self.tse * (seen * self.captions).sum(-1).mean()
        loss.backward()
