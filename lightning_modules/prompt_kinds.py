"""The kinds of prompts as recipes and files know them: what a value means, and words for people. No torch.

Formulas and sources: docs/method.md#kinds. What a kind does is its class: see `prompts.CLASSES`.
"""

from __future__ import annotations

from typing import NamedTuple


class PromptKind(NamedTuple):
    """One kind.

    encoding: of prompt.png: `unsigned` holds pixels of the frame in [0, 1], `signed` what is added to them, in [-1, 1].
    words: what it looks like; {pad}, {rank} and {scale} are filled in.
    put: how a reader without this code puts prompt.png on a picture that is cropped and resized already.
    """

    encoding: str
    words: str
    put: str

    @property
    def is_added(self) -> bool:
        """Whether values are added to the picture's own pixels, which so keeps its size."""
        return self.encoding == "signed"


ADD = "Add (prompt.png - 127.5) / 127.5 on {where}, clamp to [0, 1]."

KINDS = {
    "pad": PromptKind(
        "unsigned", "A border of {pad} pixels around a shrunk picture", "Paste it at ({pad}, {pad}) on prompt.png."
    ),
    "overlay": PromptKind(
        "signed", "A border of {pad} pixels added to a picture", ADD.format(where="the outer {pad} pixels")
    ),
    "full": PromptKind("signed", "Values added to every pixel of a picture", ADD.format(where="all pixels")),
    "patch": PromptKind(
        "signed",
        "A patch of {pad} x {pad} pixels added to a picture's top left corner",
        ADD.format(where="the top left {pad} x {pad} pixels"),
    ),
    "random_patch": PromptKind(
        "signed",
        "A patch of {pad} x {pad} pixels added at a place that the picture's own pixels choose",
        "Let n be the first 8 bytes, little endian, of the SHA-256 of its 8-bit RGB pixels (rows from the top, red "
        "first) and m = {frame} - {pad} + 1; row = n mod m, column = (n div m) mod m. Take the top left {pad} x {pad} "
        "pixels of prompt.png, add (them - 127.5) / 127.5 with their top left corner there, clamp to [0, 1].",
    ),
    "scaled": PromptKind(
        "unsigned",
        "A border around a picture shrunk to {scale:.3f} of the frame, both learned",
        "With s = {scale!r} and F = {frame}, along rows and then along columns: pixel i becomes the mean of all pixels "
        "j weighted by max(0, 1 - s |u - j|), where u = (i + 0.5 - F/2) / s + F/2 - 0.5, put into [0, F - 1]. c(i) = "
        "s F/2 - |i + 0.5 - F/2| + 0.5, put into [0, 1], is the share of row or column i that the picture covers. Give "
        "each pixel the product c of its row's and its column's share: c times the shrunk picture + (1 - c) times "
        "prompt.png.",
    ),
    "lowrank": PromptKind(
        "signed", "Values of rank {rank} a colour added to every pixel of a picture", ADD.format(where="all pixels")
    ),
}

BOUNDS = ("image", "unbounded", "sigmoid")
"""How values are kept in range: put back after each update, not at all, or as sigmoids, which additions cannot be."""


def prompt_kind(name: str) -> PromptKind:
    """Raises ValueError for a kind this release does not know."""
    if name not in KINDS:
        raise ValueError(
            f"Unknown prompt kind '{name}'. Available: {', '.join(sorted(KINDS))}. If a later release wrote it, "
            "read it with that one."
        )
    return KINDS[name]


def check_bounds(bounds: str, kind: str) -> None:
    """Raises ValueError for bounds that do not exist, or that a kind cannot have."""
    if bounds not in BOUNDS:
        raise ValueError(f"Unknown prompt bounds '{bounds}'. Available: {', '.join(BOUNDS)}.")
    if bounds == "sigmoid" and prompt_kind(kind).is_added:
        raise ValueError(
            f"prompt.bounds=sigmoid makes every value a pixel between 0 and 1, and a prompt of kind {kind} is ADDED to "
            "pixels. Expected prompt.bounds=image or unbounded, or prompt.kind=pad or scaled."
        )
