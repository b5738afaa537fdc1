"""Exact candidate scoring: all candidate answers of an image in one packed forward.

A candidate's score is the log-probability of its tokens (no special tokens, no end token) after the prefix, as a mean
or a sum over its tokens (METHOD.md section 5). The candidates form a token trie. Its inner nodes are appended once to
the prefix under a mask where every node sees the prefix and its own ancestors only, at the position it would have in
its own sentence. This equals scoring candidates one at a time (`scoring_naive.py`) up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from model_zoo.sequences import TextEncoder, positions_of, score_dtype

Forward = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(embeds (B,L,D), additive mask (B,1,L,L), positions (B,L)) -> hidden states (B,L,D)."""


class Trie(NamedTuple):
    """The inner nodes of a set of token sequences; a sequence's last token is only predicted, so it needs no node.

    tokens, parents, depths: one entry per node, parents first; a child of the prefix has parent -1 and depth 0.
    steps: (candidate, row, token) for every token of every candidate: `row` is where its probability is read,
        0 for the end of the prefix and n + 1 for node n.
    """

    tokens: list[int]
    parents: list[int]
    depths: list[int]
    steps: list[tuple[int, int, int]]


def build_trie(candidates: Sequence[Sequence[int]]) -> Trie:
    """Merge shared beginnings. Duplicates and candidates that begin another one share nodes, never scores."""
    trie, seen = Trie([], [], [], []), {}
    for k, ids in enumerate(candidates):
        node = -1
        for depth, token in enumerate(ids):
            trie.steps.append((k, node + 1, token))
            if depth == len(ids) - 1:
                break
            if (node, token) not in seen:
                seen[node, token] = len(trie.tokens)
                trie.tokens.append(token)
                trie.parents.append(node)
                trie.depths.append(depth)
            node = seen[node, token]
    return trie


def ancestors(parents: Sequence[int]) -> Tensor:
    """(N, N) bool: row n is True at node n and at the nodes above it."""
    seen = torch.eye(len(parents), dtype=torch.bool)
    for node, parent in enumerate(parents):
        if parent >= 0:
            seen[node] |= seen[parent]
    return seen


def block_mask(prefix: Tensor, nodes: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive mask (B, 1, P+N, P+N) from the prefix mask (B, P) and the ancestor matrices (B, N, N).

    The prefix is causal over its real entries; a node sees the real prefix entries, its ancestors and itself.
    """
    batch, p = prefix.shape
    n = nodes.shape[-1]
    seen = prefix.new_zeros(batch, p + n, p + n)
    seen[:, :p, :p] = prefix.unsqueeze(1) & torch.ones(p, p, dtype=torch.bool, device=prefix.device).tril()
    seen[:, p:, :p] = prefix.unsqueeze(1)
    seen[:, p:, p:] = nodes
    # The most negative number, not -inf: a padded row that sees nothing then stays finite.
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)[:, None]


def pick_rows(hidden: Tensor, project: Callable[[Tensor], Tensor], index: Tensor, tokens: Tensor, rows: int) -> Tensor:
    """Log-probabilities (S,) of tokens (S,) read at rows index (S,) of hidden (R, D).

    Every hidden row meets the vocabulary once, `rows` of them at a time.
    """
    result = torch.zeros(len(index), dtype=score_dtype(hidden.dtype), device=hidden.device)
    for start in range(0, len(hidden), rows):
        logits = project(hidden[start : start + rows]).to(result.dtype)
        normaliser = logits.logsumexp(-1)
        here = ((index >= start) & (index < start + rows)).nonzero().squeeze(-1)
        local = index[here] - start
        result = result.index_put((here,), logits[local, tokens[here]] - normaliser[local])
    return result


def stack_tries(tries: Sequence[Trie]) -> tuple[Tensor, Tensor, Tensor]:
    """(token ids (B, N), depths (B, N), ancestor matrices (B, N, N)), N = the largest trie's size."""
    batch, n = len(tries), max(len(trie.tokens) for trie in tries)
    ids, depths = torch.zeros(batch, n, dtype=torch.long), torch.zeros(batch, n, dtype=torch.long)
    nodes = torch.eye(n, dtype=torch.bool).repeat(batch, 1, 1)
    unique = {id(trie): trie for trie in tries}  # rows usually share one
    known = {key: (torch.tensor(t.tokens), torch.tensor(t.depths), ancestors(t.parents)) for key, t in unique.items()}
    for b, trie in enumerate(tries):
        size = len(trie.tokens)
        if size:
            ids[b, :size], depths[b, :size], nodes[b, :size, :size] = known[id(trie)]
    return ids, depths, nodes


def score_packed(
    forward: Forward,
    embed: Callable[[Tensor], Tensor],
    project: Callable[[Tensor], Tensor],
    prefix_embeds: Tensor,
    prefix_mask: Tensor,
    tries: Sequence[Trie],
    n_candidates: int,
    *,
    vocab_rows: int = 512,
) -> Tensor:
    """Summed log-likelihoods (B, n_candidates) of the candidates in `tries` (one per row), 0 where a row has none.

    prefix_embeds (B, P, D) and prefix_mask (B, P) bool may be padded on either side. `embed` maps ids to embeddings,
    `project` hidden states to vocabulary logits; at most `vocab_rows` rows of logits exist at a time.
    """
    batch, p = prefix_mask.shape
    device, dtype = prefix_embeds.device, prefix_embeds.dtype
    ids, depths, nodes = (part.to(device) for part in stack_tries(tries))
    n = ids.shape[1]
    lengths = prefix_mask.sum(-1)
    positions = torch.cat([positions_of(prefix_mask), lengths[:, None] + depths], dim=1)
    embeds = torch.cat([prefix_embeds, embed(ids).to(dtype)], dim=1) if n else prefix_embeds
    hidden = forward(embeds, block_mask(prefix_mask, nodes, dtype), positions)  # (B, P+N, D)
    last = p - 1 - prefix_mask.flip(-1).long().argmax(-1)  # last real prefix entry
    read = torch.cat([hidden[torch.arange(batch, device=device), last][:, None], hidden[:, p:]], dim=1)
    steps = torch.tensor([(b, *step) for b, trie in enumerate(tries) for step in trie.steps], device=device)
    row, candidate, source, token = steps.unbind(-1)
    logp = pick_rows(read.flatten(0, 1), project, row * (n + 1) + source, token, vocab_rows)
    total = logp.new_zeros(batch * n_candidates).index_add(0, row * n_candidates + candidate, logp)
    return total.view(batch, n_candidates)


def encode_candidates(candidates: Sequence, encode: TextEncoder, batch: int) -> list[list[list[int]]]:
    """Token ids per row and candidate; rows that share a list share the same object.

    Raises ValueError for an empty list, a wrong number of per-image lists, or a candidate of zero tokens.
    """
    if isinstance(candidates, str) or len(candidates) == 0:
        raise ValueError(f"candidates is {candidates!r}. Expected a non-empty list of answers, or one list per image.")
    per_row = not isinstance(candidates[0], str)
    if per_row and len(candidates) != batch:
        raise ValueError(
            f"Got {len(candidates)} candidate lists for {batch} images. Expected one per image, or one flat list."
        )
    known: dict[tuple[str, ...], list[list[int]]] = {}
    rows = [tuple(row) for row in candidates] if per_row else [tuple(candidates)] * batch
    for row in rows:
        if row not in known:
            known[row] = [encode_one(text, encode) for text in row]
            if not row:
                raise ValueError(
                    "An image has an empty candidate list. Expected at least one candidate answer per image."
                )
    return [known[row] for row in rows]


def encode_one(text: str, encode: TextEncoder) -> list[int]:
    """Token ids of one candidate. Raises ValueError when there are none: its mean log-probability would be 0/0."""
    if not (ids := encode(text)):
        raise ValueError(f"Candidate {text!r} has no tokens, so it has no likelihood. Expected non-empty answers.")
    return ids


def finish(total: Tensor, rows: Sequence[Sequence[Sequence[int]]], normalize: bool) -> Tensor:
    """Sums (B, K) to scores: mean per token if `normalize`, -inf where a row has fewer than K candidates."""
    lengths = torch.zeros(total.shape, dtype=torch.long)
    for b, row in enumerate(rows):
        lengths[b, : len(row)] = torch.tensor([len(ids) for ids in row])
    lengths = lengths.to(total.device)
    scores = total / lengths.clamp(min=1) if normalize else total
    return scores.masked_fill(lengths == 0, float("-inf"))


def chunks(row: Sequence[Sequence[int]], max_nodes: int | None) -> Iterator[list[int]]:
    """Groups of candidate indices whose tokens fit `max_nodes`, in token order to keep shared beginnings together."""
    if max_nodes is None:
        yield list(range(len(row)))
        return
    group, size = [], 0
    for k in sorted(range(len(row)), key=lambda k: tuple(row[k])):
        if group and size + len(row[k]) > max_nodes:
            yield group
            group, size = [], 0
        group.append(k)
        size += len(row[k])
    yield group


def plan_tries(rows: Sequence[Sequence[Sequence[int]]], max_nodes: int | None) -> list[list[Trie]]:
    """Rounds of one trie per row; rows that share candidates share tries. Later rounds may hold empty tries."""
    known: dict[int, list[Trie]] = {}
    for row in rows:
        if id(row) not in known:
            known[id(row)] = [_subset_trie(row, group) for group in chunks(row, max_nodes)]
    plans = [known[id(row)] for row in rows]
    empty = build_trie([])
    return [[plan[i] if i < len(plan) else empty for plan in plans] for i in range(max(map(len, plans)))]


def _subset_trie(row: Sequence[Sequence[int]], group: Sequence[int]) -> Trie:
    trie = build_trie([row[k] for k in group])
    return trie._replace(steps=[(group[k], source, token) for k, source, token in trie.steps])
