"""A token trie behind a prefix in one row: positions and masks gathered from those of a plain sequence.

A model says where the entries of a plain sequence stand and what they see. A node at depth d stands where entry P + d
of a plain sequence with P prefix entries stands, and sees what that one sees, unless it is no ancestor. Whatever a
family does (three-dimensional positions, sliding windows, prefixes that look both ways) needs no further word.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.masking_utils import create_masks_for_generate

from model_zoo.cache_argument import cache_name
from model_zoo.scoring.trie import Packed


class Tree(NamedTuple):
    """Where the entries of rows of prefix + N nodes + padding stand in a plain sequence, and who may see whom.

    entry: (R, L) int64, of the plain sequence. allow: (R, L, L) bool. R is 1 where all rows agree.
    """

    entry: Tensor
    allow: Tensor


def tree(lengths: Tensor, pack: Packed, width: int) -> Tree:
    """The tree of rows of `width` entries, prefixes of lengths (R,)."""
    n, rows = pack.ids.shape[1], max(len(lengths), len(pack.ids))
    start = lengths.view(-1, 1).expand(rows, 1)  # (R, 1)
    column = torch.arange(width, device=lengths.device).expand(rows, width)
    node = (column - start).clamp(0, n - 1)  # meaningless outside the nodes
    inside = (column >= start) & (column < start + n)
    depth = pack.depths.expand(rows, n).gather(1, node)
    above = pack.nodes.expand(rows, n, n)
    related = above.gather(1, node.unsqueeze(-1).expand(rows, width, n))
    related = related.gather(2, node.unsqueeze(1).expand(rows, width, width))
    both = inside.unsqueeze(-1) & inside.unsqueeze(1) & related
    return Tree(torch.where(inside, start + depth, column), both | (column < start).unsqueeze(1))


def tree_inputs(inputs: dict[str, Any], llm: Any, tree: Tree) -> dict[str, Any]:
    """A plain sequence's language inputs with positions and masks of the tree."""
    masks = masks_of(inputs, llm)
    embeds: Tensor = inputs["inputs_embeds"]

    def gathered(seen: Tensor) -> Tensor:
        return additive(pick(seen, tree.entry, tree.entry) & tree.allow.unsqueeze(1), embeds.dtype)

    return {**inputs, "position_ids": pick_positions(inputs, tree.entry), "attention_mask": every(masks, gathered)}


def node_inputs(inputs: dict[str, Any], llm: Any, tree: Tree, lengths: Tensor, nodes: int, past: int) -> dict[str, Any]:
    """The part of `tree_inputs` for the nodes alone, behind a cached prefix of `past` entries (padded on the right)."""
    masks = masks_of(inputs, llm)
    embeds: Tensor = inputs["inputs_embeds"]
    rows = len(embeds)
    at = lengths.view(-1, 1).expand(rows, 1) + torch.arange(nodes, device=lengths.device)  # (B, N) columns of the nodes
    index = tree.entry.expand(rows, -1).gather(1, at)
    prefix = torch.arange(past, device=lengths.device).expand(rows, past)
    allow = tree.allow.expand(rows, -1, -1)
    allow = allow.gather(1, at.unsqueeze(-1).expand(-1, -1, allow.shape[-1]))
    real = (prefix < lengths.view(-1, 1)).unsqueeze(1).expand(rows, nodes, past)
    allow = torch.cat([real, allow.gather(2, at.unsqueeze(1).expand(rows, nodes, nodes))], -1)
    keys = torch.cat([prefix, index], -1)

    def gathered(seen: Tensor) -> Tensor:
        return additive(pick(seen, index, keys) & allow.unsqueeze(1), embeds.dtype)

    def columns(value: Tensor) -> Tensor:
        return value[torch.arange(rows, device=at.device).unsqueeze(1), at]

    found = {"inputs_embeds": columns(embeds), "position_ids": pick_positions(inputs, index)}
    if "per_layer_inputs" in inputs:
        found["per_layer_inputs"] = columns(inputs["per_layer_inputs"])
    return {**found, "attention_mask": every(masks, gathered)}


BEHIND = {"inputs_embeds", "position_ids", "attention_mask", "per_layer_inputs"}
OF_PICTURES = {"visual_pos_masks", "deepstack_visual_embeds"}
"""Language inputs that only say something of pictures: nodes hold none, so they do without."""


def can_follow(inputs: dict[str, Any]) -> bool:
    """Whether nodes may run behind a cached prefix: any further input, lost in silence, would change their scores."""
    return set(inputs) <= BEHIND | OF_PICTURES


def masks_of(inputs: dict[str, Any], llm: Any) -> Any:
    """What every entry of a plain sequence sees: (R, 1, L, L) bool, or one such by layer type."""
    embeds, mask = inputs["inputs_embeds"], inputs.get("attention_mask")
    plain = mask if isinstance(mask, Tensor) and mask.ndim == 2 else None
    if mask is None or plain is not None:
        # As the language model makes them itself.
        mask = create_masks_for_generate(llm.config, embeds, plain, **{cache_name(create_masks_for_generate): None})
    return every(mask, lambda value: as_seen(value, embeds, plain))


def as_seen(mask: Tensor | None, embeds: Tensor, plain: Tensor | None) -> Tensor:
    """A mask of the library as (R, 1, L, L) bool; None means a causal triangle."""
    if mask is None:
        length = embeds.shape[1]
        seen = torch.ones(1, 1, length, length, dtype=torch.bool, device=embeds.device).tril()
        return seen if plain is None else seen & plain[:, None, None].bool()
    return mask if mask.dtype == torch.bool else mask == 0


def every(masks: Any, change: Callable[[Any], Tensor]) -> Any:
    """Change a mask, or each of a dict of them."""
    return {kind: change(mask) for kind, mask in masks.items()} if isinstance(masks, dict) else change(masks)


def pick(seen: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
    """seen (R, 1, L, L) at rows queries (R', Q) and columns keys (R', K): (R'', 1, Q, K)."""
    rows = max(len(seen), len(queries), len(keys))
    seen, queries, keys = (x.expand(rows, *x.shape[1:]) for x in (seen, queries, keys))
    found = seen.gather(2, queries[:, None, :, None].expand(rows, seen.shape[1], -1, seen.shape[3]))
    return found.gather(3, keys[:, None, None, :].expand(rows, seen.shape[1], queries.shape[1], -1))


def pick_positions(inputs: dict[str, Any], index: Tensor) -> Tensor:
    """Positions (..., R, N) of entries index (R, N) of a plain sequence, which counts from 0 unless the model says."""
    positions = inputs.get("position_ids")
    if positions is None:
        return index
    rows = max(positions.shape[-2], len(index))
    positions, index = positions.expand(*positions.shape[:-2], rows, -1), index.expand(rows, -1)
    return positions.gather(-1, index.expand(*positions.shape[:-1], -1))


def additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """The most negative number, not -inf, where nothing is seen: a row of padding stays finite."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)
