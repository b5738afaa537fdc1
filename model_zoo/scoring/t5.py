"""T5's decoder over a token trie: its relative bias follows the distance in each sentence, not the distance in rows.

T5 has no position ids: its first self-attention turns row differences into a bias that all layers share. Packed rows
stand elsewhere than in their own sentences, so the bias is looked up here from explicit positions and handed to the
blocks, which take one. A mask that corrects the stack's own bias would be equal in float32 only: in bfloat16 the
difference of two biases is rounded once more.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from model_zoo.cache_argument import cache_argument


def relative_bias(decoder: Any, queries: Tensor, keys: Tensor) -> Tensor:
    """Bias (R, H, L, M) of a T5 stack for positions queries (R, L) and keys (R, M); keys may not see later ones."""
    deepest = int(queries.max()) + 1
    attention = decoder.block[0].layer[0].SelfAttention
    table = attention.compute_bias(1, deepest, past_seen_tokens=deepest - 1)[0, :, 0].flip(-1)  # (H, distance)
    distance = (queries.unsqueeze(-1) - keys.unsqueeze(-2)).clamp(min=0)
    return table[:, distance].transpose(0, 1)


def decode_packed(
    decoder: Any,
    embeds: Tensor,
    mask: Tensor | None,
    positions: Tensor,
    cache: Any,
    states: Tensor,
    states_mask: Tensor,
) -> Tensor:
    """Final hidden states (B, L, D) of a T5 stack's decoder, each entry at its own position.

    embeds (B, L, D), mask (R, 1, L, past+L) additive or None for a single start token, positions (R, L). The past is
    the start token (position 0). states (B, E, D) and their additive mask (R, 1, 1, E) come from the encoder. A
    `EncoderDecoderCache` is extended in place and keeps the states' keys and values; None keeps nothing.
    """
    past = 0 if cache is None else cache.get_seq_length()
    keys = torch.cat([positions.new_zeros(len(positions), past), positions], dim=-1)
    bias = relative_bias(decoder, positions, keys)
    mask = bias.new_zeros(1, 1, 1, 1) if mask is None else mask
    hidden = embeds
    for block in decoder.block:
        hidden = block(hidden, mask, bias, states, None, states_mask, **cache_argument(block, cache))[0]
    return decoder.final_layer_norm(hidden)
