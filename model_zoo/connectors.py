"""From normalised pixels to the LLM's visual tokens: what the Q-Former families share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import transformers
from torch import Tensor, nn


class QFormerConnector(nn.Module):
    """ViT -> layer norm -> Q-Former -> linear projection, optionally with projected patch tokens beside it (BLIVA).

    Args:
        vision: a transformers `Blip2VisionModel`; its `post_layernorm` is the original `ln_vision`.
        qformer: `Blip2QFormerModel`, or `InstructBlipQFormerModel` when it reads the question (`reads_text=True`).
        query_tokens: (1, n_query, Q) learned queries.
        projection: Q -> D, the LLM's width.
        patch_projection: vision width -> D, applied to the patches after the block before the last (CLS dropped, no
            layer norm); None where the LLM sees query tokens only.
    """

    vision: Any
    qformer: Any
    projection: Any
    patch_projection: nn.Module | None

    def __init__(
        self,
        vision: nn.Module,
        qformer: nn.Module,
        query_tokens: Tensor,
        projection: nn.Module,
        patch_projection: nn.Module | None = None,
        *,
        reads_text: bool = False,
    ) -> None:
        super().__init__()
        self.vision, self.qformer, self.projection = vision, qformer, projection
        self.query_tokens = nn.Parameter(query_tokens.detach().clone())
        self.patch_projection = patch_projection
        self.reads_text = reads_text

    @property
    def n_query(self) -> int:
        return self.query_tokens.shape[1]

    def tower_parts(self) -> list[nn.Module]:
        """What `see` runs: the layer norm after it belongs to the Q-Former's checkpoint, not to the tower's."""
        return [self.vision.embeddings, *self.vision.encoder.layers]

    def see(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Features after the last block and after the one before it, both (B, 1+P, V), CLS first, no layer norm yet."""
        hidden = self.vision.embeddings(pixels)
        before = hidden
        for block in self.vision.encoder.layers:
            before, hidden = hidden, block(hidden)
        return hidden, before

    def query(self, last: Tensor, text_ids: Tensor | None = None, text_mask: Tensor | None = None) -> Tensor:
        """Q-Former outputs (B, n_query, Q) over the last block's features (B, 1+P, V), reading text_ids (B, L)."""
        features = self.vision.post_layernorm(last)
        queries = self.query_tokens.expand(len(features), -1, -1)
        if not self.reads_text:
            return self.qformer(query_embeds=queries, encoder_hidden_states=features).last_hidden_state
        assert text_mask is not None  # a connector that reads text is called with one
        mask = torch.cat([text_mask.new_ones(queries.shape[:2]), text_mask], dim=1).long()
        output = self.qformer(
            input_ids=text_ids, attention_mask=mask, query_embeds=queries, encoder_hidden_states=features
        )
        return output.last_hidden_state[:, : self.n_query]

    def read(self, seen: tuple[Tensor, ...], text_ids: Tensor | None = None, text_mask: Tensor | None = None) -> Tensor:
        """Visual tokens (B, T, D), query tokens first, from what `see` returns; its second part for patches only."""
        tokens = self.projection(self.query(seen[0], text_ids, text_mask))
        if self.patch_projection is None:
            return tokens
        return torch.cat([tokens, self.patch_projection(seen[1][:, 1:])], dim=1)

    def forward(self, pixels: Tensor, text_ids: Tensor | None = None, text_mask: Tensor | None = None) -> Tensor:
        """Visual tokens (B, T, D), query tokens first; pixels (B, 3, S, S) are normalised."""
        return self.read(self.see(pixels), text_ids, text_mask)


def build_connector(
    vision: dict[str, Any],
    qformer: dict[str, Any],
    n_query: int,
    llm_width: int,
    *,
    reads_text: bool = False,
    with_patches: bool = False,
) -> QFormerConnector:
    """A connector with random weights from `Blip2VisionConfig` and Q-Former config arguments (no dropout)."""
    tower: Any = transformers.Blip2VisionModel(transformers.Blip2VisionConfig(**vision))
    tower.post_layernorm.eps = 1e-5  # the original ln_vision; the blocks use the config's layer_norm_eps
    width = tower.config.hidden_size
    numbers = {"encoder_hidden_size": width, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, **qformer}
    bert = random_qformer(numbers, reads_text=reads_text)
    size = bert.config.hidden_size
    return QFormerConnector(
        tower,
        bert,
        torch.randn(1, n_query, size) * 0.02,
        nn.Linear(size, llm_width),
        nn.Linear(width, llm_width) if with_patches else None,
        reads_text=reads_text,
    )


def random_qformer(config: Mapping[str, Any], *, reads_text: bool) -> Any:
    """An `InstructBlipQFormerModel` (reads_text) or `Blip2QFormerModel` with random weights."""
    family = "InstructBlip" if reads_text else "Blip2"
    numbers = getattr(transformers, f"{family}QFormerConfig")(**config)
    return getattr(transformers, f"{family}QFormerModel")(numbers)
