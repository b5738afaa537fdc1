"""Visual prompts: what is learned. A prompt turns an image into the frame every model is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.apply_prompt import apply_prompt
from lightning_modules.artefact import (
    KIND_ENTRIES,
    OWN_ENTRIES,
    load_artefact,
    prompt_sha256,
    read_manifest,
    save_artefact,
)
from lightning_modules.artefact_png import PromptTensors, check_geometry, prompt_mask
from lightning_modules.prompt_card import prompt_card
from lightning_modules.prompt_hub import pretrained_folder, push_folder
from lightning_modules.prompt_kinds import check_bounds, prompt_kind
from lightning_modules.vocabulary import INITS, check_init


class Prompt(nn.Module, ABC):
    """Pixels that are learned and put around pictures or on them, on a square frame (docs/method.md#kinds).

    Attributes:
        delta: (3, frame, frame) what prompt.png shows, zero outside `mask` after every `project_()`. A parameter, kept
            full-frame (the reference normalises the whole-frame gradient), or made of the parameters by the kind.
        mask: (1, frame, frame) 1.0 where delta may be other than zero; for most kinds the border.
        lowest: the least value of delta under the bounds `image`; what is added to pixels also darkens.
        image_size: side of the images `forward` takes.
        scale, rank: the further number of a kind that has one.
        manifest: of the artefact it was loaded from, None for a new prompt.

    Args:
        frame: side of the frame in pixels (224; embedded zoo 64).
        pad: width of the border, or side of the patch, in pixels (30; embedded zoo 8).
        bounds: `image` keeps the result a picture in [0, 1]; `unbounded` is the reference's behaviour; `sigmoid`
            learns pixels as sigmoids (`prompt_sigmoid.py`).
    """

    kind: str
    lowest: float
    delta: Tensor
    mask: Tensor
    scale: float | None = None
    rank: int | None = None

    def __init__(self, frame: int = 224, pad: int = 30, bounds: str = "image") -> None:
        super().__init__()
        check_geometry(frame, pad, bounds, self.kind)
        self.frame, self.pad, self.bounds = frame, pad, bounds
        self.manifest: dict[str, Any] | None = None
        self._add_tensors()

    def _add_tensors(self) -> None:
        """Register what is learned, and the mask."""
        self.delta = nn.Parameter(torch.zeros(3, self.frame, self.frame))
        self.register_buffer("mask", prompt_mask(self.kind, self.frame, self.pad), persistent=False)

    @property
    @abstractmethod
    def image_size(self) -> int:
        """Side of the images this prompt is put on."""

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, image_size, image_size) -> prompted frames (B, 3, frame, frame); differentiable in delta."""

    @abstractmethod
    def blank(self, images: Tensor) -> Tensor:
        """The same frames without the prompt: the `clean` of docs/method.md#losses. No gradient."""

    @torch.no_grad()
    def project_(self) -> None:
        """Put delta back into the allowed set: zero outside the mask, and within the bounds."""
        self.delta.mul_(self.mask)
        if self.bounds == "image":
            self.delta.clamp_(self.lowest, 1.0)

    def init_(self, how: str = "zero", *, std: float = 1.0, seed: int = 0, mean_image: Tensor | None = None) -> None:
        """Start value, then projected.

        Args:
            how: `zero` (the paper), `normal` (N(0, std)), `grey` (0.5) or `replicate` (`mean_image`'s edge pixels
                repeated: as padding is linear, the mean of the replicate padding of the images it is the mean of).
            std, seed: of `normal`; a kind of several factors draws by `seed` for `zero` too.
            mean_image: (3, image_size, image_size) in [0, 1], for `replicate`.

        Raises:
            ValueError: unknown `how`; one that this kind cannot have; `replicate` without a fitting mean image.
        """
        if how not in INITS:
            raise ValueError(f"Unknown prompt init '{how}'. Available: {', '.join(INITS)}.")
        check_init(how, self.kind, self.bounds)
        with torch.no_grad():
            if how == "normal":
                self._start_at_random(std, seed)
            elif how == "replicate":
                self._start_at(self._replicated(self._checked_mean(mean_image)))
            else:
                self._start_at(self.delta.new_full(self.delta.shape, 0.5 if how == "grey" else 0.0))
        self.project_()

    def _start_at_random(self, std: float, seed: int) -> None:
        self._start_at(torch.randn(self.delta.shape, generator=torch.Generator().manual_seed(seed)) * std)

    def _start_at(self, delta: Tensor) -> None:
        self.delta.copy_(delta)

    def _checked_mean(self, mean_image: Tensor | None) -> Tensor:
        wanted = (3, self.image_size, self.image_size)
        if mean_image is None or tuple(mean_image.shape) != wanted:
            got = None if mean_image is None else tuple(mean_image.shape)
            raise ValueError(f"A prompt that starts from replicate padding needs a mean image {wanted}, got {got}.")
        return mean_image.to(self.delta)

    def _replicated(self, mean_image: Tensor) -> Tensor:
        return F.pad(mean_image[None], [self.pad] * 4, mode="replicate")[0]

    @torch.no_grad()
    def lerp_(self, other: Prompt, share: float) -> None:
        """Go `share` of the way to another prompt of the same kind, in what is learned, then project."""
        for own, new in zip(self.parameters(), other.parameters(), strict=True):
            own.lerp_(new, share)
        self.project_()

    def __call__(self, images: Any, **fit: Any) -> Any:
        """Frames for a batch tensor (B,3,S,S); for one PIL image, numpy array or (3,H,W) tensor, the same kind back.

        Single pictures may have any size: see `lightning_modules.apply_prompt.apply_prompt` for `fit=`.
        """
        if isinstance(images, Tensor) and images.ndim == 4:
            return super().__call__(images)
        return apply_prompt(self, images, **fit)

    @staticmethod
    def load(folder: str | Path, *, reading: str = "float") -> Prompt:
        """Load a prompt artefact, frozen and in eval mode; see `lightning_modules.artefact.load_artefact`.

        reading: `float` takes prompt.safetensors, `png` the 8-bit prompt.png.
        """
        stored = load_artefact(folder, reading=reading)
        cls = _load_class(FINISHED.get(stored.kind, CLASSES[stored.kind]))
        prompt = cls(frame=stored.frame, pad=stored.pad, bounds=stored.bounds)
        prompt.take_(stored)
        prompt.manifest = read_manifest(folder)
        return prompt.requires_grad_(False).eval()

    def take_(self, stored: PromptTensors) -> None:
        """Become the finished prompt that was stored, bit for bit."""
        self.kind, self.rank = stored.kind, stored.rank
        self.delta.data = stored.delta

    @staticmethod
    def from_pretrained(name: str | Path, *, revision: str | None = None, reading: str = "float") -> Prompt:
        """Load a prompt from a folder, or from the Hugging Face hub by `user/name`; see `load`.

        revision: branch, tag or commit on the hub. Private prompts are read with HF_TOKEN.

        Raises as `load`, and ValueError, PermissionError or ConnectionError for what the hub does not give.
        """
        return Prompt.load(pretrained_folder(name, revision), reading=reading)

    def save_pretrained(
        self, folder: str | Path, *, manifest: Mapping[str, Any] | None = None, name: str | None = None
    ) -> Path:
        """Write the prompt as an artefact with a model card, for `from_pretrained`; returns the absolute folder.

        manifest: the caller's entries (see `save`); by default those of the artefact this very prompt was loaded from.
        name: what the card calls it. Raises as `save`.
        """
        entries = self._entries() if manifest is None else manifest
        return save_artefact(self.tensors, folder, entries, card=lambda whole: prompt_card(whole, name))

    def push_to_hub(self, name: str, *, private: bool = False, manifest: Mapping[str, Any] | None = None) -> str:
        """Put what `save_pretrained` writes onto the hub as `user/name`; returns the address of its page.

        The token is HF_TOKEN's. Raises PermissionError without one, ValueError, ConnectionError; as `save`.
        """
        with TemporaryDirectory() as scratch:
            folder = self.save_pretrained(Path(scratch) / "prompt", manifest=manifest, name=name)
            return push_folder(folder, name, private=private, message=f"Prompt {prompt_sha256(self.delta)[:16]}")

    def _entries(self) -> dict[str, Any]:
        """The caller's entries of the artefact this was loaded from, unless the pixels are others now."""
        if self.manifest is None or self.manifest["prompt"] != prompt_sha256(self.delta):
            return {}
        own = {*OWN_ENTRIES, *KIND_ENTRIES.values()}
        return {key: value for key, value in self.manifest.items() if key not in own}

    def save(self, folder: str | Path, manifest: Mapping[str, Any]) -> Path:
        """Write the prompt as an artefact; see `lightning_modules.artefact.save_artefact`."""
        return save_artefact(self.tensors, folder, manifest)

    @property
    def tensors(self) -> PromptTensors:
        """The part of the prompt that is kept on disk."""
        delta = self.delta.detach().to("cpu", torch.float32).contiguous()
        bounds = "image" if self.bounds == "sigmoid" else self.bounds  # a finished sigmoid is a pixel
        return PromptTensors(self.kind, self.frame, self.pad, bounds, delta, self.scale, self.rank)

    def _check(self, images: Tensor) -> None:
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, self.image_size, self.image_size):
            raise ValueError(
                f"This prompt (frame {self.frame}, pad {self.pad}) takes images (B, 3, {self.image_size}, "
                f"{self.image_size}), got {tuple(images.shape)}. Set the data set's image_size to {self.image_size}."
            )


class PadPrompt(Prompt):
    """EVP/TVP: the image shrunk to frame - 2 pad, surrounded by the learned border: zero_pad(x) + delta."""

    kind, lowest = "pad", 0.0

    @property
    def image_size(self) -> int:
        return self.frame - 2 * self.pad

    def blank(self, images: Tensor) -> Tensor:
        self._check(images)
        return F.pad(images, [self.pad] * 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.blank(images) + self.delta


class OverlayPrompt(Prompt):
    """VP (Bahng 2022): the border is ADDED to the full-size image; with bounds `image` the sum is clamped to [0, 1]."""

    kind, lowest = "overlay", -1.0

    @property
    def image_size(self) -> int:
        return self.frame

    def blank(self, images: Tensor) -> Tensor:
        self._check(images)
        return images

    def forward(self, images: Tensor) -> Tensor:
        prompted = self.blank(images) + self.delta
        return prompted.clamp(0.0, 1.0) if self.bounds == "image" else prompted


CLASSES = {
    "pad": "prompts:PadPrompt",
    "overlay": "prompts:OverlayPrompt",
    "full": "prompt_full:FullPrompt",
    "patch": "prompt_patch:PatchPrompt",
    "random_patch": "prompt_patch:RandomPatchPrompt",
    "scaled": "prompt_scaled:ScaledPrompt",
    "lowrank": "prompt_lowrank:LowRankPrompt",
}
"""Kind -> its class."""

SIGMOID = {"pad": "prompt_sigmoid:SigmoidPadPrompt", "scaled": "prompt_sigmoid:SigmoidScaledPrompt"}
"""Kind -> its class under the bounds `sigmoid`."""

FINISHED = {"lowrank": "prompt_full:FullPrompt"}
"""Kind -> the class of a loaded prompt, where it is another: the file holds the product, not its factors."""


def build_prompt(kind: str, *, frame: int, pad: int, bounds: str, rank: int | None = None) -> Prompt:
    """A new prompt of a kind of `prompt_kinds.KINDS`, to be learned.

    rank: of the kind `lowrank` (null: its own). Raises ValueError for an unknown kind, bounds or geometry.
    """
    prompt_kind(kind)
    check_bounds(bounds, kind)
    cls = _load_class((SIGMOID if bounds == "sigmoid" else CLASSES)[kind])
    more = {"rank": rank} if kind == "lowrank" and rank is not None else {}
    return cls(frame=frame, pad=pad, bounds=bounds, **more)


def _load_class(place: str) -> Any:
    module, name = place.split(":")
    return getattr(import_module(f"lightning_modules.{module}"), name)
