"""The whole picture as a prompt: an overlay without a hole."""

from __future__ import annotations

from lightning_modules.prompts import OverlayPrompt


class FullPrompt(OverlayPrompt):
    """One delta added to every pixel of the full-size picture: clamp(x + delta)."""

    kind = "full"
