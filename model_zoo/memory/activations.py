"""What autograd keeps of a frozen MLLM until backward, counted layer by layer from its sizes. Imports no torch.

The parameters are frozen, so autograd keeps what the gradient of the INPUT needs: a linear layer keeps nothing of its
own, a norm its input and statistics, an activation its input, attention q, k, v, output and log-sum-exp.
`tests/test_model_zoo_memory_need*.py` compare the sums with the bytes autograd really keeps, up to the published sizes.
"""

from __future__ import annotations

from typing import NamedTuple

from model_zoo.memory.sizes import Former, Language, Sizes, Tower

BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


class Workload(NamedTuple):
    """What is assumed about the texts, in tokens: question with its template, answer, all candidates together."""

    text: int = 32
    answer: int = 8
    candidates: int = 64


USUAL = Workload()


def kept_bytes(
    sizes: Sizes,
    batch: int,
    dtype: str,
    *,
    quant: str | None = None,
    checkpointing: bool = False,
    load: Workload = USUAL,
    padded: bool = True,
) -> int:
    """What autograd keeps of `answer_loss` until backward; `padded`: questions of different length, so masks."""
    e, text = BYTES[dtype], load.text
    question = min(text, 128) if sizes.qformer.vocab else 0
    vision = tower_kept(sizes.vision, e, whole=not checkpointing)
    former = former_kept(sizes.qformer, sizes.vision.tokens, question, e, whole=not checkpointing)
    llm = llm_kept(sizes.llm, sizes.visual + text, load.answer, e, padded, whole=not checkpointing)
    if quant == "8bit" and not checkpointing:
        # bitsandbytes' 8-bit layers keep their inputs; the attention output is among those counted already.
        m, length = sizes.llm, sizes.visual + text + load.answer
        llm += (m.layers + m.decoder) * e * length * (2 * m.width + m.mlp)
    return batch * (vision + former + llm + 4 * load.answer * sizes.llm.vocab)


def _norm(length: int, width: int, e: int) -> int:
    """Layer norm: its input, mean and reciprocal deviation."""
    return e * length * width + 2 * length * e


def _attention(queries: int, keys: int, inner: int, heads: int, e: int) -> int:
    """q and output, k and v, and the float32 log-sum-exp."""
    return e * inner * (2 * queries + 2 * keys) + 4 * heads * queries


def tower_layer(t: Tower, e: int) -> int:
    return 2 * _norm(t.tokens, t.width, e) + _attention(t.tokens, t.tokens, t.width, t.heads, e) + e * t.tokens * t.mlp


def tower_kept(t: Tower, e: int, *, whole: bool = True) -> int:
    """Kept by the vision tower for one image; whole=False: checkpointed, only what enters each block."""
    layer = tower_layer(t, e) if whole else e * t.tokens * t.width
    return t.layers * layer + _norm(t.tokens, t.width, e) + e * 3 * t.pixels**2


def former_layer(f: Former, seen: int, text: int, e: int, n: int) -> int:
    """Kept by layer `n`. Queries and words are constants, so before the first look at the image nothing is kept."""
    rows, kept = f.queries + text, 0
    if n:
        kept += _attention(rows, rows, f.width, f.heads, e) + _norm(rows, f.width, e)
        kept += e * text * f.mlp + (_norm(text, f.width, e) if text else 0)
    if n % f.every == 0:
        kept += _attention(f.queries, seen, f.width, f.heads, e) + _norm(f.queries, f.width, e)
    return kept + e * f.queries * f.mlp + _norm(f.queries, f.width, e)


def former_kept(f: Former, seen: int, text: int, e: int, *, whole: bool = True) -> int:
    """Kept by the Q-Former for one image of `seen` tokens and `text` question tokens."""
    if whole:
        return sum(former_layer(f, seen, text, e, n) for n in range(f.layers))
    return e * (f.layers * (f.queries + text) * f.width + seen * f.width)


def _rms(length: int, width: int, e: int, copy: bool) -> int:
    """RMS norm in float32: its input, the root, and in half precision T5's second copy."""
    return 4 * length * width + 4 * length + (e * length * width if copy and e < 4 else 0)


def llm_layer(m: Language, length: int, e: int, padded: bool) -> int:
    """Kept by one layer over `length` tokens; a padded batch keeps a mask per layer."""
    kept = _attention(length, length, m.inner, m.heads, e)
    if m.kind == "t5":
        mask = e * m.heads * length**2  # the relative bias makes the mask differ between heads
        return kept + mask + 2 * _rms(length, m.width, e, True) + e * m.gates * length * m.mlp
    kept += e * length**2 if padded or m.kind == "chatglm" else 0  # a prefix LM always has a mask
    if m.kind == "llama":
        return kept + 2 * _rms(length, m.width, e, False) + e * m.gates * length * m.mlp
    stacked = 2 * e * length * m.inner if m.kind == "chatglm" else 0  # v is a view that holds q and k too
    return kept + stacked + 2 * _norm(length, m.width, e) + e * length * m.mlp


def decoder_layer(m: Language, length: int, answer: int, e: int, first: bool) -> int:
    """Kept by a layer of T5's decoder; the first one's self-attention reads constants."""
    kept = _attention(answer, length, m.inner, m.heads, e) + e * m.heads * answer * length
    kept += _rms(answer, m.width, e, True) + e * m.gates * answer * m.mlp
    if not first:
        kept += 2 * _rms(answer, m.width, e, True) + e * m.heads * answer**2
        kept += _attention(answer, answer, m.inner, m.heads, e)
    return kept


def llm_kept(m: Language, prefix: int, answer: int, e: int, padded: bool, *, whole: bool = True) -> int:
    """Kept by the LLM for one image: `prefix` tokens before the answer, `answer` tokens of it."""
    if m.kind == "t5":
        ends = _rms(prefix, m.width, e, True) + _rms(answer, m.width, e, True)
        if not whole:
            return ends + e * m.width * (m.layers * prefix + m.decoder * answer)
        decoder = sum(decoder_layer(m, prefix, answer, e, n == 0) for n in range(m.decoder))
        return ends + m.layers * llm_layer(m, prefix, e, padded) + decoder
    length = prefix + answer
    last = _rms(length, m.width, e, False) if m.kind == "llama" else _norm(length, m.width, e)
    tables = 2 * e * length * m.inner // m.heads if m.kind != "opt" else 0
    return last + tables + m.layers * (llm_layer(m, length, e, padded) if whole else e * length * m.width)


def largest_layer(sizes: Sizes, dtype: str, load: Workload) -> int:
    """Kept by the largest single layer, for one image."""
    e, f = BYTES[dtype], sizes.qformer
    text = load.text if f.vocab else 0
    llm = llm_layer(sizes.llm, sizes.visual + load.text + load.answer, e, True)
    return max(tower_layer(sizes.vision, e), former_layer(f, sizes.vision.tokens, text, e, 0), llm)


def clip_kept(t: Tower) -> int:
    """A tower with one more norm in front and OpenAI's quick GELU, x * sigmoid(1.702 x), which keeps both factors."""
    return tower_kept(t, 4) + 4 * t.layers * t.tokens * t.mlp + _norm(t.tokens, t.width, 4)
