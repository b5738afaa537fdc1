"""A model's own forward on the official processor's output: the oracle of the adapter, sharing none of its code."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

EXTEND = {"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"}


def talk(question: str, answer: str | None = None) -> list[dict[str, Any]]:
    user = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
    return [user] if answer is None else [user, {"role": "assistant", "content": [{"type": "text", "text": answer}]}]


def official_inputs(model: Any, frame: Tensor, question: str, answer: str | None = None) -> dict[str, Tensor]:
    """The processor's output for an 8-bit frame (3, S, S), with the whole conversation where there is an answer."""
    prompter = model.prompter
    processor, options = prompter.processor, prompter.options
    if prompter.suffix:
        more = {} if answer is None else {"suffix": [answer]}
        found = processed(processor, "<image>" + question, frame, **options, **more)
        found.pop("labels", None)
        return dict(found)
    text = processor.apply_chat_template(
        talk(question, answer), add_generation_prompt=answer is None, **prompter.template_kwargs
    )
    bos = processor.tokenizer.bos_token
    special = {"add_special_tokens": False} if bos and text.startswith(bos) else {}
    return processed(processor, text, frame, **options, **special)


def processed(processor: Any, text: str, frame: Tensor, **options: Any) -> dict[str, Any]:
    """The official call."""
    with warnings.catch_warnings():  # numpy's, where a processor hands it a tensor
        warnings.simplefilter("ignore", DeprecationWarning)
        return dict(processor(text=[text], images=[[frame]], return_tensors="pt", **options))


def followed(inputs: dict[str, Tensor], ids: list[int], kind: int = 0) -> dict[str, Tensor]:
    """The same inputs with text ids behind the prompt."""
    fill = {"input_ids": ids, "attention_mask": [1] * len(ids)}
    grown = {
        key: torch.cat([value, torch.tensor([fill.get(key, [kind] * len(ids))])], -1)
        for key, value in inputs.items()
        if key in EXTEND
    }
    if (cross := inputs.get("cross_attention_mask")) is not None:  # new text looks where the prompt's end did
        grown["cross_attention_mask"] = torch.cat([cross, cross[:, -1:].expand(-1, len(ids), -1, -1)], 1)
    return {**inputs, **grown}


@torch.no_grad()
def own_logp(model: Any, inputs: dict[str, Tensor], ids: list[int]) -> Tensor:
    """Summed log-probability () of ids behind official inputs, by the model's own forward from pixels to logits."""
    whole = followed(inputs, ids, 1 if model.prompter.suffix else 0)
    pixels = {k: v.to(model.dtype) if torch.is_tensor(v) and v.is_floating_point() else v for k, v in whole.items()}
    logits = model.model(**pixels).logits[0, -len(ids) - 1 : -1]
    return logits.log_softmax(-1)[range(len(ids)), ids].sum()
