"""Random numbers of an update: a pure function of (seed, update, purpose), so that a resumed run draws the same."""

from __future__ import annotations

import hashlib

import torch


def step_generator(seed: int, step: int, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of its own for one purpose in one update: equal on every rank, for every split of the batch.

    Nothing of it needs a checkpoint. Numbers of a GPU's generator differ from the CPU's, and are reproducible there.
    """
    digest = hashlib.sha256(f"{purpose}:{seed}:{step}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def uniform(generator: torch.Generator, low: float, high: float) -> float:
    """One number of [low, high)."""
    return low + (high - low) * torch.rand((), generator=generator, device=generator.device, dtype=torch.float64).item()


def whole(generator: torch.Generator, low: int, high: int) -> int:
    """One whole number of low ... high, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator, device=generator.device).item())
