"""What happens to frames on their way from a prompt to a model, put into training: codecs, and input diversity.

Every draw is one for a whole update (`draws.step_generator`): all pictures, ranks and micro-batches see the same
quality, size, shift, scale and colours, so that any split of the global batch still adds up to the same loss.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lightning_modules.draws import step_generator, uniform, whole
from lightning_modules.vocabulary import check_through, read_sent
from model_zoo.base import resize_square

JPEG_QUALITY = (75, 95)
RESIZED = (0.5, 1.0)  # of the side, for `resize`


# ---- through: what is lost when a frame is kept or sent --------------------------------------------------------------
def straight_through(frames: Tensor, changed: Tensor) -> Tensor:
    """`changed` in the forward pass, the gradient of `frames` in backward (Bengio et al. 2013, arXiv 1308.3432)."""
    return changed.detach() + (frames - frames.detach())


def round_8bit(frames: Tensor) -> Tensor:
    """What an 8-bit picture (PNG) keeps of frames (B, 3, S, S): [0, 1] in steps of 1 / 255; straight-through."""
    return straight_through(frames, (frames.detach().clamp(0, 1) * 255).round() / 255)


def jpeg(frames: Tensor, quality: int) -> Tensor:
    """What Pillow's JPEG of this quality (its colours are halved) keeps of frames (B, 3, S, S); straight-through."""
    pixels = (frames.detach().clamp(0, 1) * 255).round().to("cpu", torch.uint8).permute(0, 2, 3, 1).numpy()
    decoded = np.stack([_coded(picture, quality) for picture in pixels])
    return straight_through(frames, torch.from_numpy(decoded).permute(0, 3, 1, 2).to(frames) / 255)


def _coded(picture: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as decoded:
        return np.asarray(decoded)


def resize_and_back(frames: Tensor, side: int) -> Tensor:
    """Frames (B, 3, S, S) made `side` pixels wide and S again (antialiased bicubic); differentiable."""
    return resize_square(resize_square(frames, side), frames.shape[-1])


def _through(way: str, frames: Tensor, generator: torch.Generator) -> Tensor:
    if way == "jpeg":
        return jpeg(frames, whole(generator, *JPEG_QUALITY))
    if way == "resize":
        return resize_and_back(frames, round(uniform(generator, *RESIZED) * frames.shape[-1]))
    return round_8bit(frames)


class Sent(torch.nn.Module):
    """Frames as they arrive at a model that is scored: what makes them, then what they go through on the way.

    make: images (B, 3, S, S) to frames; a module moves and copies with this one. ways: of `vocabulary.read_sent`.
    """

    def __init__(self, make: Callable[[Tensor], Tensor], ways: Sequence[str]) -> None:
        super().__init__()
        self.make, self.ways = make, read_sent(ways)

    def forward(self, images: Tensor) -> Tensor:
        frames = self.make(images)
        for way, number in self.ways:
            if way == "jpeg":
                frames = jpeg(frames, int(number))
            elif way == "resize":
                frames = resize_and_back(frames, max(1, round(number * frames.shape[-1])))
            else:
                frames = round_8bit(frames)
        return frames


# ---- diversity: the same frame as another model might see it ---------------------------------------------------------
def shifted(frames: Tensor, down: int, right: int) -> Tensor:
    """Frames moved against a model's grid of patches; the edge's pixels fill what becomes free."""
    room = max(abs(down), abs(right))
    if not room:
        return frames
    size = frames.shape[-1]
    wide = F.pad(frames, [room] * 4, mode="replicate")
    return wide[..., room - down : room - down + size, room - right : room - right + size]


def scaled(frames: Tensor, side: int) -> Tensor:
    """Frames (B, 3, S, S) made `side` pixels wide, then cropped, or padded with black, to S around the centre."""
    size = frames.shape[-1]
    before = (size - side) // 2  # negative: cropped
    return F.pad(resize_square(frames, side), [before, size - side - before] * 2)


def coloured(frames: Tensor, gains: Tensor, offsets: Tensor) -> Tensor:
    """Contrast around middle grey and brightness of each channel: (x - 0.5) * gain + 0.5 + offset, never clamped."""
    gains, offsets = (values.to(frames).view(3, 1, 1) for values in (gains, offsets))
    return (frames - 0.5) * gains + 0.5 + offsets


class FrameChanges:
    """The changes of one run's recipe; with nothing set, frames come back as they are.

    Args:
        through: of `vocabulary.THROUGH`, in the order in which they happen.
        shift: most pixels a frame moves in either direction.
        scale: most a frame grows or shrinks, as a fraction of its side.
        jitter: most a channel's contrast changes, as a fraction; its brightness by half of it.
        seed: the run's.

    Raises: ValueError for an unknown way or a strength out of range.
    """

    def __init__(
        self, through: Sequence[str] = (), *, shift: int = 0, scale: float = 0.0, jitter: float = 0.0, seed: int = 0
    ) -> None:
        check_through(through)
        if shift < 0 or not 0 <= scale < 1 or not 0 <= jitter < 1:
            raise ValueError(
                f"Expected diversity's shift >= 0 pixels, 0 <= scale < 1 and 0 <= jitter < 1, got {shift=}, {scale=}, "
                f"{jitter=}."
            )
        self.through, self.shift, self.scale, self.jitter, self.seed = tuple(through), shift, scale, jitter, seed

    def at(self, step: int) -> Callable[[Tensor], Tensor]:
        """Return the function from frames (B, 3, S, S) to changed frames that update `step` uses."""
        return lambda frames: self._diverse(self._kept(frames, step), step)

    def _kept(self, frames: Tensor, step: int) -> Tensor:
        for place, way in enumerate(self.through):
            frames = _through(way, frames, step_generator(self.seed, step, f"through {place}"))
        return frames

    def _diverse(self, frames: Tensor, step: int) -> Tensor:
        draws = step_generator(self.seed, step, "diversity")
        if self.scale:
            frames = scaled(frames, round(uniform(draws, 1 - self.scale, 1 + self.scale) * frames.shape[-1]))
        if self.shift:
            frames = shifted(frames, whole(draws, -self.shift, self.shift), whole(draws, -self.shift, self.shift))
        if self.jitter:
            up, down = torch.rand(2, 3, generator=draws, dtype=torch.float64).mul(2).sub(1).mul(self.jitter)
            frames = coloured(frames, 1 + up, down / 2)
        return frames
