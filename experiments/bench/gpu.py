"""The GPU variant: ours at the published shapes with random bfloat16 weights, in tokens/s, TFLOP/s and bytes.

Imports nothing beyond torch, transformers and our own modules, so that a bare machine can run it.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from experiments.bench.models import (
    ARCHITECTURES,
    MEDIUM,
    TOWERS,
    Inputs,
    Size,
    bench_inputs,
    bench_names,
    build_bench_model,
    part_of,
)
from experiments.bench.timing import first_layers, seconds
from lightning_modules.atomic import replace_file
from lightning_modules.losses import fca_loss
from lightning_modules.tower_features import TowerFeatures
from model_zoo.base import MLLM

NO_GPU = "no GPU"
FRAMES, CLASSES = 500, 10
PEAKS = (("H200", 989), ("H100 PCIe", 756), ("H100", 989), ("A100", 312), ("L40S", 362), ("RTX 4090", 165))
"""Dense bfloat16 TFLOP/s by a part of the device's name, from the makers' data sheets; the first that fits counts."""

VISION, QFORMER = (1408, 39, 16, 6144), (768, 12, 12, 3072)
SEVEN_B = MEDIUM._replace(vision=VISION, qformer=QFORMER, llm=(4096, 32, 32, 11008), vocab=32000, feed=16384)
PUBLISHED_SHAPES: dict[str, Size] = {
    **dict.fromkeys(ARCHITECTURES, SEVEN_B),
    "blip2_t5": SEVEN_B._replace(llm=(2048, 24, 32, 5120), vocab=32128),  # FlanT5-XL
    "blip2_opt": SEVEN_B._replace(vocab=50272),
    "visualglm": SEVEN_B._replace(llm=(4096, 28, 32, 11008), vocab=130528),
}


def run_gpu(out: Path | None, *, batch: int, repeats: int) -> dict[str, Any] | None:
    """Measure, print and save the GPU variant; None and "no GPU" without one."""
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)  # now, not after the work
    if not torch.cuda.is_available():
        print(NO_GPU)
        return None
    rows = []
    for row in gpu_rows(batch=batch, repeats=repeats):
        rows.append(row)
        print(gpu_line(row), flush=True)
    targets = resident_row(batch=batch, repeats=repeats)
    print(resident_line(targets))
    result = report(torch.cuda.get_device_name(), rows, targets=targets)
    save(out, result)
    return result


def report(device: str, rows: list[dict], **extra: Any) -> dict[str, Any]:
    """The whole result: {device, threads, torch, rows} and what was measured beside."""
    return {"device": device, "threads": torch.get_num_threads(), "torch": torch.__version__, "rows": rows, **extra}


def save(out: Path | None, result: dict[str, Any]) -> None:
    """Write the JSON, completely or not at all."""
    if out:
        replace_file(out, (json.dumps(result, indent=1) + "\n").encode())


def gpu_rows(*, batch: int = 0, repeats: int = 5) -> Iterator[dict[str, Any]]:
    """Rows of all architectures as they are ready: ranking with 10 and 100 candidates, training with FCA.

    batch 0: 16. No TSE: CLIP needs open_clip.
    """
    for architecture in ARCHITECTURES:
        size = PUBLISHED_SHAPES[architecture]
        model = build_bench_model(architecture, size, device="cuda", dtype=torch.bfloat16)
        inputs = bench_inputs(batch or 16, size)
        for path, candidates, call in gpu_calls(model, inputs, size):
            yield gpu_row(model, path, candidates, len(inputs.images), repeats, call)
        del model, call
        torch.cuda.empty_cache()


def gpu_calls(model: Any, inputs: Inputs, size: Size) -> list[tuple[str, int | None, Callable[[], Any]]]:
    """(path, candidates, pass) of one model, on its device."""
    frames = F.pad(inputs.images, [size.pad] * 4).to(model.device)

    def rank(n: int) -> Callable[[], Tensor]:
        return torch.inference_mode()(lambda: model.score(frames, inputs.questions, bench_names(n)))

    return [
        ("rank", 10, rank(10)),
        ("rank", 100, rank(100)),
        ("train_fca", None, lambda: _train(model, frames, inputs)),
    ]


def _train(model: Any, frames: Tensor, inputs: Inputs) -> None:
    """Task loss and FCA of a prompt that is a constant shade, forward and backward."""
    delta = torch.full_like(frames[0], 0.1).requires_grad_()
    prompted = frames + delta
    visual = model.encode_image(prompted, inputs.questions)
    nats, tokens = model.answer_loss(prompted, inputs.questions, inputs.answers, visual=visual)
    with torch.no_grad():
        reference = model.encode_image(frames, inputs.questions)
    (nats.sum() / tokens.sum() + 0.005 * fca_loss(visual.tokens, reference.tokens)).backward()


def gpu_row(
    model: Any, path: str, candidates: int | None, batch: int, repeats: int, call: Callable[[], Any]
) -> dict[str, Any]:
    """Median seconds of a pass, LLM tokens a second, TFLOP/s done, share of the device's peak, peak bytes."""
    with llm_tokens(model) as tokens:
        measured = _measured(call, repeats, "cuda")
    rate = {"tokens_per_s": sum(tokens) / (repeats + 2) / measured["ours_s"]}
    head = {"architecture": model.name, "path": path, "candidates": candidates, "batch": batch, "repeats": repeats}
    return head | rate | measured


def resident_models(sizes: Mapping[str, Size], device: str, dtype: torch.dtype) -> dict[str, MLLM]:
    """The paper's six models, random weights made on the device; a part that several have in common is there once."""
    parts: dict[tuple[str, str], Tensor] = {}
    models = {}
    for name in TOWERS:
        models[name] = build_bench_model(name, sizes[name], device=device, dtype=dtype)
        for key, parameter in models[name].named_parameters():
            parameter.data = parts.setdefault((part_of(name, key), key), parameter.data)
    return models


def resident_row(
    *,
    frames: int = FRAMES,
    batch: int = 0,
    repeats: int = 5,
    sizes: Mapping[str, Size] = PUBLISHED_SHAPES,
    device: str = "cuda",
    dtype: torch.dtype = torch.bfloat16,
) -> dict[str, Any]:
    """The paper's six models, all resident, score the same frames against 10 candidates: what `gpu_row` measures.

    batch 0: 50. once_bytes, apart_bytes: of all weights, shared parts once and a time for each model. tower_passes: in
    one epoch, of as many batches as models ask for.
    """
    models = resident_models(sizes, device, dtype)
    held = {p.data_ptr(): p.nbytes for model in models.values() for p in model.parameters()}
    apart = sum(p.nbytes for model in models.values() for p in model.parameters())
    if device == "cuda":
        torch.cuda.empty_cache()  # of the parts that were there already
    size, batch = sizes["minigpt4"], min(batch or 50, frames)
    inputs = bench_inputs(frames, size)
    towers = TowerFeatures()

    @torch.inference_mode()
    def epoch() -> None:
        towers.asked = towers.hits = 0
        for start in range(0, frames, batch):  # a batch through all models, so that its features need no room for long
            images = F.pad(inputs.images[start : start + batch], [size.pad] * 4).to(device)
            for model in models.values():
                with towers.lent_to(model):
                    model.score(images, inputs.questions[: len(images)], bench_names(CLASSES))
            towers.clear()

    row = {"models": len(models), "frames": frames, "batch": batch, "repeats": repeats, "candidates": CLASSES}
    row |= {"once_bytes": sum(held.values()), "apart_bytes": apart} | _measured(epoch, repeats, device)
    return row | {"tower_passes": towers.asked - towers.hits, "tower_asked": towers.asked}


def resident_line(row: Mapping[str, Any]) -> str:
    """`resident_row` as a line of text."""
    once, apart, peak = (f"{row[key] / 2**30:.1f} GiB" for key in ("once_bytes", "apart_bytes", "peak_bytes"))
    return (
        f"{row['models']} models resident, {row['frames']} frames each: {row['ours_s']:.1f} s, "
        f"{row['tflops_per_s']:.1f} TFLOP/s{_share(row)}; weights {once} ({apart} apart), peak {peak}; "
        f"{row['tower_passes']} tower passes for {row['tower_asked']} asked"
    )


def _measured(call: Callable[[], Any], repeats: int, device: str) -> dict[str, Any]:
    """Of a call that is made `repeats` + 2 times: {ours_s, tflops_per_s, peak_bytes} and share_of_peak where known."""
    gpu = device == "cuda"
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    work = flops(call)
    taken = statistics.median([_finished_seconds(call, gpu) for _ in range(repeats + 1)][1:])
    rate, peak = work / taken / 1e12, device_peak(torch.cuda.get_device_name()) if gpu else None
    measured = {"ours_s": taken, "tflops_per_s": rate, "peak_bytes": torch.cuda.max_memory_allocated() if gpu else 0}
    return measured | ({"share_of_peak": rate / peak} if peak else {})


def _finished_seconds(call: Callable[[], Any], gpu: bool) -> float:
    finish = torch.cuda.synchronize if gpu else lambda: None

    def finished() -> None:
        call()
        finish()

    finish()
    return seconds(finished)


def flops(call: Callable[[], Any]) -> int:
    """Floating-point operations of the matrix products, convolutions and attention a call really does.

    A product of (m, k) and (k, n) counts 2 m k n.
    """
    # torch's own table lacks the attention kernel of CPUs: a version that cannot take it apart into products that it
    # knows (2.14) counts it as nothing. Named here, it counts the same in all versions.
    kernels = torch.ops.aten
    attention: dict[Any, Callable[..., int]] = {
        kernels._scaled_dot_product_flash_attention_for_cpu: attention_flops,
        kernels._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward_flops,
    }
    with FlopCounterMode(display=False, custom_mapping=attention) as counter:
        call()
    return counter.get_total_flops()


def attention_flops(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    """Two products for shapes query (B, H, L, D), key and value (B, H, M, D): the scores, and the values they weigh."""
    batch, heads, length, width = query
    return 2 * batch * heads * length * key[-2] * (width + value[-1])


def attention_backward_flops(grad: Sequence[int], *shapes: Any, **_: Any) -> int:
    """Five products, as torch counts its other kernels: the scores once more, and two for each forward product."""
    return 5 * attention_flops(*shapes[:3]) // 2


@contextmanager
def llm_tokens(model: Any) -> Iterator[list[int]]:
    """Entries (batch times length) of each LLM forward made inside the `with`; T5's encoder and decoder both count."""
    seen: list[int] = []

    def add(_: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        seen.append(hidden.shape[0] * hidden.shape[1])

    handles = [layer.register_forward_pre_hook(add, with_kwargs=True) for layer in first_layers(model.llm)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def device_peak(name: str) -> int | None:
    """Dense bfloat16 TFLOP/s of a device by its name, or None where `PEAKS` does not know it."""
    return next((peak for part, peak in PEAKS if part in name), None)


def gpu_line(row: dict[str, Any]) -> str:
    """One row as a line of text."""
    return (
        f"{row['architecture']:13} {row['path']:10} {row['candidates'] or '':>4}  {row['ours_s']:7.3f} s  "
        f"{row['tokens_per_s']:9,.0f} tokens/s  {row['tflops_per_s']:6.1f} TFLOP/s{_share(row)}  "
        f"{row['peak_bytes'] / 2**30:5.1f} GiB"
    )


def _share(row: Mapping[str, Any]) -> str:
    return f", {row['share_of_peak']:.0%} of peak" if "share_of_peak" in row else ""
