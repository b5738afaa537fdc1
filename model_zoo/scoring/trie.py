"""Candidate answers as a token trie: shared beginnings once, split into rounds that fit a number of nodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from os.path import commonprefix
from typing import NamedTuple

import torch
from torch import Tensor

Ids = Sequence[int]
"""Token ids of one candidate."""


class Trie(NamedTuple):
    """The inner nodes of a set of token sequences; a sequence's last token is only predicted, so it needs no node.

    tokens, parents, depths: one entry per node, parents first; a child of the prefix has parent -1 and depth 0.
    steps: (candidate, row, token) for every token of every candidate: `row` is where its probability is read,
        0 for the end of the prefix and n + 1 for node n. Every node is read by at least one step.
    """

    tokens: list[int]
    parents: list[int]
    depths: list[int]
    steps: list[tuple[int, int, int]]


class Packed(NamedTuple):
    """Tries of a batch as tensors, N = the largest trie's size; R = 1 when all rows share one trie, else B.

    ids, depths (R, N) int64; nodes (R, N, N) bool, True at a node and its ancestors.
    """

    ids: Tensor
    depths: Tensor
    nodes: Tensor

    def to(self, device: torch.device) -> Packed:
        return Packed(*(part.to(device) for part in self))


def build_trie(candidates: Sequence[Ids]) -> Trie:
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
    """(N, N) bool: row n is True at node n and at the nodes above it.

    >>> ancestors([-1, 0, -1]).int().tolist()
    [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    """
    seen, above = torch.eye(len(parents), dtype=torch.bool), torch.tensor(parents, dtype=torch.long)
    nodes = torch.arange(len(parents))
    while (alive := above >= 0).any():
        seen[nodes[alive], above[alive]] = True
        above = torch.where(alive, torch.tensor([*parents, -1])[above], above)  # the grandparents; -1 stays -1
    return seen


def stack_tries(tries: Sequence[Trie]) -> Packed:
    """One trie per row, padded to the largest; a single row where all share one trie."""
    if all(trie is tries[0] for trie in tries):
        tries = tries[:1]
    batch, n = len(tries), max(len(trie.tokens) for trie in tries)
    ids, depths = torch.zeros(batch, n, dtype=torch.long), torch.zeros(batch, n, dtype=torch.long)
    nodes = torch.eye(n, dtype=torch.bool).repeat(batch, 1, 1)
    for b, trie in enumerate(tries):
        size = len(trie.tokens)
        ids[b, :size], depths[b, :size] = torch.tensor(trie.tokens).long(), torch.tensor(trie.depths).long()
        nodes[b, :size, :size] = ancestors(trie.parents)
    return Packed(ids, depths, nodes)


def chunks(row: Sequence[Ids], max_nodes: int | None) -> Iterator[list[int]]:
    """Groups of candidate indices whose inner nodes fit `max_nodes`, in token order, which keeps shared beginnings.

    A group exceeds `max_nodes` only where a single candidate does; one that adds no node joins its neighbours.
    """
    if max_nodes is None:
        yield list(range(len(row)))
        return
    group: list[int] = []
    before: tuple[int, ...] = ()
    size = 0
    for k in sorted(range(len(row)), key=lambda k: tuple(row[k])):
        path = tuple(row[k][:-1])
        new = len(path) - len(commonprefix([before, path]))
        if group and new and size + new > max_nodes:
            yield group
            group, size, new = [], 0, len(path)
        group.append(k)
        size, before = size + new, path
    yield group


def plan_tries(rows: Sequence[Sequence[Ids]], max_nodes: int | None) -> list[list[Trie]]:
    """Rounds of one trie per row; rows that share candidates share tries. Later rounds may hold empty tries."""
    known: dict[int, list[Trie]] = {}
    for row in rows:
        if id(row) not in known:
            known[id(row)] = [_subset_trie(row, group) for group in chunks(row, max_nodes)]
    plans = [known[id(row)] for row in rows]
    empty = build_trie([])
    return [[plan[i] if i < len(plan) else empty for plan in plans] for i in range(max(map(len, plans)))]


def _subset_trie(row: Sequence[Ids], group: Sequence[int]) -> Trie:
    trie = build_trie([row[k] for k in group])
    return trie._replace(steps=[(group[k], source, token) for k, source, token in trie.steps])
