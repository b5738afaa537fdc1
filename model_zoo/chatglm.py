"""ChatGLM-6B v1: a prefix language model with two-dimensional rotary positions and scaled post-norm residuals.

Architecture from the public ChatGLM-6B (THUDM, first version); module names are those of its checkpoint. Masks and
positions are always explicit, `prefix_lm.py` builds them; generation builds its own.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from model_zoo.cache_argument import cache_name
from model_zoo.prefix_lm import glm_rows
from model_zoo.sequences import score_dtype


class ChatGLMConfig(PreTrainedConfig):
    """Published values of ChatGLM-6B v1 as defaults; the special ids are the tokenizer's business.

    residual_layers: what the residual's factor sqrt(2 * layers) counts. The original code leaves it at 28 at any depth.
    tie_word_embeddings: transformers' default, which the original configuration does not change.
    """

    model_type = "chatglm_v1"

    vocab_size: int = 130528
    hidden_size: int = 4096
    intermediate_size: int = 16384
    num_hidden_layers: int = 28
    num_attention_heads: int = 32
    layer_norm_eps: float = 1e-5
    residual_layers: int = 28
    tie_word_embeddings: bool = True


def inverse_frequencies(dim: int, device: torch.device) -> Tensor:
    """Rotary frequencies (dim/2,) 10000^(-2i/dim), rounded through float16: the original stores them in half."""
    return (1.0 / 10000 ** (torch.arange(0, dim, 2, device=device).float() / dim)).half().float()


def rotary_tables(positions: Tensor, dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines (B, 2, L, dim) of positions (B, 2, L), computed in float32 (float64 for float64)."""
    exact = score_dtype(dtype)
    angles = positions.unsqueeze(-1).to(exact) * inverse_frequencies(dim, positions.device).to(exact)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn x (B, H, L, d): its first half by the positions, its second half by the block positions."""
    batch, heads, length, width = x.shape
    halves = x.view(batch, heads, length, 2, width // 2).transpose(2, 3)  # (B, H, 2, L, d/2)
    low, high = halves.chunk(2, dim=-1)
    turned = halves * cos.unsqueeze(1) + torch.cat([-high, low], dim=-1) * sin.unsqueeze(1)
    return turned.transpose(2, 3).reshape(x.shape)


class Attention(nn.Module):
    """Multi-head attention; `query_key_value` holds [q, k, v] head by head.

    The original divides queries by (layer + 1) and multiplies the scores back in float32 before the softmax, against
    overflow in half precision. `scaled_dot_product_attention` keeps its scores in float32, so plain scaling is equal.
    """

    def __init__(self, config: ChatGLMConfig, layer: int) -> None:
        super().__init__()
        self.heads, self.layer = config.num_attention_heads, layer
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor, mask: Tensor, tables: tuple[Tensor, Tensor], cache: Any = None) -> Tensor:
        batch, length, width = hidden.shape
        stacked = self.query_key_value(hidden).view(batch, length, self.heads, -1).transpose(1, 2)
        query, key, value = stacked.chunk(3, dim=-1)  # (B, H, L, d) each
        query, key = rotate(query, *tables), rotate(key, *tables)
        if cache is not None:
            key, value = cache.update(key, value, self.layer)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.dense(attended.transpose(1, 2).reshape(batch, length, width))


class MLP(nn.Module):
    """Two linear layers around GELU in its tanh form."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(config.hidden_size, config.intermediate_size)
        self.dense_4h_to_h = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.dense_4h_to_h(F.gelu(self.dense_h_to_4h(hidden), approximate="tanh"))


class Block(nn.Module):
    """GLM's block: each residual carries the NORMALISED input, times sqrt(2 * residual_layers)."""

    def __init__(self, config: ChatGLMConfig, layer: int) -> None:
        super().__init__()
        self.alpha = (2 * config.residual_layers) ** 0.5
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = Attention(config, layer)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = MLP(config)

    def forward(self, hidden: Tensor, mask: Tensor, tables: tuple[Tensor, Tensor], cache: Any = None) -> Tensor:
        normed = self.input_layernorm(hidden)
        normed = self.post_attention_layernorm(normed * self.alpha + self.attention(normed, mask, tables, cache))
        return normed * self.alpha + self.mlp(normed)


class ChatGLMPreTrainedModel(PreTrainedModel):
    """Shared switches of transformers."""

    config_class = ChatGLMConfig
    base_model_prefix = "transformer"
    _supports_sdpa = True
    _no_split_modules = ["Block"]


class ChatGLMModel(ChatGLMPreTrainedModel):
    """Embeddings, blocks and the final layer norm."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.final_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.word_embeddings

    def set_input_embeddings(self, value: Any) -> None:
        self.word_embeddings = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        *,
        attention_mask: Tensor,
        position_ids: Tensor,
        inputs_embeds: Tensor | None = None,
        cache: Any = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """inputs_embeds (B,L,D), attention_mask (B,1,L,past+L) additive or bool, position_ids (B,2,L).

        A cache is extended in place. `layer_options.checkpoint_layers_` recomputes the blocks in backward.
        """
        hidden = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        width = self.config.hidden_size // self.config.num_attention_heads
        tables = rotary_tables(position_ids, width // 2, hidden.dtype)
        for block in self.layers:
            hidden = block(hidden, attention_mask, tables, cache)
        return BaseModelOutputWithPast(self.final_layernorm(hidden), **{cache_name(BaseModelOutputWithPast): cache})


class ChatGLMForCausalLM(ChatGLMPreTrainedModel, GenerationMixin):
    """The language model; `generate` takes prefix embeddings that end in `<sop>`, padded on the left."""

    _tied_weights_keys = {"lm_head.weight": "transformer.word_embeddings.weight"}

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__(config)
        self.transformer = ChatGLMModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @property
    def model(self) -> ChatGLMModel:
        """The part without the head, by the name other LLMs use."""
        return self.transformer

    def get_input_embeddings(self) -> nn.Module:
        return self.transformer.word_embeddings

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def forward(
        self,
        input_ids: Tensor | None = None,
        *,
        attention_mask: Tensor,
        position_ids: Tensor,
        inputs_embeds: Tensor | None = None,
        cache: Any = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """As `ChatGLMModel.forward`, with logits (B, L, V) of the last `logits_to_keep` entries (0: of all)."""
        output = self.transformer(
            input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            cache=cache,
        )
        logits = self.lm_head(output.last_hidden_state[:, -logits_to_keep:])
        return CausalLMOutputWithPast(logits=logits, **{cache_name(CausalLMOutputWithPast): cache})

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        *,
        cache: Any = None,
        past_key_values: Any = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Inputs of the next step: input_ids (B, n) hold what was generated, inputs_embeds (B, P, D) the prefix.

        Raises ValueError when generation was started from token ids: where the prefix ends would be a guess.
        """
        if inputs_embeds is None:
            raise ValueError("ChatGLM cannot generate from input_ids. Pass the prefix as inputs_embeds, <sop> last.")
        cache = past_key_values if cache is None else cache  # `generate` knows it by its version's name
        past = 0 if cache is None else cache.get_seq_length()
        embeds = torch.cat([inputs_embeds, self.get_input_embeddings()(input_ids).to(inputs_embeds.dtype)], dim=1)
        if attention_mask is None:  # transformers drops a mask without padding
            attention_mask = embeds.new_ones(embeds.shape[:2], dtype=torch.long)
        lengths = attention_mask[:, : inputs_embeds.shape[1]].sum(-1)
        mask, positions = glm_rows(attention_mask.bool(), lengths, embeds.dtype)
        return {
            "inputs_embeds": embeds[:, past:],
            "attention_mask": mask[:, :, past:],
            "position_ids": positions[:, :, past:],
            "cache": cache,
        }


# Among transformers' own, so that a configuration finds its class as every other LLM's does.
AutoConfig.register(ChatGLMConfig.model_type, ChatGLMConfig)
AutoModelForCausalLM.register(ChatGLMConfig, ChatGLMForCausalLM)
