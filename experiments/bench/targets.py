"""A validation epoch over the paper's six MLLMs with their published sharing: one loaded at a time, or all resident."""

from __future__ import annotations

import tempfile
from collections import Counter
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from datamodules.batch import Batch
from experiments.bench.models import MEDIUM, TOWERS, Size, bench_inputs, bench_names, build_bench_model, part_of
from experiments.bench.timing import paired, seconds
from lightning_modules.evaluation import score_batches
from lightning_modules.feature_cache import GIB
from lightning_modules.prompts import PadPrompt
from lightning_modules.tower_features import TowerFeatures
from model_zoo.pool import read_weights, sharing
from model_zoo.weights.safe import load_tensors

CLASSES = 10
FIELDS = ("batch", "repeats", "sequential_s", "auto_s", "own_towers_s", "loading_s", "apart_bytes", "once_bytes")


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
    """Median seconds of an epoch each way in turns and their ratio, bytes of weights, and how many files were read.

    Both ways share tower passes. The sequential way reads every model in every epoch; the other one reads before the
    first, in `loading_s`. own_towers_s: all resident, and every model with tower passes of its own.

    Raises RuntimeError where the scores differ in a bit, or the resident way reads a file twice.
    """
    with tempfile.TemporaryDirectory() as folder:
        apart, once = ({name: Stored(name, size, Path(folder)) for name in TOWERS} for _ in range(2))
        inputs, prompt = bench_inputs(batch or 4, size), PadPrompt(size.frame, size.pad)
        rows = [str(n) for n in range(len(inputs.images))]
        texts, labels = inputs.questions, torch.zeros(len(rows), dtype=torch.long)
        batches = [Batch(inputs.images, labels, texts, texts, texts, rows, rows)]
        reads: dict[str, Counter] = {"sequential": Counter(), "auto": Counter()}

        def epoch(models: dict[str, Stored], way: str, limit: int = GIB) -> list[np.ndarray]:
            towers, scores = TowerFeatures(limit), []
            for stored in models.values():
                model = stored.load(reads[way], shared=way == "auto")
                with towers.lent_to(model):
                    found = score_batches(model, batches, {"prompt": prompt}, bench_names(CLASSES))
                scores.append(found["prompt"].scores)
                if way == "sequential":
                    stored.unload()
            return scores

        def sequential() -> list[np.ndarray]:
            return epoch(apart, "sequential")

        def auto() -> list[np.ndarray]:
            return epoch(once, "auto")

        def own_towers() -> list[np.ndarray]:
            return epoch(once, "auto", limit=0)

        loading = seconds(lambda: [stored.load(reads["auto"], shared=True) for stored in once.values()])
        results = [side() for side in (sequential, auto, own_towers)]
        if any(not np.array_equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True)):
            raise RuntimeError("Scores differ between models that share weights and models apart. Expected equal bits.")
        times = paired([sequential, auto, own_towers], repeats)
        held = {p.data_ptr(): p.nbytes for stored in once.values() for p in stored.parameters.values()}
        sizes = sum(p.nbytes for stored in once.values() for p in stored.parameters.values()), sum(held.values())
        if max(reads["auto"].values()) > 1:
            raise RuntimeError(f"Files were read more than once: {dict(reads['auto'])}. Expected once each.")
    values = (len(rows), repeats, times[sequential], times[auto], times[own_towers], loading, *sizes)
    row = dict(zip(FIELDS, values, strict=True))
    row |= {"ratio": row["auto_s"] / row["sequential_s"], "ratio_scoring": row["auto_s"] / row["own_towers_s"]}
    row |= {"ratio_bytes": row["once_bytes"] / row["apart_bytes"], "files": len(reads["auto"])}
    return row | {"reads_an_epoch": reads["sequential"].total() // (repeats + 1)}


def _read(path: Path, reads: Counter) -> dict[str, Tensor]:
    reads[path.stem] += 1
    return load_tensors(path)
