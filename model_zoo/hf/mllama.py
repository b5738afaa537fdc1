"""Llama 3.2 Vision: pictures are read by cross-attention layers, so they have no place in the text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from model_zoo.hf.adapter import HuggingFaceMLLM
from model_zoo.hf.doors import Answer, Doors, answering
from model_zoo.hf.prompt import Row


class MllamaDoors(Doors):
    """The tower and its projection stand where other families have `get_image_features`."""

    def image_features(self, inputs: Mapping[str, Any]) -> Any:
        names = ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask")
        states = self.core.vision_model(**{name: inputs[name] for name in names}).last_hidden_state
        states = self.core.multi_modal_projector(states)  # (B, 1, tiles, patches, D)
        return Answer(pooler_output=states.reshape(-1, *states.shape[-3:]))

    @contextmanager
    def _features(self, answer: Callable[..., Any]) -> Iterator[None]:
        def seen(pixel_values: Tensor, **kwargs: Any) -> Answer:
            return Answer(last_hidden_state=answer(pixel_values).pooler_output.unsqueeze(1))

        tower, projector = self.core.vision_model, self.core.multi_modal_projector
        with answering(tower, "forward", seen), answering(projector, "forward", lambda states: states):
            yield


class MllamaMLLM(HuggingFaceMLLM):
    """Llama 3.2 Vision. Arguments: see `HuggingFaceMLLM`."""

    doors_class = MllamaDoors

    def _inputs(self, rows: list[Row], tokens: Tensor, *, left: bool = False) -> dict[str, Any]:
        inputs = super()._inputs(rows, tokens, left=left)
        # Text from the picture's mark on may look at every tile that is there.
        behind = (inputs["input_ids"] == self.model.config.image_token_id).cumsum(-1).clamp(max=1)
        inputs["cross_attention_mask"] = behind[:, :, None, None] * inputs["aspect_ratio_mask"][:, None].long()
        return inputs
