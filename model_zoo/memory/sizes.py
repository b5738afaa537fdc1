"""The numbers of an architecture that memory follows from: published ones as data, or read off a built model."""

from __future__ import annotations

from typing import Any, NamedTuple

BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


class Workload(NamedTuple):
    """What is assumed about the texts, in tokens: question with its template, answer, all candidates together."""

    text: int = 32
    answer: int = 8
    candidates: int = 64


USUAL = Workload()


class Tower(NamedTuple):
    """A vision transformer: `tokens` counts the patches and the CLS token, `pixels` is the side of its input."""

    width: int
    layers: int
    mlp: int
    heads: int
    tokens: int
    pixels: int
    patch: int

    @property
    def parameters(self) -> int:
        w, m = self.width, self.mlp
        block = 4 * w + 3 * w * (w + 1) + w * (w + 1) + m * (w + 1) + w * (m + 1)
        return self.layers * block + w * (3 * self.patch**2 + 1) + w * (self.tokens + 1) + 2 * w


class Former(NamedTuple):
    """A Q-Former: every `every`-th layer looks at the tower. vocab: its word embeddings, 0 where it reads no text."""

    width: int
    layers: int
    mlp: int
    heads: int
    queries: int
    every: int
    sees: int
    vocab: int = 0
    positions: int = 512

    @property
    def parameters(self) -> int:
        w, m = self.width, self.mlp
        feed = m * (w + 1) + w * (m + 1) + 2 * w
        layer = 4 * w * (w + 1) + 2 * w + feed * (2 if self.vocab else 1)
        crossing = len(range(0, self.layers, self.every))
        cross = 2 * w * (w + 1) + 2 * w * (self.sees + 1) + 2 * w
        text = (self.vocab + self.positions) * w if self.vocab else 0
        return self.layers * layer + crossing * cross + self.queries * w + 2 * w + text


class Language(NamedTuple):
    """An LLM. kind: llama, opt, t5 or chatglm. inner: heads x head width. keys: the same of its keys, 0 where equal.

    decoder: T5's second stack, as deep as the first, else 0. act: T5's activation, with `gated-` in front of a gate's.
    """

    kind: str
    width: int
    layers: int
    mlp: int
    heads: int
    inner: int
    vocab: int
    decoder: int = 0
    keys: int = 0
    act: str = "gated-gelu"
    positions: int = 0
    tied: bool = False

    @property
    def linear(self) -> int:
        """Weights of the linear layers that 8 and 4 bit quantise: all but the vocabulary projection."""
        attention = 2 * self.width * self.inner + 2 * self.width * (self.keys or self.inner)
        gated = self.kind == "llama" or (self.kind == "t5" and self.act.startswith("gated"))
        feed = (3 if gated else 2) * self.width * self.mlp
        return (self.layers + self.decoder) * (attention + feed) + self.decoder * attention

    @property
    def parameters(self) -> int:
        w, ends = self.width, (1 if self.tied else 2) * self.vocab * self.width
        blocks = self.layers + self.decoder
        if self.kind == "t5":
            return self.linear + ends + w * (2 * blocks + self.decoder + 2) + 2 * 32 * self.heads
        if self.kind == "llama":
            return self.linear + ends + w * (2 * blocks + 1)
        biases = 3 * self.inner + w + self.mlp + w + 4 * w
        return self.linear + ends + blocks * biases + 2 * w + self.positions * w


class Sizes(NamedTuple):
    """A whole MLLM; patches: the projected patch tokens also enter the LLM (BLIVA)."""

    vision: Tower
    qformer: Former
    llm: Language
    patches: bool = False

    @property
    def visual(self) -> int:
        """Visual tokens the LLM reads."""
        return self.qformer.queries + (self.vision.tokens - 1 if self.patches else 0)

    @property
    def connector(self) -> int:
        """Parameters of everything but the LLM."""
        seen = self.vision.parameters + self.qformer.parameters + self.llm.width * (self.qformer.width + 1)
        return seen + (self.llm.width * (self.vision.width + 1) if self.patches else 0)

    @property
    def parameters(self) -> int:
        return self.connector + self.llm.parameters


# Architecture numbers: config.json of each LLM's hub folder; EVA ViT-g and the Q-Former as in LAVIS.
EVA = Tower(1408, 39, 6144, 16, 257, 224, 14)
QFORMER = Former(768, 12, 3072, 12, 32, 2, 1408)
TEXT_QFORMER = QFORMER._replace(vocab=30523)
VICUNA = Language("llama", 4096, 32, 11008, 32, 4096, 32000)
VICUNA_V0 = VICUNA._replace(vocab=32001)
FLAN_XL = Language("t5", 2048, 24, 5120, 32, 2048, 32128, decoder=24)
FLAN_XXL = Language("t5", 4096, 24, 10240, 64, 4096, 32128, decoder=24)
OPT_2_7B = Language("opt", 2560, 32, 10240, 32, 2560, 50272, positions=2050, tied=True)
OPT_6_7B = Language("opt", 4096, 32, 16384, 32, 4096, 50272, positions=2050, tied=True)
CHATGLM = Language("chatglm", 4096, 28, 16384, 32, 4096, 130528, tied=True)

PUBLISHED_SIZES: dict[str, Sizes] = {
    "minigpt4": Sizes(EVA, QFORMER, VICUNA_V0),
    "instructblip": Sizes(EVA, TEXT_QFORMER, VICUNA),
    "blip2": Sizes(EVA, QFORMER, FLAN_XL),
    "blip2_t5_xxl": Sizes(EVA, QFORMER, FLAN_XXL),
    "blip2_opt": Sizes(EVA, QFORMER, OPT_2_7B),
    "blip2_opt_6_7b": Sizes(EVA, QFORMER, OPT_6_7B),
    "vpgtrans": Sizes(EVA, QFORMER, VICUNA_V0),
    "bliva": Sizes(EVA, TEXT_QFORMER, VICUNA_V0, patches=True),
    "visualglm": Sizes(EVA, QFORMER, CHATGLM),
}


def sizes_of(model: Any) -> Sizes:
    """The numbers of a built Q-Former MLLM, from its modules' configs.

    Raises ValueError for a model without a Q-Former connector: its numbers are not planned.
    """
    if not hasattr(getattr(model, "connector", None), "qformer"):
        raise ValueError(
            f"No memory plan for '{model.name}'. Expected a model with a vision transformer and a Q-Former."
        )
    connector = model.connector
    vision, former = connector.vision.config, connector.qformer.config
    tokens = (vision.image_size // vision.patch_size) ** 2 + 1
    return Sizes(
        Tower(
            vision.hidden_size, vision.num_hidden_layers, vision.intermediate_size, vision.num_attention_heads,
            tokens, vision.image_size, vision.patch_size,
        ),
        Former(
            former.hidden_size, former.num_hidden_layers, former.intermediate_size, former.num_attention_heads,
            connector.n_query, former.cross_attention_frequency, vision.hidden_size,
            former.vocab_size if connector.reads_text else 0,
            former.max_position_embeddings if connector.reads_text else 0,
        ),
        language_of(model.llm.config),
        connector.patch_projection is not None,
    )  # fmt: skip


def language_of(config: Any) -> Language:
    """The numbers of an LLM by its transformers configuration."""
    kind, width, heads = config.model_type.split("_")[0], config.hidden_size, config.num_attention_heads
    mlp = next(getattr(config, name) for name in ("intermediate_size", "ffn_dim", "d_ff") if hasattr(config, name))
    inner = heads * (getattr(config, "head_dim", None) or width // heads)
    more: dict[str, Any] = {"tied": bool(getattr(config, "tie_word_embeddings", False))}
    more["keys"] = inner * (getattr(config, "num_key_value_heads", None) or heads) // heads
    if kind == "opt":
        more["positions"] = config.max_position_embeddings + 2
    if kind == "t5":
        more["decoder"], more["act"] = config.num_decoder_layers, "gated-" * config.is_gated_act + config.dense_act_fn
    return Language(kind, width, config.num_hidden_layers, mlp, heads, inner, config.vocab_size, **more)
