"""Hugging Face conversions of whole BLIP-2 and InstructBLIP models, run as LAVIS runs the originals.

Where transformers' own class and LAVIS differ, LAVIS wins (differences measured at 1e-6 to 1e-4 in a loss):

* the last vision norm has eps 1e-5 (LAVIS's `ln_vision`), transformers gives it the tower's 1e-6; some revisions of
  config.json state 1e-5 for the whole tower, EVA has 1e-6;
* FlanT5 runs with the exact GELU. text_config states `dense_act_fn: gelu` beside `feed_forward_proj: gated-gelu`, from
  which transformers alone would derive gelu_new;
* revisions since transformers 4.47 have rows for an `<image>` token that no original has: OPT 50,304 instead of 50,272,
  Vicuna 32,064 instead of 32,001. More rows change every softmax, so they are dropped;
* InstructBLIP's row of `[PAD]` (random in LAVIS) is dropped unless `padded` asks for it (docs/method.md#deviations).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import AutoConfig

from model_zoo.connectors import QFormerConnector
from model_zoo.weights.filling import Blueprint, Feed
from model_zoo.weights.headers import merged_headers
from model_zoo.weights.index import shard_paths
from model_zoo.weights.llm import ExtraRows, build_llm, llm_converter, rebuild_buffers_, tied_names
from model_zoo.weights.qformer import meta_connector
from model_zoo.weights.safe import Tensors, check_fit, complain, take_prefix

KINDS = ("blip-2", "instructblip")
"""model_type of the conversions, the second with a question-reading Q-Former."""

RENAMES = {
    "vision_model.": "connector.vision.",
    "qformer.": "connector.qformer.",
    "language_projection.": "connector.projection.",
    "query_tokens": "connector.query_tokens",
    "language_model.": "llm.",
}
UNUSED = re.compile(r"^qformer\.embeddings\.position_ids$")
OWN_ROWS = {("opt", 50304): 50272}
"""(model_type, rows of the conversion) -> rows of the LLM it was made from."""

VISION = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size")
QFORMER = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "max_position_embeddings", "cross_attention_frequency", "encoder_hidden_size",
)  # fmt: skip


def plan_hub(
    folder: Path,
    tokenizer: Any,
    *,
    padded: bool = False,
    extra_rows: ExtraRows = None,
    llm_config: Mapping[str, Any] | None = None,
) -> Blueprint:
    """{connector, llm} of a hub folder on the meta device, checked against the headers of its shards.

    Args:
        tokenizer: the folder's; it tells which LLM row is `[PAD]`'s.
        padded: keep that row, as LAVIS and the conversion have it.
        extra_rows: see `ExtraRows`; in place of the folder's own.
        llm_config: overrides of text_config.

    Raises ValueError for another kind of model, and naming every key that does not fit.
    """
    config = AutoConfig.from_pretrained(str(folder))
    if config.model_type not in KINDS:
        raise ValueError(f"{folder}/config.json describes a {config.model_type}. Expected one of {', '.join(KINDS)}.")
    paths = shard_paths(folder)
    header = merged_headers(paths)
    # A key of no known part is another architecture: said now, before gigabytes are read.
    complain(str(folder), unexpected=[key for key in header if not key.startswith(tuple(RENAMES))])
    text = config.text_config
    for key, value in (llm_config or {}).items():
        setattr(text, key, value)
    # The conversion may have more rows than the LLM it was made from, and each row changes every softmax. Rows that are
    # given take the place of its own row of [PAD], so that one is not kept beside them.
    rows = own_rows(text.model_type, text.vocab_size, tokenizer, padded=padded and extra_rows is None)
    text.vocab_size = rows + (0 if extra_rows is None else 1)
    parts = nn.ModuleDict({"connector": hub_connector(config), "llm": build_llm(text, str(folder))})
    # Tied names are settled over all shards at once: a single shard does not tell which of them the files hold.
    to_llm = llm_converter(parts["llm"], take_prefix(header, "language_model."), extra_rows, rows=rows)

    def convert(tensors: Tensors) -> dict[str, Tensor]:
        llm = {f"llm.{key}": value for key, value in to_llm(take_prefix(tensors, "language_model.")).items()}
        return {rename(key): tensors[key] for key in tensors if not key.startswith("language_model.")} | llm

    def rename(key: str) -> str:
        return next(key.replace(old, new, 1) for old, new in RENAMES.items() if key.startswith(old))

    ties = {f"llm.{key}": f"llm.{name}" for key, name in tied_names(parts["llm"]).items()}
    # Every name and shape is compared here on headers alone; what the model computes by itself is no missing key.
    header = {key: value for key, value in header.items() if not UNUSED.search(key)}
    check_fit(parts, convert(header), str(folder), ties)
    return Blueprint(parts, [Feed(path, convert) for path in paths], ties, rebuild_buffers_)


def hub_connector(config: Any) -> QFormerConnector:
    """The connector of a conversion's config on the meta device."""
    return meta_connector(
        {key: getattr(config.vision_config, key) for key in VISION},
        {key: getattr(config.qformer_config, key) for key in QFORMER} | {"layer_norm_eps": 1e-12},
        config.num_query_tokens,
        config.text_config.hidden_size,
        reads_text=config.model_type == "instructblip",
    )


def own_rows(model_type: str, rows: int, tokenizer: Any, *, padded: bool) -> int:
    """Embedding rows to keep of an LLM with `rows`: those of the original, and `[PAD]`'s if `padded`.

    >>> own_rows("opt", 50304, None, padded=False)
    50272
    """
    pad = tokenizer.pad_token_id if getattr(tokenizer, "pad_token", None) == "[PAD]" else None
    if model_type == "llama" and pad is not None and pad < rows:
        return pad + int(padded)
    return OWN_ROWS.get((model_type, rows), rows)
