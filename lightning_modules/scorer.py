"""PromptScorer: any MLLM, on one split, with prompts and with every control; records kept, rows made."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import torch

from datamodules.sampling import distributed_rank
from lightning_modules.backoff import RowLimit, free_memory
from lightning_modules.code_version import code_version, library_versions
from lightning_modules.controls import Control, ControlStore, all_controls, templates_digest
from lightning_modules.evaluation import ModelSpec, gather_scores, score_in_process, score_inputs
from lightning_modules.features import DRIFT_ROWS, FeatureDrift
from lightning_modules.metrics import Scores, in_common, point, primary_metric
from lightning_modules.prompts import Prompt
from lightning_modules.ranks import GpuPool, from_rank_zero, is_rank_zero, other_gpus
from lightning_modules.tower_features import TowerFeatures
from lightning_modules.vocabulary import CONTROLS
from model_zoo.registry import is_served

RESIDENCIES = ("sequential", "keep", "process")
FIRST_ROUND, FINALISTS = 64, 6  # all 27 colours compete on the first 64 validation rows, the best 6 on all of them
LARGE = 2**28  # bytes of weights from which a collection of garbage between models pays


class PromptScorer:
    """Scores models on the fixed sub-samples of a data set.

    Controls never change: they are computed once and stored; the constant border is the best of 27 colours on the
    model's validation sub-sample (in two rounds, see `FIRST_ROUND`), also when test is scored. Under torch.distributed
    each rank scores its own share of the samples, each sample once, and every rank returns the joined record.

    Args:
        datamodule: rows, images, candidates and fingerprints.
        store: where control scores are kept.
        frame, pad: geometry of the controls.
        sizes: split -> size of the fixed sub-sample (None: all).
        controls: which of `CONTROLS` to score.
        residency: `sequential` (load one model at a time), `keep`, or `process` (each in a process of its own, on a GPU
            of its own where there are several).
        device: where models run.

    Attributes:
        towers: features of batches that several models, or one model twice, would encode alike; not used by residency
            `process`. Whoever starts another round of prompts clears it, to have the memory back.
    """

    def __init__(
        self,
        datamodule: Any,
        store: ControlStore,
        *,
        frame: int,
        pad: int,
        sizes: Mapping[str, int | None],
        controls: tuple[str, ...] = CONTROLS,
        residency: str = "sequential",
        device: torch.device | str = "cpu",
    ) -> None:
        if residency not in RESIDENCIES:
            raise ValueError(f"Unknown residency '{residency}'. Available: {', '.join(RESIDENCIES)}.")
        self.datamodule, self.store, self.sizes = datamodule, store, dict(sizes)
        self.controls = [control for control in all_controls(frame, pad) if control.name in controls]
        self.residency, self.device = residency, device
        self.metric = primary_metric(datamodule.task)
        self.colours: dict[str, Control] = {}  # model -> its best constant border on validation
        self.drifts: dict[tuple[str, str], Scores] = {}  # (split, model) -> how far `prompt` moves its features
        self.limits: dict[str, RowLimit] = {}  # model -> how many rows it takes at a time
        self.towers = TowerFeatures()
        self._kept: dict[str, Any] = {}
        self._gpus = GpuPool()

    def score(
        self, spec: ModelSpec, split: str, prompts: Mapping[str, Prompt], *, resident: Any = None
    ) -> dict[str, Scores]:
        """Records of one model: every control (the chosen constant only) and every prompt, by input name.

        resident: the model itself where it is already loaded (the source during training).
        """
        if split != "val" and "constant" in {c.name for c in self.controls} and spec.name not in self.colours:
            self.score(spec, "val", {}, resident=resident)  # chooses the colour; stored, so at most once
        # Other splits score the colour chosen on val, never all 27: a best of test would be chosen by its answers.
        constants = self._finalists(spec, resident) if split == "val" else [self.colours.get(spec.name)]
        wanted = [c for c in self.controls if c.name != "constant" or c in constants]
        known = self._score_inputs(spec, split, self.sizes[split], wanted, prompts, resident)
        # Before any test row is scored, so that the strongest control is fixed without looking at test.
        if split == "val" and "constant" in {c.name for c in wanted}:
            self.colours[spec.name] = self._best_colour({c: known[c] for c in wanted if c.name == "constant"})
        chosen = {c.name: known[c] for c in wanted if c.name != "constant" or c == self.colours[spec.name]}
        # In the order of CONTROLS, whatever the store already had.
        return {name: chosen[name] for name in CONTROLS if name in chosen} | {name: known[name] for name in prompts}

    def score_all(
        self, specs: Sequence[ModelSpec], split: str, prompts: Mapping[str, Prompt]
    ) -> Iterator[tuple[ModelSpec, dict[str, Scores]]]:
        """`score` of each model in order; with residency `process` as many at a time as there are GPUs to spare."""
        gpus = other_gpus(self.device) if self.residency == "process" else []
        if len(gpus) < 2:
            for spec in specs:
                yield spec, self.score(spec, split, prompts)
            return
        with ThreadPoolExecutor(len(gpus)) as pool:  # threads only wait for their processes
            yield from zip(specs, pool.map(lambda spec: self.score(spec, split, prompts), specs), strict=True)

    def _finalists(self, spec: ModelSpec, resident: Any) -> list[Control]:
        """The constant borders worth scoring on the whole validation sub-sample."""
        constants = [control for control in self.controls if control.name == "constant"]
        if min(self.sizes["val"] or self.datamodule.n("val"), self.datamodule.n("val")) <= FIRST_ROUND:
            return constants
        known = self._score_inputs(spec, "val", FIRST_ROUND, constants, {}, resident)
        return sorted(constants, key=lambda control: -self._value(known[control]))[:FINALISTS]

    def _value(self, scores: Scores) -> float:
        return point(self.metric, scores)

    def _score_inputs(
        self,
        spec: ModelSpec,
        split: str,
        n: int | None,
        wanted: list[Control],
        prompts: Mapping[str, Prompt],
        resident: Any,
    ) -> dict[Any, Scores]:
        key = self.store_key(spec, split, n)
        known = {control: self.store.load(control, **key) for control in wanted}
        # Rank 0 says what is missing: ranks that saw different files would score different inputs and wait for ever.
        todo = from_rank_zero([control for control, scores in known.items() if scores is None])
        # Prompts change with every epoch and are never stored.
        inputs: dict[Any, Any] = {name: (prompt.image_size, prompt) for name, prompt in prompts.items()}
        inputs |= {control: (control.image_size, control) for control in todo}
        # Measured in the same visit: loading the model again would cost more than the two passes.
        if "prompt" in prompts and not is_served(spec.name):
            drift = FeatureDrift(prompts["prompt"])
            inputs["drift"] = (drift.image_size, drift)
        fresh = gather_scores(self._run(spec, split, n, inputs, resident)) if inputs else {}
        if "drift" in fresh:
            self.drifts[split, spec.name] = fresh.pop("drift")
        for control in todo:
            # The joined record is the same on every rank; one of them writes. A server is asked for the rest again.
            if is_rank_zero() and not fresh[control].unanswered:
                self.store.save(fresh[control], control, **key)
        unit_of = self.datamodule.units(split)  # stored records may be older than units, so all are told here
        if (split, spec.name) in self.drifts:
            self.drifts[split, spec.name] = self.drifts[split, spec.name].with_units(unit_of)
        records = in_common(cast(dict[Any, Scores], known | fresh))
        return {name: scores.with_units(unit_of) for name, scores in records.items()}

    def measure_drift(self, spec: ModelSpec, split: str, prompt: Prompt) -> None:
        """Put a model into `drifts` that is not scored on the split: its features are read, no label and no answer."""
        drift = FeatureDrift(prompt)
        inputs = {"drift": (drift.image_size, drift)}
        record = gather_scores(self._run(spec, split, DRIFT_ROWS, inputs, None))["drift"]
        self.drifts[split, spec.name] = record.with_units(self.datamodule.units(split))

    def _best_colour(self, known: Mapping[Control, Scores]) -> Control:
        return max(known, key=lambda control: self._value(known[control]))

    def store_key(self, spec: ModelSpec, split: str, n: int | None) -> dict:
        """What a stored score depends on, apart from the control."""
        return {
            "model": spec.fingerprint(),
            "mllm": spec.name,
            "official": spec.official,
            "dtype": spec.precision,
            "options": repr(sorted(spec.options.items())),
            "data": self.datamodule.fingerprint(split, n),
            "data_name": self.datamodule.name,
            "templates": templates_digest(),
            "code": code_version(),
            "libraries": library_versions(),
        }

    def _run(self, spec: ModelSpec, split: str, n: int | None, inputs: dict, resident: Any) -> dict[Any, Scores]:
        limit = self.limits.setdefault(f"{spec.name} {spec.precision}", RowLimit())
        where: dict[str, Any] = {"split": split, "n": n, "shard": distributed_rank(), "limit": limit}
        if resident is not None:
            with self.towers.lent_to(resident):
                return score_inputs(resident, self.datamodule, inputs, **where)
        if self.residency == "process":
            alone = {
                name: (size, copy.deepcopy(to_frames).cpu() if isinstance(to_frames, torch.nn.Module) else to_frames)
                for name, (size, to_frames) in inputs.items()
            }
            plain = self.datamodule.with_image_size(self.datamodule.image_size)  # a copy without the trainer
            with self._gpus.lent(self.device) as gpu:
                where |= {"device": "cuda:0" if gpu else str(self.device), "threads": torch.get_num_threads()}
                return score_in_process(spec, plain, alone, gpu=gpu, **where)
        model = self._kept.get(spec.name) or spec.load(self.device)
        if self.residency == "keep":
            self._kept[spec.name] = model
        with self.towers.lent_to(model):
            scores = score_inputs(model, self.datamodule, inputs, **where)
        large = sum(p.numel() * p.element_size() for p in model.parameters()) > LARGE
        del model
        if self.residency == "sequential" and large:
            free_memory()
        return scores

    def to_frames(self, spec: ModelSpec, names: Iterable[str], prompts: Mapping[str, Prompt]) -> dict[str, tuple]:
        """Input name -> (image size, function to frames): prompts, and controls with the colour already chosen."""
        known: dict[str, Any] = {control.name: control for control in self.controls if control.name != "constant"}
        known |= {"constant": self.colours.get(spec.name)} | dict(prompts)
        return {name: (known[name].image_size, known[name]) for name in names}

    def release(self) -> None:
        """Let go of models kept loaded."""
        self._kept.clear()
        self.towers.clear()
        free_memory()
