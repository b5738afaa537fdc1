"""How many trie nodes one packed forward may hold, so that its short-lived tensors stay within a number of bytes."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor

from model_zoo.scoring.trie import Ids, Trie, plan_tries

HOST_MEMORY = 2 * 2**30
"""Bytes on devices that are not CUDA; there it is a quarter of what is free."""


class Budget(NamedTuple):
    """A language model's sizes for `batch` rows of `prefix` entries; `element` bytes per number, `memory` bytes in all.

    heads: masks per row (1 where all heads share one).
    """

    memory: int
    batch: int
    prefix: int
    element: int
    width: int
    mlp: int
    layers: int
    vocab: int
    heads: int

    def nodes(self, *, cached: bool) -> int:
        """Most nodes, at least 1, whose states and masks fit; `cached`: every layer keeps their keys and values."""
        states = 6 * self.width + 3 * self.mlp + (2 * self.layers * self.width if cached else 0)
        mask = self.batch * self.heads * (self.element + 5)  # bytes per cell: seen, additive, the attention's own
        line = self.batch * self.element * states + mask * self.prefix
        root = isqrt(line**2 + 4 * mask * self.memory)  # of mask n^2 + line n = memory
        return max(1, (root - line) // (2 * mask))

    def vocab_rows(self) -> int:
        """How many rows of logits, 1 to 512, fit a quarter of the memory with their float32 copies."""
        return min(512, max(1, self.memory // 4 // (self.vocab * (self.element + 8))))


def budget_of(config: Any, prefix: Tensor, memory: int | None, heads: int = 1) -> Budget:
    """The budget of an LLM's configuration for prefix embeddings (B, P, D); memory None is `default_memory`."""
    mlp = next(getattr(config, key) for key in ("intermediate_size", "ffn_dim", "d_ff") if hasattr(config, key))
    memory = default_memory(prefix.device) if memory is None else memory
    batch, length = prefix.shape[:2]
    layers, vocab = config.num_hidden_layers, config.vocab_size
    return Budget(memory, batch, length, prefix.element_size(), config.hidden_size, mlp, layers, vocab, heads)


def default_memory(device: torch.device) -> int:
    """Bytes: a quarter of what the CUDA device has free (what the allocator holds unused included), else 2 GiB."""
    if device.type != "cuda":
        return HOST_MEMORY
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return (torch.cuda.mem_get_info(device)[0] + unused) // 4


def plan_rounds(rows: Sequence[Sequence[Ids]], max_nodes: int | None, budget: Budget) -> list[list[Trie]]:
    """Rounds of one trie per row: one where all nodes fit, else several of `max_nodes` or what the budget allows."""
    if max_nodes is not None:
        return plan_tries(rows, max_nodes)
    rounds = plan_tries(rows, None)
    if max(len(trie.tokens) for trie in rounds[0]) <= budget.nodes(cached=False):
        return rounds
    return plan_tries(rows, budget.nodes(cached=True))
