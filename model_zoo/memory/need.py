"""How many bytes an MLLM needs before it is loaded: weights by dtype, a source's kept activations, a target's scoring.

Imports no torch until something is asked that has to be measured: what a source keeps.
"""

from __future__ import annotations

from typing import NamedTuple

from model_zoo.memory.sizes import BYTES, USUAL, Language, Sizes, Workload

QUANT_BYTES = {"8bit": 1.0, "4bit": 0.5 + 1 / 64 + 4 / 2**14}
"""Bytes per weight in bitsandbytes: int8 (row scales are below 0.1 %); 4 bits, a byte per 64, a float32 per 2^14."""

CUDA_CONTEXT = 600 * 2**20  # driver context and cuBLAS workspaces: an assumption, it differs between cards
FRAGMENTATION = 0.05  # share of allocator blocks that stays unusable: an assumption
CLIP_B32_PARAMETERS = 151_277_313  # open_clip ViT-B-32, towers for text and images
CLIP_B32_KEPT = 26_753_312  # bytes that its image tower keeps of one image


class Need(NamedTuple):
    """Bytes by origin. kept: by autograd until backward. work: short-lived. overhead: allocator and driver."""

    weights: int
    kept: int
    work: int
    overhead: int

    @property
    def total(self) -> int:
        return sum(self)


def weight_bytes(sizes: Sizes, dtype: str, quant: str | None = None) -> int:
    """All weights as `dtype`; with `quant` the LLM's linear layers (not lm_head) as 8 or 4 bits."""
    kept = sizes.parameters * BYTES[dtype]
    if quant is None:
        return kept
    return kept - int(sizes.llm.linear * (BYTES[dtype] - QUANT_BYTES[quant]))


def source_need(
    sizes: Sizes,
    batch: int,
    dtype: str,
    *,
    quant: str | None = None,
    checkpointing: bool = False,
    clip: bool = False,
    device: str = "cuda",
    load: Workload = USUAL,
) -> Need:
    """A source with gradients at `batch` images per micro-batch; `clip` adds the TSE scorer (float32)."""
    from model_zoo.memory.activations import kept_bytes, largest_layer

    weights = weight_bytes(sizes, dtype, quant) + (4 * CLIP_B32_PARAMETERS if clip else 0)
    kept = kept_bytes(sizes, batch, dtype, quant=quant, checkpointing=checkpointing, load=load)
    kept += batch * CLIP_B32_KEPT if clip else 0
    work = _work(sizes, batch, BYTES[dtype], load)
    if checkpointing:
        work += largest_layer(sizes, batch, dtype, load)  # recomputed in backward, one layer at a time
    return Need(weights, kept, work, overhead(weights + kept + work, device))


def target_need(
    sizes: Sizes,
    batch: int,
    dtype: str,
    *,
    quant: str | None = None,
    device: str = "cuda",
    load: Workload = USUAL,
) -> Need:
    """A model that scores `batch` images without gradients; the packed scorer needs no cache beside the prefix."""
    weights = weight_bytes(sizes, dtype, quant)
    work = scoring_bytes(sizes, batch, dtype, load)
    return Need(weights, 0, work, overhead(weights + work, device))


def overhead(counted: int, device: str) -> int:
    """What the allocator loses and the driver takes beside `counted` bytes."""
    return int(FRAGMENTATION * counted) + (CUDA_CONTEXT if device == "cuda" else 0)


def _work(sizes: Sizes, batch: int, e: int, load: Workload) -> int:
    """Short-lived in forward and backward: a few of the largest tensors, and further copies of the logits."""
    t, m = sizes.vision, sizes.llm
    length = sizes.visual + load.text + load.answer
    widest = max(t.tokens * max(t.mlp, 3 * t.width), length * max(m.mlp, 3 * m.width))
    return batch * (3 * e * widest + 8 * load.answer * m.vocab)


def scoring_bytes(sizes: Sizes, batch: int, dtype: str, load: Workload = USUAL) -> int:
    """Short-lived bytes at the peak of scoring `batch` images: the tower, or the LLM with all candidates packed."""
    e, t, m = BYTES[dtype], sizes.vision, sizes.llm
    frames = 4 * 3 * t.pixels**2 * 2
    tower = e * t.tokens * (2 * t.width + max(5 * t.width, 2 * t.mlp))
    features = e * (t.tokens * t.width + sizes.visual * m.width)
    prefix, nodes = sizes.visual + load.text, load.candidates
    logits = nodes * m.vocab * (e + 8)
    if m.kind == "t5":  # the nodes follow one start token in the decoder and look at the encoder's states
        states = e * prefix * (m.width + 2 * m.inner)
        llm = max(_forward(m, prefix, e), states + max(_forward(m, 1 + nodes, e), logits))
    else:
        llm = max(_forward(m, prefix + nodes, e), logits + 2 * e * (prefix + nodes) * m.width)
    return batch * (frames + features + max(tower, llm))


def _forward(m: Language, length: int, e: int) -> int:
    """One layer at work without gradients: residual, attention or feed-forward, and the mask in three forms."""
    masks = (5 + e) * length**2 * (m.heads if m.kind == "t5" else 1)
    return e * length * (3 * m.width + max(5 * m.inner, 3 * m.mlp)) + masks
