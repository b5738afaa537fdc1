"""Features of the clean frames that FCA compares with: encoded without a graph, or read from a cache on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_modules.feature_cache import FeatureCache
from lightning_modules.intervals import mean_draws, mean_interval, percentiles
from lightning_modules.losses import fca_distances
from lightning_modules.metrics import Estimate, Scores
from lightning_modules.prompts import Prompt

FEATURES = 1  # raised when the features of the same frame could change


def fca_tokens(source: Any, visual: Any) -> Tensor:
    """Return the tokens FCA compares: all the LLM is given; under `official` the query tokens only (docs/method.md)."""
    return visual.tokens[:, : visual.n_query] if source.official else visual.tokens


@torch.no_grad()
def encode_clean(source: Any, frames: Tensor, questions: Sequence[str]) -> Tensor:
    """FCA's reference of clean frames (B, 3, S, S): tokens (B, T, D), no graph."""
    return fca_tokens(source, source.encode_image(frames, questions))


class CachedFeatures:
    """`encode_clean` of ONE source model through a cache: only frames not seen before are encoded.

    Tokens come in the cache's dtype whether they were read or just made, so that a resumed run sees what an
    uninterrupted one sees, and so that `losses.fca_distances` allows for that dtype's rounding.

    The key is the sha256 of everything the tokens depend on. Its `picture` is the sha256 of the clean frame itself, as
    the model is given it: image contents, augmentation (flip and crop box), frame, pad and border are in its pixels.
    So no (epoch, id) needs to reach the step, an edited image or another transform can never be stale, and two draws
    that round to one crop box, or two rows about one image, share an entry. It costs 0.4 ms a 224 px frame.

    Args:
        cache: where features are kept; several sources may share it.
        identity: called once, gives what names the model: its fingerprint, name, dtype and options.
    """

    def __init__(self, cache: FeatureCache, identity: Callable[[], Mapping[str, Any]]) -> None:
        self.cache, self._identity = cache, identity
        self._named: dict[str, Any] | None = None
        self.asked, self.hits = 0, 0

    def __call__(self, source: Any, frames: Tensor, questions: Sequence[str]) -> Tensor:
        """Return what `encode_clean` does, in the cache's dtype."""
        keys = self.keys(source, frames, questions)
        known = self.cache.get(keys)
        self.asked, self.hits = self.asked + len(keys), self.hits + sum(key in known for key in keys)
        missing = {key: i for i, key in enumerate(keys) if key not in known}  # a picture twice is encoded once
        if missing:
            rows = list(missing.values())
            fresh = encode_clean(source, frames[rows], [questions[i] for i in rows])
            known |= dict(zip(missing, self.cache.put(list(missing), fresh), strict=True))
        return torch.stack([known[key] for key in keys]).to(frames.device)

    def keys(self, source: Any, frames: Tensor, questions: Sequence[str]) -> list[str]:
        """One key per frame."""
        shared = self._shared(source, frames)
        texts = questions if _reads_text(source) else [""] * len(frames)
        parts = zip(frames.detach().cpu().contiguous(), texts, strict=True)
        named = [{**shared, "picture": _sha256(frame), "question": text} for frame, text in parts]
        return [hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest() for key in named]

    def _shared(self, source: Any, frames: Tensor) -> dict[str, Any]:
        if self._named is None:
            versions = {"features": FEATURES, "torch": torch.__version__, "transformers": version("transformers")}
            self._named = {**self._identity(), **versions}
        template = repr(getattr(source, "template", None)) if _reads_text(source) else ""
        weights = {"official": source.official, "weights": str(source.dtype), "template": template}
        return self._named | weights | {"frames": str(frames.dtype), "numerics": _numerics(frames.device)}

    def report(self) -> str:
        """One line: how many were found, where."""
        share = self.hits / max(1, self.asked)
        return f"Clean features: {self.hits:,} of {self.asked:,} ({share:.0%}) came from '{self.cache.folder}'."


def _reads_text(source: Any) -> bool:
    """Say whether features depend on the question; where a model does not say, they may."""
    return getattr(getattr(source, "connector", None), "reads_text", True)


def _numerics(device: torch.device) -> str:
    """Name what rounds differently by more than FCA's tolerance: the kind of device, autocast, TF32."""
    cast = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
    return f"{device.type} {cast} {torch.get_float32_matmul_precision()}"


def _sha256(frame: Tensor) -> str:
    """Hash shape and values of a frame (3, S, S) on the CPU."""
    digest = hashlib.sha256(str(tuple(frame.shape)).encode())
    digest.update(frame.numpy().data)
    return digest.hexdigest()


DRIFT_ROWS = 64  # a read-out needs no more, and each costs two passes through the vision tower
DRIFTS = ("drift", "drift_relative")


class FeatureDrift(nn.Module):
    """The distance between a model's visual tokens with the prompt and without it, sample by sample.

    It stands among the inputs of `score_inputs` as one that is not answered but measured: its record has the ids of
    the samples `ids` and two columns instead of candidates, the mean L2 distance a token, and the same over
    the mean norm of the clean tokens (comparable between connectors).
    """

    def __init__(self, prompt: Prompt, ids: Collection[str]) -> None:
        super().__init__()
        self.prompt, self.ids = prompt, ids

    @property
    def image_size(self) -> int:
        return self.prompt.image_size

    def measure(self, mllm: Any, batch: Any) -> Scores:
        images = batch.images.to(mllm.device)
        moved = encode_clean(mllm, self.prompt(images), batch.questions)  # (B, T, D)
        clean = encode_clean(mllm, self.prompt.blank(images), batch.questions)
        table = torch.stack([fca_distances(moved, clean, relative=kind) for kind in (False, True)], 1)  # (B, 2)
        return Scores(list(batch.ids), batch.labels.numpy(), table.float().cpu().numpy(), list(batch.groups))


def drift_metrics(record: Scores) -> dict[str, Estimate]:
    """`drift` and `drift_relative`: means over samples with bootstrap intervals, over units if there are any."""
    columns = record.scores.astype(float).T
    n, units = len(record.ids), record.unit_numbers
    kind = "bootstrap" if units is None else "bootstrap over units"

    def interval(values: np.ndarray) -> tuple[float, float]:
        return mean_interval(values) if units is None else percentiles(mean_draws(values, units))

    return {
        metric: Estimate(float(values.mean()), *interval(values), kind, n)
        for metric, values in zip(DRIFTS, columns, strict=True)
    }
