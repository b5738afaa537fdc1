"""A square patch as a prompt (Bahng et al. 2022, section 3.2): in the corner, or where the picture says."""

from __future__ import annotations

import hashlib

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.prompts import OverlayPrompt


class PatchPrompt(OverlayPrompt):
    """`pad` x `pad` pixels added to the top left corner of the full-size picture."""

    kind = "patch"


class RandomPatchPrompt(OverlayPrompt):
    """`pad` x `pad` pixels added at a place drawn for each picture, from that picture alone: see `patch_place`.

    delta keeps the patch in its top left corner. The reference draws anew in every forward pass; here a picture has
    one place, so that scores repeat, and another one whenever augmentation changes a pixel.
    """

    kind = "random_patch"

    def forward(self, images: Tensor) -> Tensor:
        patch, rest = self.delta[:, : self.pad, : self.pad], self.frame - self.pad
        places = [patch_place(image, self.pad) for image in self.blank(images)]
        added = torch.stack([F.pad(patch, (left, rest - left, top, rest - top)) for top, left in places])
        prompted = images + added
        return prompted.clamp(0.0, 1.0) if self.bounds == "image" else prompted


def patch_place(image: Tensor, pad: int) -> tuple[int, int]:
    """(row, column) of the patch's top left corner on a picture (3, S, S) in [0, 1], uniform over where it fits.

    From the SHA-256 of the picture's 8-bit pixels in the order of a file's (rows, then columns, then red, green, blue):
    the same for any batch and device, and for whoever has the picture and no code of ours.
    """
    pixels = (255 * image.detach().float().clamp(0, 1)).round().to(torch.uint8)
    digest = hashlib.sha256(pixels.permute(1, 2, 0).contiguous().cpu().numpy().data).digest()
    number, places = int.from_bytes(digest[:8], "little"), image.shape[-1] - pad + 1
    return number % places, number // places % places
