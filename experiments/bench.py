"""`make bench`: ratios measured in one run on the embedded zoo: packed against naive ranking, TVP against EVP steps."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments.cli import flat_options, run_command

USAGE = """
python -m experiments.bench [repeats=5] [batch=16] [out=FILE.json]

Paired and alternating, median of `repeats`, after one warm-up of each side. Prints ratios; absolute times depend on
the machine and on what else it does.
"""
DEFAULTS: dict[str, Any] = {"repeats": 5, "batch": 16, "out": ""}
MODELS = ("embedded_minigpt4", "embedded_instructblip", "embedded_blip2", "embedded_bliva", "embedded_llava")


def main(argv: Sequence[str]) -> int:
    options: Any = flat_options(argv, DEFAULTS, usage=USAGE)
    if options is None:
        return 0
    import torch

    batch = _batch(options["batch"])
    rows = [*_ranking(batch, options["repeats"]), *_training(batch, options["repeats"])]
    for row in rows:
        ours, other = 1e3 * row["ours_s"], 1e3 * row["other_s"]
        print(f"{row['name']:52} {ours:8.1f} ms against {other:8.1f} ms, {row['ratio']:.2f}x")
    result = {"threads": torch.get_num_threads(), "torch": torch.__version__, "batch": options["batch"], "rows": rows}
    if options["out"]:
        Path(options["out"]).write_text(json.dumps(result, indent=1) + "\n")
    return 0


def pair(name: str, ours: Callable[[], Any], other: Callable[[], Any], repeats: int) -> dict:
    """Median seconds of both, alternating; ratio = other / ours, pair by pair."""
    ours(), other()
    times = [(_seconds(ours), _seconds(other)) for _ in range(repeats)]
    return {
        "name": name,
        "ours_s": statistics.median(t for t, _ in times),
        "other_s": statistics.median(t for _, t in times),
        "ratio": statistics.median(b / a for a, b in times),
    }


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _batch(size: int) -> Any:
    from datamodules.registry import load_datamodule

    data = load_datamodule("emoji_recognition", image_size=64)
    return next(iter(data.loader("val", n=size, batch_size=size))), data.candidates


def _ranking(batch: Any, repeats: int) -> list[dict]:
    import torch

    from model_zoo.registry import load_mllm

    (images, candidates), rows = batch, []
    for name in MODELS:
        packed, naive = load_mllm(name), load_mllm(name, scoring="naive")
        with torch.inference_mode():
            rows.append(
                pair(
                    f"ranking {name}, packed against naive",
                    lambda m=packed: m.score(images.images, images.questions, candidates),
                    lambda m=naive: m.score(images.images, images.questions, candidates),
                    repeats,
                )
            )
    return rows


def _training(batch: Any, repeats: int) -> list[dict]:
    """One update's forward and backward: EVP (task loss) against TVP (task + FCA + TSE)."""
    from lightning_modules.prompts import OverlayPrompt
    from lightning_modules.tvp import TVPModule
    from model_zoo.clip import load_clip
    from model_zoo.registry import load_mllm

    def step(fca: float, tse: float) -> Callable[[], None]:
        module = TVPModule(
            OverlayPrompt(frame=64, pad=8),
            lambda: [load_mllm("embedded_minigpt4")],
            lambda: load_clip("embedded"),
            fca=fca,
            tse=tse,
        )
        module.configure_model()

        def run() -> None:
            losses = module.losses(batch[0])
            (losses.nats.sum() + fca * losses.fca.sum() + tse * losses.tse).backward()

        return run

    return [pair("training step embedded_minigpt4, EVP against TVP", step(0.0, 0.0), step(0.1, 0.1), repeats)]


if __name__ == "__main__":
    run_command(main)
