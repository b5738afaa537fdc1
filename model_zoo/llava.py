"""LLaVA: any vision tower -> MLP projector -> LLaMA, all of the tower's tokens in front of the text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from model_zoo.base import Visual
from model_zoo.decoder import DecoderMLLM
from model_zoo.sequences import IMAGE, special_id
from model_zoo.templates import TEMPLATES, Template, render


def build_projector(vision_width: int, llm_width: int) -> nn.Sequential:
    """LLaVA-1.5's two-layer GELU projector with random weights, (B, N, vision_width) -> (B, N, llm_width)."""
    return nn.Sequential(nn.Linear(vision_width, llm_width), nn.GELU(), nn.Linear(llm_width, llm_width))


class LLaVA(DecoderMLLM):
    """BOS + image + text + answer + EOS.

    Args:
        tower: any module from normalised pixels (B, 3, S, S) to features (B, N, Dv), convolutional ones included.
        projector: Dv -> the LLM's width, e.g. `build_projector`.
        llm, tokenizer: ready modules.
        bos_id, eos_id: the tokenizer's own by default.
        template, scoring, max_nodes, official, mean, std: see `Adapter`.
    """

    def __init__(
        self,
        tower: nn.Module,
        projector: nn.Module,
        llm: nn.Module,
        tokenizer: Any,
        *,
        name: str = "llava",
        image_size: int = 224,
        template: Template = TEMPLATES["llava"],
        bos_id: int | None = None,
        eos_id: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, image_size, llm, tokenizer, template, **kwargs)
        self.tower, self.projector = tower, projector
        self.bos_id = special_id(tokenizer, "bos") if bos_id is None else bos_id
        self.eos_id = special_id(tokenizer, "eos") if eos_id is None else eos_id

    def tower_parts(self) -> list[nn.Module]:
        return [self.tower]

    @property
    def tower_outputs(self) -> int:
        return 1

    def run_tower(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return (self.tower(pixels),)

    def encode_image(self, images: Tensor, questions: Sequence[str]) -> Visual:
        tokens = self.projector(*self.see(images))
        return Visual(tokens, tokens.shape[1])

    def prefix_ids(self, question: str, n_visual: int, *, ranking: bool, style: str = "cls") -> list[int]:
        before, after, text = map(self.text_ids, render(self.template, question, style))
        return [self.bos_id, *before, *[IMAGE] * n_visual, *after, *text]

    def answer_ids(self, answer: str) -> list[int]:
        return [*self.text_ids(answer), self.eos_id]
