"""Exact candidate scoring: all candidate answers of an image in one packed forward.

A candidate's score is the log-probability of its tokens (no special tokens, no end token) after the prefix, as a mean
or a sum over its tokens (METHOD.md section 5). The candidates form a token trie. Its inner nodes are appended once to
the prefix under a mask where every node sees the prefix and its own ancestors only, at the position it would have in
its own sentence. This equals scoring candidates one at a time (`scoring_naive.py`) up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from model_zoo.sequences import TextEncoder, additive_mask, positions_of, score_dtype

Forward = Callable[[Tensor, Tensor, Tensor, Any], Tensor]
"""(embeds (B,L,D), additive mask (B,1,L,past+L), positions (B,L), key/value cache or None) -> hidden states (B,L,D)."""


class Layout(NamedTuple):
    """What prefix entries see and where entries stand; from the prefix mask (B, P) bool, padded on either side.

    seen: mask -> (B, P, P) bool, padding never seen. start: mask -> positions (B, P) of the prefix.
    after: (mask, depths (B, N)) -> positions (B, N) of candidate tokens. Positions may be (B, 2, ...) where a model
    has two of them.
    """

    seen: Callable[[Tensor], Tensor]
    start: Callable[[Tensor], Tensor]
    after: Callable[[Tensor, Tensor], Tensor]


def causal_seen(mask: Tensor) -> Tensor:
    """(B, P, P) bool: every entry sees the real entries up to itself; mask (B, P)."""
    p = mask.shape[1]
    return mask.unsqueeze(1) & torch.ones(p, p, dtype=torch.bool, device=mask.device).tril()


CAUSAL = Layout(causal_seen, positions_of, lambda mask, depths: mask.sum(-1, keepdim=True) + depths)
"""The layout of LLaMA, OPT and all other causal models."""


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


def block_mask(prefix: Tensor, nodes: Tensor, dtype: torch.dtype, layout: Layout = CAUSAL) -> Tensor:
    """Additive mask (B, 1, P+N, P+N) from the prefix mask (B, P) and the ancestor matrices (B, N, N).

    The layout says what the prefix sees; a node sees the real prefix entries, its ancestors and itself.
    """
    batch, p = prefix.shape
    n = nodes.shape[-1]
    seen = prefix.new_zeros(batch, p + n, p + n)
    seen[:, :p, :p] = layout.seen(prefix)
    seen[:, p:, :p] = prefix.unsqueeze(1)
    seen[:, p:, p:] = nodes
    return additive_mask(seen, dtype)


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
    rounds: Sequence[Sequence[Trie]],
    n_candidates: int,
    *,
    new_cache: Callable[[], Any] | None = None,
    vocab_rows: int = 512,
    layout: Layout = CAUSAL,
) -> Tensor:
    """Summed log-likelihoods (B, n_candidates) of the candidates in `rounds`, 0 where a row has none.

    prefix_embeds (B, P, D) and prefix_mask (B, P) bool may be padded on either side. A round holds one trie per row:
    with one round, prefix and nodes run in a single forward; with several, the prefix runs once into a `new_cache()`
    that every round reads and leaves as it was. `embed` maps ids to embeddings, `project` hidden states to vocabulary
    logits, of which at most `vocab_rows` rows exist at a time. `layout` is the model's kind of prefix.
    """
    p, dtype, start = prefix_mask.shape[1], prefix_embeds.dtype, layout.start(prefix_mask)
    cache, ends, totals = None, None, []
    if len(rounds) > 1:
        cache = new_cache()
        no_nodes = prefix_mask.new_zeros(len(prefix_mask), 0, 0)
        alone = block_mask(prefix_mask, no_nodes, dtype, layout)
        ends = last_real(forward(prefix_embeds, alone, start, cache), prefix_mask)
    for tries in rounds:
        ids, depths, nodes = (part.to(prefix_embeds.device) for part in stack_tries(tries))
        embeds, n = embed(ids).to(dtype), ids.shape[1]
        mask, positions = block_mask(prefix_mask, nodes, dtype, layout), layout.after(prefix_mask, depths)
        if cache is None:
            embeds, positions = torch.cat([prefix_embeds, embeds], dim=1), torch.cat([start, positions], dim=-1)
            hidden = forward(embeds, mask, positions, None)  # (B, P+N, D)
            ends, hidden = last_real(hidden[:, :p], prefix_mask), hidden[:, p:]
        elif n:
            hidden = forward(embeds, mask[:, :, p:], positions, cache)  # (B, N, D)
            cache.crop(-n)
        else:
            hidden = embeds
        totals.append(tally(torch.cat([ends, hidden], dim=1), project, tries, n_candidates, vocab_rows))
    return torch.stack(totals).sum(0)


def last_real(hidden: Tensor, mask: Tensor) -> Tensor:
    """Hidden state (B, 1, D) of the last real entry of each row, hidden (B, P, D), mask (B, P) bool."""
    last = mask.shape[1] - 1 - mask.flip(-1).long().argmax(-1)
    return hidden[torch.arange(len(hidden), device=hidden.device), last].unsqueeze(1)


def tally(read: Tensor, project: Callable, tries: Sequence[Trie], n_candidates: int, vocab_rows: int) -> Tensor:
    """Add up the steps of every candidate, (B, n_candidates); read (B, 1+N, D) is the prefix's end, then the nodes."""
    batch, width = read.shape[:2]
    steps = torch.tensor([(b, *step) for b, trie in enumerate(tries) for step in trie.steps], device=read.device)
    row, candidate, source, token = steps.view(-1, 4).unbind(-1)
    logp = pick_rows(read.flatten(0, 1), project, row * width + source, token, vocab_rows)
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
