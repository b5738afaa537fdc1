"""From `config.json` and the safetensors beside it to the same adapter classes as the 7B siblings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from model_zoo.base import MLLM
from model_zoo.chatglm import ChatGLMConfig, ChatGLMForCausalLM
from model_zoo.clip import ClipScorer
from model_zoo.connectors import QFormerConnector, build_connector, random_qformer
from model_zoo.embedded.config import (
    WEIGHTS,
    embedded_files,
    is_pretrained,
    model_config,
    read_config,
    read_lite,
    read_web,
    tower_architecture,
    tower_prefix,
    world_of,
)
from model_zoo.embedded.text import TOKENIZER, ClipTokenizer, build_tokenizer
from model_zoo.embedded.tower import ConvTower, Merge, build_clip_model
from model_zoo.llava import LLaVA, build_projector
from model_zoo.minigpt4 import MiniGPT4
from model_zoo.pool import read_weights
from model_zoo.templates import TEMPLATES, Template
from model_zoo.weights.catalogue import PUBLISHED
from model_zoo.weights.filling import ModelParts
from model_zoo.weights.load import build_adapter
from model_zoo.weights.safe import check_shapes, load_tensors


def _random_llm(family: str, config: dict[str, Any], vocab: int) -> nn.Module:
    ids: dict[str, Any] = {"pad_token_id": 0, "eos_token_id": 2, "tie_word_embeddings": False}
    shared = {"vocab_size": vocab, **ids, **config}
    if family == "visualglm":
        return ChatGLMForCausalLM(ChatGLMConfig(**{**shared, "tie_word_embeddings": True}))
    if family != "blip2":
        return LlamaForCausalLM(LlamaConfig(bos_token_id=1, **shared))
    shared |= {"dropout_rate": 0.0, "decoder_start_token_id": 0}
    llm = T5ForConditionalGeneration(T5Config(**shared))
    llm.lm_head.weight.data.mul_(config["d_model"] ** -0.5)  # its default start is a loss of 50 nats a token
    return llm


def _qformer_mllm(config: dict[str, Any], tokenizer: Any, llm: nn.Module, width: int, options: dict) -> MLLM:
    family = config["family"]
    known = PUBLISHED[family]  # the 7B sibling says which parts there are
    connector = build_connector(
        tower_architecture(options["name"]),
        {**config["qformer"], "vocab_size": len(tokenizer)},
        config["n_query"],
        width,
        reads_text=known.bert is not None,
        with_patches=known.patch_projection is not None,
    )
    if family == "minigpt4":
        options = {"template": _ended_by_newline(), **options}
    if family == "blip2":
        options = {"max_text": 64, **options}
    if family == "visualglm":  # marks of ChatGLM that our tokenizer has under other names
        options = {"gmask_id": tokenizer.convert_tokens_to_ids("[CLS]"), "sop_id": tokenizer.bos_token_id, **options}
    bert = build_tokenizer(qformer=True) if known.bert else None
    return build_adapter(family, ModelParts(connector, llm, tokenizer, bert), **options)


def _ended_by_newline() -> Template:
    # Trained on nothing but answer + newline, these have no text of their own after one.
    template = TEMPLATES["minigpt4"]
    return template._replace(stops=(*template.stops, "\n"))


def _llava(config: dict[str, Any], tokenizer: Any, llm: nn.Module, width: int, options: dict) -> MLLM:
    architecture = tower_architecture(options["name"])
    projector = nn.Sequential(Merge(), *build_projector(4 * architecture["width"], width))
    return LLaVA(ConvTower(**architecture), projector, llm, tokenizer, **options)


def _on_pretrained(config: dict[str, Any], tokenizer: Any, llm: nn.Module, width: int, options: dict) -> MLLM:
    """LLaVA or MiniGPT-4 around an EfficientNet-Lite tower."""
    from model_zoo.embedded import efficientnet  # timm takes a second that no other model needs

    tower, channels = efficientnet.build_tower(config["tower"]), 1280
    options = {"mean": efficientnet.MEAN, "std": efficientnet.STD, **options}
    if config["family"] == "llava":
        return LLaVA(tower, build_projector(channels, width), llm, tokenizer, **options)
    numbers = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, **config["qformer"]}
    bert = random_qformer({"encoder_hidden_size": channels, "vocab_size": len(tokenizer), **numbers}, reads_text=False)
    size = bert.config.hidden_size
    queries = torch.randn(1, config["n_query"], size) * 0.02
    connector = QFormerConnector(efficientnet.QFormerVision(tower), bert, queries, nn.Linear(size, width))
    return MiniGPT4(connector, llm, tokenizer, **{"template": _ended_by_newline(), **options})


def build_embedded(name: str, **options: Any) -> MLLM:
    """The adapter with random weights; leaves torch's global generator as it was."""
    config, world, pretrained = model_config(name), world_of(name), is_pretrained(name)
    tokenizer = build_tokenizer(file=world.get("tokenizer", TOKENIZER))
    options = {"name": name, "image_size": world["frame"], **options}
    make = _on_pretrained if pretrained else _llava if config["family"] == "llava" else _qformer_mllm
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config["training"]["seed"])
        llm: Any = _random_llm(config["family"], config["llm"], len(tokenizer))
        return make(config, tokenizer, llm, llm.get_input_embeddings().embedding_dim, options)


def own_tensors(name: str, model: nn.Module) -> dict[str, Tensor]:
    """What the model's own file holds: every parameter outside its tower."""
    prefix = tower_prefix(name)
    return {key: p.detach() for key, p in model.named_parameters() if not key.startswith(prefix)}


def load_tower_(model: nn.Module, name: str, folder: Path | None = None, dtype: str = "float32") -> None:
    """Fill the tower of an adapter in place."""
    prefix, tower = tower_prefix(name), model_config(name)["tower"]
    if not is_pretrained(name):
        return _fill_(model, embedded_files(name, folder)[0], prefix, dtype)
    from model_zoo.embedded.efficientnet import load_pretrained_

    where: Any = model.get_submodule("tower" if prefix == "tower." else "connector.vision.embeddings")
    load_pretrained_(where, tower, dtype=dtype)


def _fill_(model: nn.Module, path: Path, prefix: str, dtype: str = "float32") -> None:
    if not path.is_file():
        raise FileNotFoundError(
            f"No {path.name} in '{path.parent}'. It ships with the package: reinstall it, or train it with "
            f"python -m experiments.embedded_zoo {path.stem} out={path.parent}"
        )
    tensors = {
        prefix + key: t for key, t in read_weights(path, "whole", getattr(torch, dtype), lambda: load_tensors(path))
    }
    places = model.state_dict(keep_vars=True)
    wanted = {key for key, _ in model.named_parameters() if key.startswith(prefix)}
    if prefix == "":
        wanted = {k for k in wanted if not k.startswith(("connector.vision.", "tower."))}
    unknown, absent = set(tensors) - set(places), wanted - set(tensors)
    if unknown or absent:
        raise ValueError(
            f"'{path}' does not fit: unknown {sorted(unknown)[:3]}, missing {sorted(absent)[:3]}. "
            "Expected the file of this version of the package; reinstall it."
        )
    check_shapes({key: places[key].shape for key in tensors}, tensors, str(path))
    for key, tensor in tensors.items():
        places[key].data = tensor  # the parameter itself stays: another name may be tied to it


def load_embedded(
    name: str,
    weights: object = None,
    *,
    dtype: str = "float32",
    official: bool = False,
    folder: Path | None = None,
    **options: Any,
) -> MLLM:
    """A frozen tiny MLLM with its trained weights.

    weights: ignored (the registry's folder of published checkpoints). folder: where the embedded files are.
    options go to the adapter: `scoring`, `max_nodes`, ...

    Raises FileNotFoundError or ValueError when a file is missing or does not fit.
    """
    model = build_embedded(name, official=official, **options)
    load_tower_(model, name, folder, dtype)
    _fill_(model, embedded_files(name, folder)[1], "", dtype)
    return model.to(getattr(torch, dtype)).freeze_()


def load_embedded_clip(name: str = "clip", folder: Path | None = None) -> ClipScorer:
    """A tiny CLIP behind TSE, frozen: `clip` of the first emoji world, `web_clip` of the web, `lite_clip` of the
    pretrained towers' world.

    Raises FileNotFoundError when its file is missing.
    """
    worlds = {"clip": read_config()["towers"], "web_clip": read_web(), "lite_clip": read_lite()}
    config = worlds[name]["clip"]["architecture"]
    tokenizer = ClipTokenizer(file=read_lite()["tokenizer"] if name == "lite_clip" else TOKENIZER)
    with torch.random.fork_rng(devices=[]):
        model = build_clip_model(config, tokenizer.vocab_size, tokenizer.context_length)
    _fill_(model, Path(folder or WEIGHTS) / f"{name}.safetensors", "")
    return ClipScorer(model, tokenizer, config["image_size"])
