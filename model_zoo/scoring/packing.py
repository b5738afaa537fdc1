"""Exact packed scoring: all candidate answers of an image in one forward behind their common prefix.

The candidates form a token trie (`trie.py`). Its inner nodes are appended once to the prefix under a mask where every
node sees the prefix and its own ancestors only, at the position it would have in its own sentence. This equals scoring
candidates one at a time (`candidates.py`) up to rounding. Nothing is kept per image that all images share: where
prefixes are equally long and candidates common, masks, positions and node ids exist once and are broadcast.

Left out: sharing the keys of what precedes the image over a batch. MiniGPT-4's BOS + `<Img>` are 3 tokens of the
bench's 44, counted, not timed; VisualGLM's context looks both ways; OPT, T5 and InstructBLIP begin with the image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from model_zoo.scoring.trie import Packed, Trie, stack_tries
from model_zoo.sequences import additive_mask, positions_of, score_dtype

Forward = Callable[[Tensor, "Tensor | None", Tensor, Any], Tensor]
"""(embeds (B,L,D), additive mask (R,1,L,past+L), positions (R,L), key/value cache or None) -> hidden states (B,L,D).

R is 1 or B. The mask is None where plain causal attention is meant.
"""


class PrefixLayout(NamedTuple):
    """What prefix entries see and where entries stand; from the prefix mask (R, P) bool, padded on either side.

    seen: mask -> (R, P, P) bool, padding never seen. start: mask -> positions (R, P) of the prefix.
    after: (mask, depths (R, N)) -> positions (R, N) of candidate tokens. Positions may be (R, 2, ...) where a model
    has two of them. causal: `seen` is plain causal attention, which a model computes without a mask.
    """

    seen: Callable[[Tensor], Tensor]
    start: Callable[[Tensor], Tensor]
    after: Callable[[Tensor, Tensor], Tensor]
    causal: bool = False


def causal_seen(mask: Tensor) -> Tensor:
    """(R, P, P) bool: every entry sees the real entries up to itself; mask (R, P)."""
    p = mask.shape[1]
    return mask.unsqueeze(1) & torch.ones(p, p, dtype=torch.bool, device=mask.device).tril()


CAUSAL = PrefixLayout(causal_seen, positions_of, lambda mask, depths: mask.sum(-1, keepdim=True) + depths, causal=True)
"""The layout of LLaMA, OPT and all other causal models."""


class Scorer(NamedTuple):
    """The parts of a language model that packed scoring calls.

    forward: see `Forward`. embed: ids -> embeddings. project: hidden states -> vocabulary logits.
    new_cache: () -> an empty key/value cache with `crop`; needed for several rounds only.
    layout: the model's kind of prefix. vocab_rows: most rows of logits that exist at a time.
    """

    forward: Forward
    embed: Callable[[Tensor], Tensor]
    project: Callable[[Tensor], Tensor]
    new_cache: Callable[[], Any] | None = None
    layout: PrefixLayout = CAUSAL
    vocab_rows: int = 512


def score_packed(
    scorer: Scorer, prefix: Tensor, mask: Tensor, rounds: Sequence[Sequence[Trie]], n_candidates: int
) -> Tensor:
    """Summed log-likelihoods (B, n_candidates) of the candidates in `rounds`, 0 where a row has none.

    prefix (B, P, D) embeddings and mask (B, P) bool may be padded on either side. A round holds one trie per row:
    with one round, prefix and nodes run in a single forward; with several, the prefix runs once into a cache that
    every round reads and leaves as it was.
    """
    shared = mask[:1] if bool((mask == mask[:1]).all()) else mask
    packs = [stack_tries(tries).to(prefix.device) for tries in rounds]
    if len(packs) == 1:
        states: Iterable[Tensor] = [_together(scorer, prefix, shared, packs[0])]
    else:
        assert scorer.new_cache is not None
        cache = scorer.new_cache()
        ends = _prefix_alone(scorer, prefix, shared, cache)
        states = (_behind(scorer, prefix, shared, pack, cache, ends) for pack in packs)
    totals = [tally(read, scorer, tries, n_candidates) for read, tries in zip(states, rounds, strict=True)]
    return torch.stack(totals).sum(0)


def _prefix_alone(scorer: Scorer, prefix: Tensor, mask: Tensor, cache: Any = None) -> Tensor:
    """Hidden state (B, 1, D) of each prefix's end, mask (R, P).

    Causal prefixes padded on the right need no mask: real entries never look to the right.
    """
    layout = scorer.layout
    if layout.causal and bool(mask[:, 0].all()):
        seen, positions = None, torch.arange(mask.shape[1], device=mask.device)[None]
    else:
        seen, positions = additive_mask(layout.seen(mask), prefix.dtype), layout.start(mask)
    return last_real(scorer.forward(prefix, seen, positions, cache), mask)


def _together(scorer: Scorer, prefix: Tensor, mask: Tensor, pack: Packed) -> Tensor:
    """States (B, 1+N, D) of the prefix's end and of all nodes, in one forward."""
    if not pack.ids.shape[1]:
        return _prefix_alone(scorer, prefix, mask)
    layout, p = scorer.layout, mask.shape[1]
    seen = block_mask(mask, pack.nodes, prefix.dtype, layout)
    positions = _join(layout.start(mask), layout.after(mask, pack.depths))
    hidden = scorer.forward(torch.cat([prefix, _embed(scorer, prefix, pack)], dim=1), seen, positions, None)
    return torch.cat([last_real(hidden[:, :p], mask), hidden[:, p:]], dim=1)


def _behind(scorer: Scorer, prefix: Tensor, mask: Tensor, pack: Packed, cache: Any, ends: Tensor) -> Tensor:
    """States (B, 1+N, D) as `_together`, the nodes reading the prefix from a cache that is left as it was."""
    n = pack.ids.shape[1]
    if not n:
        return ends
    seen = block_mask(mask, pack.nodes, prefix.dtype, scorer.layout, queries=n)
    positions = scorer.layout.after(mask, pack.depths)
    hidden = scorer.forward(_embed(scorer, prefix, pack), seen, positions, cache)
    cache.crop(-n)
    return torch.cat([ends, hidden], dim=1)


def _embed(scorer: Scorer, prefix: Tensor, pack: Packed) -> Tensor:
    """Embeddings (B, N, D) of a round's nodes."""
    return scorer.embed(pack.ids).to(prefix.dtype).expand(len(prefix), -1, -1)


def _join(start: Tensor, after: Tensor) -> Tensor:
    """Positions (R, P+N), where each part may be common to all rows."""
    rows = max(len(start), len(after))
    return torch.cat([part.expand(rows, *part.shape[1:]) for part in (start, after)], dim=-1)


def block_mask(
    prefix: Tensor, nodes: Tensor, dtype: torch.dtype, layout: PrefixLayout = CAUSAL, queries: int | None = None
) -> Tensor:
    """Additive mask (R, 1, P+N, P+N) from the prefix mask (R', P) and the ancestor matrices (R'', N, N).

    The layout says what the prefix sees; a node sees the real prefix entries, its ancestors and itself. `queries` = N
    gives the rows of the nodes only, (R, 1, N, P+N).
    """
    p, n, rows = prefix.shape[1], nodes.shape[-1], max(len(prefix), len(nodes))
    above = prefix.unsqueeze(1).expand(rows, n, p)
    seen = torch.cat([above, nodes.expand(rows, n, n)], dim=-1)
    if queries is None:
        first = torch.cat([layout.seen(prefix), prefix.new_zeros(len(prefix), p, n)], dim=-1)
        seen = torch.cat([first.expand(rows, p, p + n), seen], dim=1)
    return additive_mask(seen, dtype)


def last_real(hidden: Tensor, mask: Tensor) -> Tensor:
    """Hidden state (B, 1, D) of the last real entry of each row, hidden (B, P, D), mask (R, P) bool."""
    last = mask.shape[1] - 1 - mask.flip(-1).long().argmax(-1)
    return hidden[torch.arange(len(hidden), device=hidden.device), last.expand(len(hidden))].unsqueeze(1)


def tally(read: Tensor, scorer: Scorer, tries: Sequence[Trie], n_candidates: int) -> Tensor:
    """Add up the steps of every candidate, (B, n_candidates); read (B, 1+N, D) is the prefix's end, then the nodes."""
    batch, width = read.shape[:2]
    known = {id(trie): torch.tensor(trie.steps, dtype=torch.long).view(-1, 3) for trie in tries}
    steps = torch.cat([known[id(trie)] for trie in tries])
    row = torch.arange(batch).repeat_interleave(torch.tensor([len(trie.steps) for trie in tries]))
    candidate, source, token = steps.unbind(-1)
    cells, index, token = (x.to(read.device) for x in (row * n_candidates + candidate, row * width + source, token))
    logp = pick_rows(read.flatten(0, 1), scorer.project, index, token, scorer.vocab_rows)
    return logp.new_zeros(batch * n_candidates).index_add(0, cells, logp).view(batch, n_candidates)


def pick_rows(hidden: Tensor, project: Callable[[Tensor], Tensor], index: Tensor, tokens: Tensor, rows: int) -> Tensor:
    """Log-probabilities (S,) of tokens (S,) read at rows index (S,) of hidden (R, D).

    Every row that is read meets the vocabulary once, `rows` of them at a time; the others never do.
    """
    needed, source = index.unique(return_inverse=True)
    result = torch.zeros(len(index), dtype=score_dtype(hidden.dtype), device=hidden.device)
    for start in range(0, len(needed), rows):
        logits = project(hidden[needed[start : start + rows]]).to(result.dtype)
        here = ((source >= start) & (source < start + rows)).nonzero().squeeze(-1)
        # Fused: `logsumexp` is up to 11 times slower on CPU, its exponentials run into subnormal numbers.
        result = result.index_put((here,), logits.log_softmax(-1)[source[here] - start, tokens[here]])
    return result
