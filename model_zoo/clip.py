"""A frozen CLIP that tells how well a frame matches a caption: the scorer behind the TSE loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from model_zoo.base import CLIP_MEAN, CLIP_STD, resize_square

MAX_SCALE = math.log(100)


class ClipScorer(nn.Module):
    """exp(logit_scale) * cos(image, caption) for frames in [0, 1], always float32, frozen and in eval mode.

    Args:
        model: an open_clip CLIP with encode_image, encode_text and logit_scale.
        tokenizer: list of captions -> token ids (B, L).
        image_size: side in pixels of the model's own input; frames of another size are resized differentiably.
    """

    model: Any

    def __init__(self, model: nn.Module, tokenizer: Callable[[list[str]], Tensor], image_size: int) -> None:
        super().__init__()
        self.model = model.float().requires_grad_(False)
        self.tokenizer, self.image_size = tokenizer, image_size
        self._captions: dict[str, Tensor] = {}
        self.train(False)

    def train(self, mode: bool = True) -> ClipScorer:
        """Stay in eval mode."""
        return super().train(False)

    def similarity(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        """Scaled cosine (B,) of frames (B, 3, S, S) and their captions; differentiable in the frames."""
        if len(images) != len(captions):
            raise ValueError(f"Got {len(captions)} captions for {len(images)} images. Expected one per image.")
        with torch.autocast(images.device.type, enabled=False):
            pixels = resize_square(images.float(), self.image_size)
            mean, std = (pixels.new_tensor(v).view(1, 3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
            seen = nn.functional.normalize(self.model.encode_image((pixels - mean) / std), dim=-1)  # (B, E)
            scale = self.model.logit_scale.clamp(max=MAX_SCALE).exp()
            return scale * (seen * self.text_features(captions).to(seen.device)).sum(-1)

    @torch.no_grad()
    def text_features(self, captions: Sequence[str]) -> Tensor:
        """Normalised text features (B, E); every caption is encoded once and remembered.

        Each is encoded alone: beside others its last bits would depend on which captions came first, and a resumed run
        would differ from an uninterrupted one.
        """
        if "" in captions:
            raise ValueError("A caption is empty. Expected a text per image for TSE; give captions, or set tse to 0.")
        for caption in dict.fromkeys(captions):
            if caption not in self._captions:
                tokens = self.tokenizer([caption]).to(self.model.logit_scale.device)
                self._captions[caption] = nn.functional.normalize(self.model.encode_text(tokens).float(), dim=-1)[0]
        return torch.stack([self._captions[caption] for caption in captions])

    def _apply(self, fn: Callable, recurse: bool = True) -> ClipScorer:
        self._captions.clear()  # the model moves to another device: encode again there
        return super()._apply(fn, recurse)


def build_clip(tensors: Mapping[str, Tensor], *, quick_gelu: bool = True) -> ClipScorer:
    """A scorer from tensors in OpenAI's (and open_clip's) ViT layout; all sizes come from the shapes.

    `quick_gelu`: OpenAI's weights need it, LAION's do not; the tensors do not tell.
    """
    from open_clip import SimpleTokenizer
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    vision = {key: value for key, value in tensors.items() if key.startswith("visual.")}
    width, _, _, patch = vision["visual.conv1.weight"].shape
    size = patch * round((vision["visual.positional_embedding"].shape[0] - 1) ** 0.5)
    text_width = tensors["ln_final.weight"].shape[0]
    context = tensors["positional_embedding"].shape[0]
    model = CLIP(
        tensors["text_projection"].shape[1],
        CLIPVisionCfg(layers=_layers(tensors, "visual."), width=width, patch_size=patch, image_size=size),
        CLIPTextCfg(
            context_length=context,
            vocab_size=tensors["token_embedding.weight"].shape[0],
            width=text_width,
            heads=max(1, text_width // 64),
            layers=_layers(tensors, "transformer."),
        ),
        quick_gelu=quick_gelu,
    )
    unused = ("input_resolution", "context_length", "vocab_size", "attn_mask")
    model.load_state_dict({key: value.float() for key, value in tensors.items() if key not in unused})
    return ClipScorer(model, SimpleTokenizer(context_length=context), size)


def _layers(tensors: Mapping[str, Tensor], prefix: str) -> int:
    return sum(key.startswith(prefix) and key.endswith(".attn.in_proj_weight") for key in tensors)
