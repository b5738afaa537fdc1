"""What autograd keeps of a frozen MLLM until backward, measured: one layer of each kind runs on tensors without memory.

The layers are the real classes at the real widths, times how many of their kind there are. Fake tensors of the CPU take
its kernels; on the meta device attention would be written out and keep every score.
`tests/test_model_zoo_memory_need*.py` compare the sums with what whole models keep, up to the published sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from model_zoo.blip2 import Blip2T5
from model_zoo.chatglm import ChatGLMConfig
from model_zoo.connectors import QFormerConnector
from model_zoo.layer_options import checkpoint_layers_
from model_zoo.memory.sizes import BYTES, USUAL, Former, Language, Sizes, Tower, Workload
from model_zoo.minigpt4 import MiniGPT4
from model_zoo.sequences import IMAGE
from model_zoo.visualglm import VisualGLM
from model_zoo.weights.qformer import meta_connector


def kept_bytes(
    sizes: Sizes,
    batch: int,
    dtype: str,
    *,
    quant: str | None = None,
    checkpointing: bool = False,
    load: Workload = USUAL,
    learned: str = "prompt",
) -> int:
    """What autograd keeps of `answer_loss` until backward; several questions differ in length, so there are masks.

    learned: `prompt` (the pixels; all weights are frozen), `lora` (beside the LLM's linear layers), `connector`, or
    `full` (all weights). A layer that learns keeps its input; what lies below all that learns keeps nothing.
    """
    t, m, rows = sizes.vision, sizes.llm, min(batch, 2)  # more rows keep as much each
    tower, connector, llm = LEARNED[learned]
    block, _ = _seen(t, sizes.qformer, load.text, rows, dtype, checkpointing, tower)
    _, former = _seen(t, sizes.qformer, load.text, rows, dtype, checkpointing, connector)
    first, layer = _told(m, sizes.visual, load, rows, dtype, checkpointing, llm)
    kept = batch * (t.layers * block + former + first + (m.layers - 1) * layer) // rows
    if quant == "8bit" and not checkpointing:
        # bitsandbytes' 8-bit layers keep their inputs; the attention output is among those measured already.
        length = sizes.visual + load.text + load.answer
        kept += batch * (m.layers + m.decoder) * BYTES[dtype] * length * (2 * m.width + m.mlp)
    return kept + batch * BYTES[dtype] * 3 * t.pixels**2  # the frames


def largest_layer(sizes: Sizes, batch: int, dtype: str, load: Workload) -> int:
    """Kept by the largest single layer."""
    rows = min(batch, 2)
    block, _ = _seen(sizes.vision, sizes.qformer, load.text, rows, dtype, False)
    return batch * max(block, _told(sizes.llm, sizes.visual, load, rows, dtype, False)[1]) // rows


FROZEN, LINEAR, ALL, NOTHING = "frozen", "linear", "all", "nothing"
"""Which weights of a part learn, while gradients pass through it; or that none do (nothing is kept)."""

LEARNED = {
    "prompt": (FROZEN, FROZEN, FROZEN),
    "lora": (NOTHING, NOTHING, LINEAR),
    "connector": (NOTHING, ALL, FROZEN),
    "full": (ALL, ALL, ALL),
}
"""What is learned -> the same of tower, connector and LLM."""


@lru_cache
def _seen(
    t: Tower, f: Former, text: int, batch: int, dtype: str, checkpointing: bool, weights: str = FROZEN
) -> tuple[int, int]:
    """Kept by one block of the tower, and by the Q-Former with the norm before it; text: tokens of a question."""
    if weights == NOTHING:
        return 0, 0
    connector = build_connector(t._replace(layers=1), f, 1)
    features = _weightless(connector, (batch, t.tokens, t.width), dtype, checkpointing, weights)
    ids = torch.zeros(batch, text, dtype=torch.long)
    block = _kept(connector, connector.vision.encoder.layers[0], features)
    return block, _kept(connector, connector.query, features, ids, ids == 0)


@lru_cache
def _told(
    m: Language, visual: int, load: Workload, batch: int, dtype: str, checkpointing: bool, weights: str = FROZEN
) -> tuple[int, int]:
    """Kept by an LLM of one layer with the loss, and by each layer more (of T5's encoder and decoder together)."""
    rows, found = [[IMAGE] * visual + [0] * load.text for _ in range(batch)], []
    rows[0] = rows[0][: visual + load.text - (batch > 1)]
    ids = SimpleNamespace(**{f"{name}_token_id": 0 for name in ("bos", "eos", "unk", "gmask")})
    adapter: Any = {"t5": Blip2T5, "chatglm": VisualGLM}.get(m.kind, MiniGPT4)
    for layers in (1, 2):
        model = adapter(nn.Identity(), build_llm(m, layers), ids)
        tokens = _weightless(model, (batch, visual, m.width), dtype, checkpointing, weights)
        found.append(_kept(model, model.answer_logp, tokens, rows, [[0] * load.answer] * batch))
    return found[0], found[1] - found[0]


def _weightless(
    model: nn.Module, shape: tuple[int, ...], dtype: str, checkpointing: bool, weights: str = FROZEN
) -> Tensor:
    """Make a model of the meta device one of the CPU without memory, of which `weights` learn; returns an input.

    The input has a gradient unless nothing below learns (`linear`: the LLM is the first that does).
    """
    model.to(getattr(torch, dtype)).eval().requires_grad_(weights == ALL)
    for name, layer in model.named_modules():
        if weights == LINEAR and isinstance(layer, nn.Linear) and "lm_head" not in name.split("."):
            layer.requires_grad_(True)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")
        inputs = torch.empty(shape, dtype=getattr(torch, dtype), requires_grad=weights != LINEAR)
    if checkpointing:
        checkpoint_layers_(model)
    return inputs


def _kept(model: nn.Module, run: Callable[..., object], *inputs: object) -> int:
    """Bytes of the distinct storages autograd keeps of a run, parameters and buffers left out."""
    own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that no address is used twice

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run(*inputs)
    return sum(storage.nbytes() for key, storage in kept.items() if key not in own)


def build_connector(t: Tower, f: Former, width: int, *, patches: bool = False) -> QFormerConnector:
    """Tower, Q-Former and projection to `width` on the meta device; patches: these are projected too."""
    vision = dict(hidden_size=t.width, num_hidden_layers=t.layers, num_attention_heads=t.heads, intermediate_size=t.mlp)
    bert = dict(hidden_size=f.width, num_hidden_layers=f.layers, num_attention_heads=f.heads, intermediate_size=f.mlp)
    vision |= dict(image_size=t.pixels, patch_size=t.patch)
    bert |= dict(cross_attention_frequency=f.every, encoder_hidden_size=f.sees, max_position_embeddings=f.positions)
    bert |= dict(vocab_size=f.vocab) if f.vocab else {}
    return meta_connector(vision, bert, f.queries, width, reads_text=bool(f.vocab), patches=patches)


def build_llm(m: Language, layers: int) -> Any:
    """An LLM of its kind and widths on the meta device; layers: how many, of T5's encoder and of its decoder."""
    numbers = dict(vocab_size=m.vocab, hidden_size=m.width, num_hidden_layers=layers, num_attention_heads=m.heads)
    numbers |= dict(head_dim=m.inner // m.heads, num_key_value_heads=(m.keys or m.inner) * m.heads // m.inner)
    numbers |= dict(d_ff=m.mlp, ffn_dim=m.mlp, intermediate_size=m.mlp, word_embed_proj_dim=m.width)  # as each says it
    numbers |= dict(num_layers=layers, num_decoder_layers=layers, decoder_start_token_id=0, tie_word_embeddings=m.tied)
    numbers |= dict(max_position_embeddings=m.positions - 2) if m.positions else {}  # OPT's, which has two more rows
    config = AutoConfig.for_model(ChatGLMConfig.model_type if m.kind == "chatglm" else m.kind, **numbers)
    if m.kind == "t5":  # by hand: transformers reads gated-gelu as gelu_new
        config.is_gated_act, config.dense_act_fn = m.act.startswith("gated-"), m.act.removeprefix("gated-")
    with torch.device("meta"):
        return (AutoModelForSeq2SeqLM if m.kind == "t5" else AutoModelForCausalLM).from_config(config)
