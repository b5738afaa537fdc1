"""A real sweep, killed and restarted, ends with an undisturbed one's bytes (short form of support/kill_sweep.py)."""

from __future__ import annotations

import pytest
from support import kill_sweep


@pytest.mark.slow
def test_a_sweep_killed_at_random_moments_gives_the_same_bytes(tmp_path):
    words = ["sweep=embedded_smoke", "sources=embedded_minigpt4", "methods=none,tvp", "seeds=0", "log.wandb=off"]
    words += ["targets=embedded_minigpt4,embedded_llava"]
    assert kill_sweep.compare(words, kills=3, longest=22, seed=1, folder=tmp_path) == []
