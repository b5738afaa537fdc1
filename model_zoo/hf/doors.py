"""Three doors of a model's own code: its visual features, its language model's inputs, its head.

The first is called plainly. The second is the whole multimodal forward with the features answered from outside and the
language model answering nothing but a note of what it was given: embeddings, positions, masks by layer type, and
whatever else the family passes on. The third is the whole forward with the hidden states answered from outside, so that
soft caps and scales of the logits are the model's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from model_zoo.cache_argument import cache_argument


@contextmanager
def answering(thing: Any, name: str, answer: Callable[..., Any]) -> Iterator[None]:
    """Let `answer` stand for a method of one object for a while."""
    own = vars(thing)
    before = own.get(name)
    own[name] = answer
    try:
        yield
    finally:
        if before is None:
            del own[name]
        else:
            own[name] = before


class Answer(dict):
    """An output of the library with the fields that were given, None for every other one."""

    def __getattr__(self, name: str) -> Any:
        return self.get(name)

    def __getitem__(self, key: Any) -> Any:
        return next(iter(self.values())) if key == 0 else super().__getitem__(key)


class Doors:
    """The doors of one model, which is a `...ForConditionalGeneration` of the library."""

    def __init__(self, model: Any) -> None:
        self.model = model

    @property
    def core(self) -> Any:
        return self.model.model

    @property
    def llm(self) -> Any:
        """The language model without its head."""
        return self.core.text_model if hasattr(self.core, "text_model") else self.core.language_model

    def takes(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The part of an image processor's output that the model's forward names."""
        return _named(type(self.core).forward, inputs)

    def image_features(self, inputs: Mapping[str, Any]) -> Any:
        """The model's own output for an image processor's output; `pooler_output` holds what the LLM reads."""
        return self.core.get_image_features(**_named(self.core.get_image_features, inputs), return_dict=True)

    def language_inputs(self, inputs: Mapping[str, Any], features: Any) -> dict[str, Any]:
        """What the language model is given for token ids and the rest of a processor's output; None is left out."""
        noted: dict[str, Any] = {}

        def note(*args: Any, **kwargs: Any) -> Answer:
            if kwargs.get("inputs_embeds") is None:
                kwargs["inputs_embeds"] = self.llm.get_input_embeddings()(kwargs["input_ids"])
            noted.update(kwargs)
            return Answer(last_hidden_state=kwargs["inputs_embeds"])

        with self._features(lambda *args, **kwargs: features), answering(self.llm, "forward", note):
            self.core(**inputs, use_cache=False)
        left_out = {*cache_argument(self.llm, None), "use_cache", "return_dict", "input_ids"}
        return {key: value for key, value in noted.items() if value is not None and key not in left_out}

    def hidden(self, inputs: Mapping[str, Any], cache: Any = None) -> Tensor:
        """Final hidden states (B, L, D); a cache is extended in place."""
        past = {} if cache is None else cache_argument(self.llm, cache)
        return self.llm(**inputs, **past, use_cache=cache is not None, return_dict=True).last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """(N, D) -> (N, V), with all that the model does to its logits."""
        states = hidden[None]
        with answering(self.core, "forward", lambda *args, **kwargs: Answer(last_hidden_state=states)):
            return self.model(inputs_embeds=states, use_cache=False, return_dict=True).logits[0]

    def generate(self, inputs: Mapping[str, Any], features: Callable[[int], Any], **settings: Any) -> Tensor:
        """Generated ids; `features(n)` gives the features of n pictures (beams repeat them)."""

        def answer(*args: Any, **kwargs: Any) -> Any:
            return features(len(args[0] if args else kwargs["pixel_values"]))

        with self._features(answer):
            return self.model.generate(**inputs, **settings)

    def _features(self, answer: Callable[..., Any]) -> Any:
        # `generate` looks at the parameters to know what to hand over.
        answer.__signature__ = signature(self.core.get_image_features)  # type: ignore[attr-defined]
        return answering(self.core, "get_image_features", answer)


def _named(function: Callable[..., Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    names = set(signature(function).parameters)
    return {key: value for key, value in inputs.items() if key in names}


def cast(inputs: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Tensors of a processor's output where the model lives, numbers with a point in its dtype."""
    move = lambda v: v.to(device, dtype) if v.is_floating_point() else v.to(device)  # noqa: E731
    return {key: move(value) if isinstance(value, Tensor) else value for key, value in inputs.items()}
