"""A validation epoch over the paper's six MLLMs with their published sharing: one loaded at a time, or all resident."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from datamodules.batch import Batch
from experiments.bench.models import MEDIUM, TOWERS, Size, bench_inputs, bench_names, build_bench_model, part_of
from experiments.bench.table import TIMES
from experiments.bench.timing import paired, seconds, vision_layers
from lightning_modules.evaluation import score_batches
from lightning_modules.prompts import PadPrompt
from lightning_modules.tower_features import TowerFeatures
from model_zoo.pool import read_weights, sharing
from model_zoo.weights.safe import load_tensors

CLASSES = 10
FIELDS = ("batch", "repeats", *TIMES, "apart_bytes", "once_bytes")


class Stored:
    """A random model of the bench whose weights lie in files; those of its tower and of its LLM may be others' too."""

    def __init__(self, name: str, size: Size, folder: Path) -> None:
        self.model: Any = build_bench_model(name, size)
        self.parameters = dict(self.model.named_parameters())
        self.loaded = False
        self.files: dict[Path, list[str]] = {}
        for key in self.parameters:
            self.files.setdefault(folder / f"{part_of(name, key)}.safetensors", []).append(key)
        for path, keys in self.files.items():
            if not path.is_file():
                save_file({key: self.parameters[key].detach() for key in keys}, path)
        self.unload()

    def load(self, reads: Counter, *, shared: bool) -> Any:
        """The model with its weights, counted in `reads` where they are read."""
        for path in () if self.loaded else self.files:
            with sharing() if shared else nullcontext():
                for key, tensor in read_weights(path, "whole", torch.float32, partial(_read, path, reads)):
                    self.parameters[key].data = tensor
        self.loaded = True
        return self.model

    def unload(self) -> None:
        for parameter in self.parameters.values():
            parameter.data = torch.empty(0)
        self.loaded, self.model._tower_name = False, None  # a model that is loaded anew tells its tower's digest anew


def targets_row(*, batch: int = 0, repeats: int = 5, size: Size = MEDIUM) -> dict[str, Any]:
    """Median seconds of an epoch each way in turns and their ratios, bytes of weights, and how many files were read.

    apart_s: every model is read in every epoch and runs its own tower, as before there was a pool of weights.
    sequential_s: the same with tower passes shared. auto_s: all resident, weights and tower passes shared; read before
    the first epoch, in `loading_s`. own_towers_s: all resident, and every model runs its own tower. ratio is auto_s
    over apart_s, ratio_first with loading_s on top, ratio_scoring auto_s over own_towers_s.

    Raises RuntimeError where the scores differ in a bit, the resident way reads a file twice, or, once it has seen
    every model, a frame passes a tower twice.
    """
    with tempfile.TemporaryDirectory() as folder:
        apart, once = ({name: Stored(name, size, Path(folder)) for name in TOWERS} for _ in range(2))
        inputs, prompt = bench_inputs(batch or 4, size), PadPrompt(size.frame, size.pad)
        rows = [str(n) for n in range(len(inputs.images))]
        texts, labels = inputs.questions, torch.zeros(len(rows), dtype=torch.long)
        batches = [Batch(inputs.images, labels, texts, texts, texts, rows, rows)]
        reads: dict[str, Counter] = {"apart": Counter(), "once": Counter()}

        def epoch(models: dict[str, Stored], towers: TowerFeatures) -> list[np.ndarray]:
            towers.clear()  # every epoch has another prompt
            scores = []
            for stored in models.values():
                model = stored.load(reads["once" if models is once else "apart"], shared=models is once)
                with towers.lent_to(model):
                    found = score_batches(model, batches, {"prompt": prompt}, bench_names(CLASSES))
                scores.append(found["prompt"].scores)
                if models is apart:
                    stored.unload()
            return scores

        shared, own = TowerFeatures(), TowerFeatures(0)
        before, sequential = partial(epoch, apart, own), partial(epoch, apart, TowerFeatures())
        auto, own_towers = partial(epoch, once, shared), partial(epoch, once, own)
        sides = (before, sequential, auto, own_towers)
        loading = seconds(lambda: [stored.load(reads["once"], shared=True) for stored in once.values()])
        results = [side() for side in sides]
        if any(not np.array_equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True)):
            raise RuntimeError("Scores differ between models that share weights and models apart. Expected equal bits.")
        with frames_encoded(once) as frames:
            auto()
        if set(frames.values()) != {len(rows)}:
            raise RuntimeError(f"{len(rows)} frames passed the towers as {dict(frames)}. Expected each once a tower.")
        times = paired(sides, repeats)
        held = {p.data_ptr(): p.nbytes for stored in once.values() for p in stored.parameters.values()}
        sizes = sum(p.nbytes for stored in once.values() for p in stored.parameters.values()), sum(held.values())
        if max(reads["once"].values()) > 1:
            raise RuntimeError(f"Files were read more than once: {dict(reads['once'])}. Expected once each.")
    row = dict(zip(FIELDS, (len(rows), repeats, *(times[side] for side in sides), loading, *sizes), strict=True))
    row |= {"ratio": row["auto_s"] / row["apart_s"], "ratio_scoring": row["auto_s"] / row["own_towers_s"]}
    row |= {"ratio_first": (row["auto_s"] + loading) / row["apart_s"]}
    row |= {"ratio_bytes": row["once_bytes"] / row["apart_bytes"], "files": len(reads["once"])}
    return row | {"reads_an_epoch": sum(len(stored.files) for stored in apart.values())}


@contextmanager
def frames_encoded(models: dict[str, Stored]) -> Iterator[Counter]:
    """How many frames pass each tower inside the `with`, by hooks on the towers' first layers."""
    frames: Counter = Counter()

    def count(tower: str, _: Any, arguments: tuple) -> None:
        frames[tower] += len(arguments[0])

    layers = [(TOWERS[name], layer) for name, stored in models.items() for layer in vision_layers(stored.model)]
    handles = [layer.register_forward_pre_hook(partial(count, tower)) for tower, layer in layers]
    try:
        yield frames
    finally:
        for handle in handles:
            handle.remove()


def _read(path: Path, reads: Counter) -> dict[str, Tensor]:
    reads[path.stem] += 1
    return load_tensors(path)
