"""Writes one of our models as its Hugging Face conversion: transformers' own class, filled with our weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model_zoo.base import MLLM
from model_zoo.weights.writing import copy_tokenizer


def build_hub_model(model: MLLM) -> nn.Module:
    """`Blip2ForConditionalGeneration` or `InstructBlipForConditionalGeneration` with the sizes and weights of `model`.

    Its last vision norm has the tower's eps (1e-6), as in every conversion; the image token is the last LLM row.
    """
    import transformers

    connector, text = model.connector, model.llm.config.to_dict()
    family = "InstructBlip" if connector.reads_text else "Blip2"
    if "scale_decoder_outputs" in text:  # what transformers 4 wrote, and what is on the hub
        text["tie_word_embeddings"] = text.pop("scale_decoder_outputs")
    config = getattr(transformers, f"{family}Config")(
        vision_config=connector.vision.config.to_dict(),
        qformer_config=connector.qformer.config.to_dict() | {"model_type": None},
        text_config=text,
        num_query_tokens=connector.n_query,
        image_token_index=model.llm.config.vocab_size - 1,
    )
    hub = getattr(transformers, f"{family}ForConditionalGeneration")(config).eval()
    if model.llm.config.is_encoder_decoder:  # built tied whatever the config says; loading a file would untie it
        head = hub.language_model.lm_head
        head.weight = nn.Parameter(head.weight.detach().clone())
    hub.load_state_dict(hub_state(model), strict=True)
    return hub


def hub_state(model: MLLM) -> dict[str, Tensor]:
    """Our weights by the names of the conversion."""
    names = {"connector.vision.": "vision_model.", "connector.projection.": "language_projection."}
    names |= {"connector.": "", "llm.": "language_model."}
    state = {}
    for key, value in model.state_dict().items():
        old = next(old for old in names if key.startswith(old))
        state[names[old] + key[len(old) :]] = value
    return state


def write_hub_form(model: MLLM, folder: Path, tokenizers: dict[str, Path], *, binary: bool = False) -> Path:
    """The folder as on the hub: config.json, shards, tokenizer, `qformer_tokenizer/`; .bin shards if `binary`.

    tokenizers: folders to copy, by `tokenizer` and `qformer_tokenizer`.
    """
    copy_tokenizer(tokenizers["tokenizer"], folder)
    if "qformer_tokenizer" in tokenizers:
        copy_tokenizer(tokenizers["qformer_tokenizer"], folder / "qformer_tokenizer")
    hub = build_hub_model(model)
    hub.save_pretrained(folder, max_shard_size="400KB")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["tie_word_embeddings"] = hub.config.text_config.tie_word_embeddings
    if "scale_decoder_outputs" in config["text_config"]:
        config["text_config"]["tie_word_embeddings"] = config["text_config"].pop("scale_decoder_outputs")
    (folder / "config.json").write_text(json.dumps(config))
    if binary:
        to_binary(folder)
    return folder


def to_binary(folder: Path) -> None:
    """Safetensors shards and their index as the older .bin ones."""
    from safetensors.torch import load_file

    index = json.loads((folder / "model.safetensors.index.json").read_text())
    shards = sorted(set(index["weight_map"].values()))
    new = {name: name.replace("model-", "pytorch_model-").replace(".safetensors", ".bin") for name in shards}
    for old, name in new.items():
        torch.save(load_file(folder / old), folder / name)
        (folder / old).unlink()
    index["weight_map"] = {key: new[name] for key, name in index["weight_map"].items()}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors.index.json").unlink()


def hub_inputs(model: MLLM, prompt: list[int], target: list[int], image: int) -> dict[str, Any]:
    """input_ids and mask for one image (1, L): image tokens, then text; a decoder-only LLM sees the answer as well."""
    ids = [image] * model.connector.n_query + prompt + ([] if model.llm.config.is_encoder_decoder else target)
    row = torch.tensor([ids])
    return {"input_ids": row, "attention_mask": torch.ones_like(row)}
