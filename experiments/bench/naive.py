"""The naive protocol: the reference's way of computing what ours computes, written on its own and plainly.

Ranking: one LLM call per class, over the whole batch. A decoder-only LLM reads the prefix once and each class after a
fresh copy of its cache; T5's encoder runs again for every class; VisualGLM runs whole, vision tower included, for
every class, because its published `forward` takes the picture. The log-softmax covers every position of prefix and
class. Training: the prompted frame is encoded for the loss and again for FCA, the clean frame once without graph; the
vocabulary projection covers every position; CLIP is not frozen and reads the captions again in each batch.
Only the modules of a model are used here (its vision side through `encode_image`), none of its scoring or loss code.
One question serves the whole batch.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.bench.models import QUESTION, Inputs, Size
from model_zoo.base import CLIP_MEAN, CLIP_STD, MLLM
from model_zoo.cache_argument import cache_argument, cache_of

IGNORED = -100


def text_ids(model: Any, text: str) -> list[int]:
    return list(model.tokenizer(text, add_special_tokens=False)["input_ids"])


def prefix_parts(model: Any, *, ranking: bool) -> tuple[list[int], list[int]]:
    """Ids before and after the visual tokens of a row, the question included (docs/method.md#templates)."""
    question = text_ids(model, QUESTION)
    if model.name in ("minigpt4", "vpgtrans"):
        return [model.tokenizer.bos_token_id, *text_ids(model, "<Img>")], [*text_ids(model, "</Img>"), *question]
    if model.name == "visualglm":
        ends = [model.tokenizer.gmask_token_id, model.tokenizer.bos_token_id]
        return text_ids(model, "<img>"), [*text_ids(model, f"</img> {QUESTION}"), *ends]
    if model.name == "blip2_t5":
        return [], question if ranking else [*question, model.tokenizer.eos_token_id]
    bos = model.tokenizer.bos_token_id if model.name == "blip2_opt" else model.tokenizer.eos_token_id
    return [], question if ranking else [bos, *question]


def target_ids(model: Any, answer: str) -> list[int]:
    """Ids of a training answer and what ends it."""
    ends = {"minigpt4": "\n", "vpgtrans": "###", "blip2_opt": "\n"}
    closing = [model.tokenizer.eos_token_id] if model.name in ("instructblip", "bliva", "blip2_t5") else []
    return [*text_ids(model, answer + ends.get(model.name, "")), *closing]


def prefix_embeds(model: Any, visual: Tensor, *, ranking: bool) -> Tensor:
    """Embeddings (B, P, D) of the rows up to the answer, visual tokens (B, T, D) in their place."""
    before, after = prefix_parts(model, ranking=ranking)
    return torch.cat([id_embeds(model, before, visual), visual, id_embeds(model, after, visual)], dim=1)


def id_embeds(model: Any, ids: Sequence[int], like: Tensor) -> Tensor:
    """The same ids for each row of `like`: (B, n, D)."""
    index = torch.tensor(list(ids), dtype=torch.long, device=like.device)
    return model.llm.get_input_embeddings()(index).expand(len(like), -1, -1)


def glm_inputs(prefix: int, total: int, like: Tensor) -> dict[str, Tensor]:
    """ChatGLM's mask (1, 1, L, L), True where seen, and positions (B, 2, L); the last of `prefix` entries is <sop>."""
    seen = torch.ones(total, total, dtype=torch.bool, device=like.device).tril()
    seen[:, : prefix - 1] = True
    index = torch.arange(total, device=like.device)
    positions = torch.stack([index.clamp(max=prefix - 2), (index - (prefix - 2)).clamp(min=0)])
    return {"attention_mask": seen[None, None], "position_ids": positions.expand(len(like), -1, -1)}


def whole_row(model: Any, embeds: Tensor, prefix: int) -> dict[str, Tensor]:
    """What a decoder-only LLM is called with for rows (B, L, D) whose first `prefix` entries come before the answer."""
    extra = glm_inputs(prefix, embeds.shape[1], embeds) if model.name == "visualglm" else {}
    return {"inputs_embeds": embeds, **extra}


@torch.no_grad()
def naive_scores(model: MLLM, frames: Tensor, candidates: Sequence[str]) -> Tensor:
    """Mean log-likelihoods (B, K) of the candidates after each frame (B, 3, S, S) and the question."""
    rank = {"visualglm": _rank_whole, "blip2_t5": _rank_t5}.get(model.name, _rank_cached)
    return torch.stack(rank(model, frames, [text_ids(model, text) for text in candidates]), dim=1)


def see(model: MLLM, frames: Tensor) -> Tensor:
    """Visual tokens (B, T, D) of frames (B, 3, S, S), each with the question."""
    return model.encode_image(frames, [QUESTION] * len(frames)).tokens


def _mean_logp(logits: Tensor, ids: Sequence[int], *, unread: int = 1) -> Tensor:
    """Mean (B,) over ids, from logits (B, L, V) whose last `unread` rows predict what would come after them."""
    logp = logits.log_softmax(-1)  # of the prefix too
    logp = logp[:, logits.shape[1] - unread - len(ids) : logits.shape[1] - unread]
    index = torch.tensor(list(ids), device=logits.device).expand(len(logits), -1).unsqueeze(-1)
    return logp.gather(2, index).squeeze(-1).mean(1)


def _rank_cached(model: Any, frames: Tensor, rows: list[list[int]]) -> list[Tensor]:
    embeds = prefix_embeds(model, see(model, frames), ranking=True)
    prefix = model.llm(inputs_embeds=embeds, use_cache=True)
    scores = []
    for ids in rows:
        cache = cache_argument(model.llm, fresh_cache(cache_of(prefix)))
        output = model.llm(inputs_embeds=id_embeds(model, ids, embeds), use_cache=True, **cache)
        scores.append(_mean_logp(torch.cat([prefix.logits, output.logits], dim=1), ids))
    return scores


def fresh_cache(cache: Any) -> Any:
    """A cache that begins with the same tensors. Extending it concatenates, as the reference's tuples do: no more."""
    fresh = copy.copy(cache)
    fresh.layers = [copy.copy(layer) for layer in cache.layers]
    return fresh


def _rank_t5(model: Any, frames: Tensor, rows: list[list[int]]) -> list[Tensor]:
    embeds = prefix_embeds(model, see(model, frames), ranking=True)
    mask, start = torch.ones(embeds.shape[:2], device=embeds.device), model.llm.config.decoder_start_token_id
    scores = []
    for ids in rows:
        inputs = torch.tensor([start, *ids[:-1]], device=embeds.device).expand(len(embeds), -1)
        output = model.llm(inputs_embeds=embeds, attention_mask=mask, decoder_input_ids=inputs, use_cache=False)
        scores.append(_mean_logp(output.logits, ids, unread=0))
    return scores


def _rank_whole(model: Any, frames: Tensor, rows: list[list[int]]) -> list[Tensor]:
    scores = []
    for ids in rows:
        prefix = prefix_embeds(model, see(model, frames), ranking=True)
        embeds = torch.cat([prefix, id_embeds(model, ids, prefix)], dim=1)
        output = model.llm(**whole_row(model, embeds, prefix.shape[1]))
        scores.append(_mean_logp(output.logits, ids))
    return scores


def padded_targets(model: Any, answers: Sequence[str], device: torch.device) -> Tensor:
    """Target ids (B, n), `IGNORED` where an answer has ended."""
    rows = [target_ids(model, answer) for answer in answers]
    width = max(map(len, rows))
    return torch.tensor([row + [IGNORED] * (width - len(row)) for row in rows], device=device)


def naive_loss(model: Any, visual: Tensor, answers: Sequence[str]) -> Tensor:
    """Cross-entropy () of the batch's answer tokens after visual tokens (B, T, D), over logits of every position."""
    targets = padded_targets(model, answers, visual.device)
    prefix = prefix_embeds(model, visual, ranking=False)
    if model.name == "blip2_t5":
        return model.llm(inputs_embeds=prefix, labels=targets, use_cache=False).loss
    answer = model.llm.get_input_embeddings()(targets.clamp(min=0))
    logits = model.llm(**whole_row(model, torch.cat([prefix, answer], dim=1), prefix.shape[1])).logits
    labels = torch.cat([targets.new_full(prefix.shape[:2], IGNORED), targets], dim=1)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)


class NaiveStep:
    """One update of the prompt, the reference's way.

    Args:
        model, clip: the source and a `ClipScorer`; CLIP is copied and not frozen.
        size: frame and border. batch: what is learned from.
        delta: (3, frame, frame), the prompt to begin with; copied.
        fca, tse: weights of the losses; 0 leaves one out. lr: length of the step.
    """

    def __init__(
        self, model: MLLM, clip: Any, size: Size, delta: Tensor, batch: Inputs, *, fca: float, tse: float, lr: float
    ) -> None:
        self.model, self.size, self.delta, self.batch = model, size, delta.clone(), batch
        self.clip: Any = copy.deepcopy(clip).requires_grad_(True) if tse else None
        self.fca, self.tse, self.lr = fca, tse, lr
        inside = slice(size.pad, size.frame - size.pad)
        self.mask = torch.ones_like(delta)
        self.mask[:, inside, inside] = 0

    def gradient(self) -> tuple[Tensor, Tensor]:
        """(loss (), mean over the batch of dloss/d(prompted frame) (3, frame, frame))."""
        clean = F.pad(self.batch.images, [self.size.pad] * 4)
        reference: Any = see(self.model, clean) if self.fca else None  # nothing asks for a graph
        noise = self.delta.repeat(len(clean), 1, 1, 1).requires_grad_()
        prompted = clean + noise
        loss = naive_loss(self.model, see(self.model, prompted), self.batch.answers)
        if self.fca:
            loss = loss + self.fca * (see(self.model, prompted) - reference).norm(dim=-1).mean()
        if self.tse:
            loss = loss - self.tse * self._similarity(prompted)
        loss.backward()
        assert noise.grad is not None
        return loss.detach(), noise.grad.mean(0)

    def _similarity(self, prompted: Tensor) -> Tensor:
        """Mean scaled cosine () of frames and their captions: the diagonal of all pairs."""
        clip, tokens = self.clip.model, self.clip.tokenizer(self.batch.captions)
        mean, std = (prompted.new_tensor(value).view(1, 3, 1, 1) for value in (CLIP_MEAN, CLIP_STD))
        seen, read = clip.encode_image((prompted - mean) / std), clip.encode_text(tokens)
        seen, read = seen / seen.norm(dim=-1, keepdim=True), read / read.norm(dim=-1, keepdim=True)
        return (clip.logit_scale.exp() * seen @ read.T).diag().mean()

    def __call__(self) -> tuple[Tensor, Tensor]:
        """Loss and gradient (as `gradient`) of the step that is made."""
        loss, gradient = self.gradient()
        self.delta = self.delta - self.lr * self.mask * gradient / (gradient.norm() + 1e-10)
        if self.clip is not None:
            self.clip.zero_grad()
        return loss, gradient
