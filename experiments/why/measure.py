"""One pass over the validation pictures for each model: features and scores, clean and with every prompt."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from experiments.report.load import CellKey
from experiments.why.frames import occluded
from experiments.why.numbers import relative_distance
from experiments.why.swept import Swept
from lightning_modules.backoff import RowLimit, in_pieces, pick_rows
from lightning_modules.metrics import Scores, merge_scores
from lightning_modules.prompts import Prompt
from lightning_modules.tower_features import TowerFeatures, tower_digest

DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""The blocks of a tower that are looked at: the first, those at a quarter, half and three quarters, the last."""
TOKEN_GROUPS = 16
"""CKA reads at most so many tokens a picture: neighbours are averaged where there are more."""
FULL = "full"


class Piece(NamedTuple):
    """Some rows of a batch, by their places in it; the form `in_pieces` cuts. images: at the frame's full size."""

    ids: list[str]
    images: Tensor
    places: list[int]


class Measured(NamedTuple):
    """One model on N pictures. full: clean scores. prompted: by cell. tokens: (N, D) of clean pictures.

    drift: cell -> (2, 6) mean relative distance from the clean full picture and from the prompt's own clean frame, at
    DEPTHS of the tower and at the visual tokens; NaN where a block did not run. border: the same of the black border
    (None where no prompt has one), from the full picture: (6,).
    occlusion: (cell, segment) -> (change of the right answer's log-probability in nats, change of accuracy).
    """

    full: Scores
    prompted: dict[CellKey, Scores]
    tokens: np.ndarray
    drift: dict[CellKey, np.ndarray]
    border: np.ndarray | None
    occlusion: dict[tuple[CellKey, str], tuple[float, float]]


# ---- towers ----------------------------------------------------------------------------------------------------------
def tower_blocks(mllm: Any) -> list[nn.Module]:
    """The vision tower's blocks in order: its parts, or the longest row of modules in it (the stages of a CNN).

    Where a model names no tower, the longest row outside its language model.
    """
    parts = list(mllm.tower_parts())
    if len(parts) > 1:
        return parts
    language = {id(module) for part in mllm.language_parts() if part is not None for module in part.modules()}
    rows = [
        list(module.children())
        for root in (parts or [mllm])
        for module in root.modules()
        if isinstance(module, nn.ModuleList | nn.Sequential) and id(module) not in language
    ]
    return max(rows, key=len, default=parts)


def at_depths(blocks: list[nn.Module]) -> list[nn.Module]:
    return [blocks[round(depth * (len(blocks) - 1))] for depth in DEPTHS] if blocks else []


@contextmanager
def watching(blocks: list[nn.Module], rows: int) -> Iterator[dict[int, Tensor]]:
    """Inside, what these blocks return is kept: place in `blocks` -> (rows, values)."""
    seen: dict[int, Tensor] = {}

    def keep(places: list[int], _module: Any, _inputs: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple | list) else getattr(output, "last_hidden_state", output)
        # Towers that pack all pictures in one row keep them one after the other, all of one size here.
        if isinstance(first, Tensor) and first.numel() % rows == 0:
            seen.update(dict.fromkeys(places, first.float().reshape(rows, -1)))

    hooks = [
        block.register_forward_hook(partial(keep, [i for i, other in enumerate(blocks) if other is block]))
        for block in {id(block): block for block in blocks}.values()
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


class Seen(NamedTuple):
    """layers: place in DEPTHS -> (B, values), empty where the tower was not watched. visual: as `encode_image`."""

    layers: dict[int, Tensor]
    visual: Any


def look(mllm: Any, frames: Tensor, questions: list[str], blocks: list[nn.Module]) -> Seen:
    """Encode frames; `blocks` are watched, where there are any, and then the tower does run."""
    with watching(blocks, len(frames)) as layers:
        visual = mllm.encode_image(frames, questions)
        if blocks and not layers and mllm.tower_memory is not None:  # these very pixels were kept: run it again
            memory, mllm.tower_memory = mllm.tower_memory, None
            try:
                visual = mllm.encode_image(frames, questions)
            finally:
                mllm.tower_memory = memory
    return Seen(layers, visual)


def distances(moved: Seen, clean: Seen) -> Tensor:
    """(B, 6) relative distances at DEPTHS and at the visual tokens; NaN where a block was not seen."""
    tokens = relative_distance(moved.visual.tokens, clean.visual.tokens)
    nothing = torch.full_like(tokens, torch.nan)
    layers = [
        relative_distance(moved.layers[i], clean.layers[i]) if i in moved.layers and i in clean.layers else nothing
        for i in range(len(DEPTHS))
    ]
    return torch.stack([*layers, tokens], 1).cpu()


# ---- a model ---------------------------------------------------------------------------------------------------------
class Towers:
    """What models with the same tower share: its features, and how far prompts move them (which is looked at once)."""

    def __init__(self) -> None:
        self.features = TowerFeatures()
        self._drifts: dict[tuple, dict[Any, np.ndarray]] = {}

    def known(self, mllm: Any) -> tuple[tuple | None, dict[Any, np.ndarray]]:
        """(key, drifts): the key is None for a model that names no tower."""
        parts = mllm.tower_parts()
        key = (tower_digest(parts), mllm.mean, mllm.std, mllm.image_size) if parts else None
        return key, self._drifts.get(key, {}) if key else {}

    def keep(self, key: tuple | None, drifts: dict[Any, np.ndarray]) -> None:
        if key is not None:
            self._drifts.setdefault(key, drifts)


class Pass:
    """A model's measurement as it grows, picture by picture.

    occlude: cells whose frames are also scored with parts blacked out, on the pictures `ids`.
    """

    def __init__(self, mllm: Any, swept: Swept, watched: bool, occlude: Collection[CellKey], ids: Collection[str]):
        self.mllm, self.swept, self.occlude, self.ids = mllm, swept, occlude, ids
        self.blocks = at_depths(tower_blocks(mllm)) if watched else []
        self.candidates = swept.parts.datamodule.candidates
        self.scores: dict[Any, list[Scores]] = {}
        self.tokens: list[np.ndarray] = []
        self.drifts: dict[Any, list[Tensor]] = {}

    @torch.inference_mode()
    def __call__(self, groups: Mapping[int, Any], piece: Piece) -> None:
        """Adds the rows of a piece. groups: image size -> its batch."""
        rows = {size: pick_rows(batch, piece.places) for size, batch in groups.items()}
        found: dict[str, list] = {"scores": [], "drifts": []}  # counts only when the whole piece went through
        batch = rows[self.swept.frame]
        full = self._look(batch, batch.images)
        found["scores"].append((FULL, self._score(batch, batch.images, full)))
        clean: dict[tuple, Seen] = {}
        for cell, prompt in self.swept.prompts.items():
            batch = rows[prompt.image_size]
            images = batch.images.to(self.mllm.device)
            if (key := blank_key(prompt)) not in clean:
                clean[key] = full if key == (FULL,) else self._look(batch, prompt.blank(images))
                if key != (FULL,):
                    found["drifts"].append((key, distances(clean[key], full)))
            frames = prompt(images)
            seen = self._look(batch, frames)
            found["scores"].append((cell, self._score(batch, frames, seen)))
            found["drifts"].append((cell, torch.stack([distances(seen, full), distances(seen, clean[key])], 1)))
            if cell in self.occlude and (few := [i for i, name in enumerate(batch.ids) if name in self.ids]):
                found["scores"] += self._occluded(cell, prompt, pick_rows(batch, few))
        for key, part in found["scores"]:
            self.scores.setdefault(key, []).append(part)
        for key, part in found["drifts"]:
            self.drifts.setdefault(key, []).append(part)
        tokens = full.visual.tokens.float().transpose(1, 2)
        pooled = F.adaptive_avg_pool1d(tokens, min(tokens.shape[-1], TOKEN_GROUPS))
        self.tokens.append(pooled.flatten(1).cpu().numpy())

    def _look(self, batch: Any, frames: Tensor) -> Seen:
        return look(self.mllm, frames.to(self.mllm.device), batch.questions, self.blocks)

    def _score(self, batch: Any, frames: Tensor, seen: Seen | None = None) -> Scores:
        frames, visual = frames.to(self.mllm.device), seen.visual if seen else None
        scores = self.mllm.score(frames, batch.questions, batch.candidates or self.candidates, visual=visual)
        return Scores(list(batch.ids), batch.labels.numpy(), scores.float().cpu().numpy(), list(batch.groups))

    def _occluded(self, cell: CellKey, prompt: Prompt, batch: Any) -> list[tuple[Any, Scores]]:
        images, delta, found = batch.images.to(self.mllm.device), prompt.delta.detach().clone(), []
        memory, self.mllm.tower_memory = self.mllm.tower_memory, None  # nobody else sees these frames
        try:
            for name, changed in occluded(prompt):
                prompt.delta.data.copy_(changed)
                found.append(((cell, name), self._score(batch, prompt(images))))
                prompt.delta.data.copy_(delta)
        finally:
            prompt.delta.data.copy_(delta)
            self.mllm.tower_memory = memory
        return found


def blank_key(prompt: Prompt) -> tuple:
    """Names the prompt's own clean frame; what is added to a picture has the full picture itself."""
    return (FULL,) if prompt.lowest < 0 else (prompt.kind, prompt.image_size, prompt.pad)


def batches(swept: Swept, n: int | None, name: str) -> Iterator[dict[int, Any]]:
    """Image size -> batch, of the same validation rows at every size that a prompt reads."""
    sizes = sorted({swept.frame, *(prompt.image_size for prompt in swept.prompts.values())})
    data = swept.parts.datamodule
    loaders = [data.with_image_size(size).loader("val", n=n, by_length=True) for size in sizes]
    bar = tqdm(zip(*loaders, strict=True), total=len(loaders[0]), desc=name, delay=2, leave=False, disable=None)
    for group in bar:
        yield dict(zip(sizes, group, strict=True))


def measure_model(
    mllm: Any, swept: Swept, towers: Towers, n: int | None, occlude: Collection[CellKey], ids: Collection[str]
) -> Measured:
    """Everything of one model. The prompts are on its device. Raises MemoryError where one picture does not fit."""
    key, known = towers.known(mllm)
    own = Pass(mllm, swept, not known, occlude, ids)
    limit = RowLimit()
    with towers.features.lent_to(mllm):
        for groups in batches(swept, n, mllm.name):
            batch = groups[swept.frame]
            piece = Piece(list(batch.ids), batch.images, list(range(len(batch.ids))))
            call: Callable[[Piece], None] = partial(own, groups)
            in_pieces(piece, call, limit, mllm)
    means = {name: torch.cat(parts).mean(0).numpy() for name, parts in own.drifts.items()}
    for name, mean in means.items():
        if name in known:
            mean[..., :-1] = known[name][..., :-1]
    towers.keep(key, means)
    scores = {name: merge_scores(parts) for name, parts in own.scores.items()}
    borders = [mean for name, mean in means.items() if not isinstance(name, CellKey)]
    return Measured(
        scores[FULL],
        {cell: scores[cell] for cell in swept.prompts},
        np.concatenate(own.tokens),
        {cell: means[cell] for cell in swept.prompts},
        np.mean(borders, 0) if borders else None,
        {key: occlusion_change(scores[key], scores[key[0]]) for key in scores if is_occluded(key)},
    )


# ---- occlusion -------------------------------------------------------------------------------------------------------
def is_occluded(key: Any) -> bool:
    return isinstance(key, tuple) and isinstance(key[0], CellKey)


def occlusion_change(without: Scores, whole: Scores) -> tuple[float, float]:
    """(nats, accuracy): without a segment minus with it, mean over the rows of `without`.

    nats: of the right answer's log-probability among the candidates, which moves where few answers flip.
    """
    place = {name: i for i, name in enumerate(whole.ids)}
    whole = whole.take(np.array([place[name] for name in without.ids]))
    nats = right_log_probability(without) - right_log_probability(whole)
    return float(nats.mean()), float((without.correct - whole.correct).mean())


def right_log_probability(scores: Scores) -> np.ndarray:
    """(N,) log of the softmax over the candidates at the right one."""
    from scipy.special import log_softmax

    return log_softmax(scores.scores.astype(np.float64), axis=1)[np.arange(len(scores.ids)), scores.labels]
