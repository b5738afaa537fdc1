"""PromptScorer: any MLLM, on one split, with prompts and with every control; records kept, rows made."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import torch

from datamodules.sampling import distributed_rank
from lightning_modules.backoff import RowLimit, free_memory
from lightning_modules.code_version import code_version, library_versions
from lightning_modules.controls import Control, ControlStore, all_controls, templates_digest
from lightning_modules.evaluation import ModelSpec, gather_scores, score_in_process, score_inputs
from lightning_modules.features import DRIFT_ROWS, FeatureDrift
from lightning_modules.frame_changes import Sent
from lightning_modules.label_mapping import fit_mapping, read_through, require_recognition, require_shared_candidates
from lightning_modules.metrics import Scores, in_common, point, primary_metric
from lightning_modules.prompts import Prompt
from lightning_modules.ranks import GpuPool, from_rank_zero, is_rank_zero, other_gpus
from lightning_modules.read_ahead import ReadAhead
from lightning_modules.tower_features import TowerFeatures
from lightning_modules.vocabulary import CONTROLS, read_sent
from model_zoo.registry import is_served

RESIDENCIES = ("sequential", "keep", "process")
FIRST_ROUND, FINALISTS = 64, 6  # all 27 colours compete on the first 64 validation rows, the best 6 on all of them


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
        order: names in the order in which `score_all` loads models; those not named come last.
        beside: which models are read while another one is scored, see `ReadAhead`.
        device: where models run.
        load: (spec, device) -> the model, in place of `spec.load(device)`.
        through: what every frame goes through before a model scores it (`frame_changes.Sent`), controls too; drifts
            are measured without.
        label_mapping: also read every record through a one-to-one map from classes to candidates, fitted on the same
            input's validation record (`label_mapping.py`). Recognition only.

    Attributes:
        mapped: (split, model) -> input -> the record as it reads through its map; empty without `label_mapping`.
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
        order: Sequence[str] = (),
        beside: Collection[tuple[str, str]] = (),
        device: torch.device | str = "cpu",
        load: Callable[[ModelSpec, Any], Any] | None = None,
        label_mapping: bool = False,
        through: Sequence[str] = (),
    ) -> None:
        if residency not in RESIDENCIES:
            raise ValueError(f"Unknown residency '{residency}'. Available: {', '.join(RESIDENCIES)}.")
        self.datamodule, self.store, self.sizes = datamodule, store, dict(sizes)
        self.controls = [control for control in all_controls(frame, pad) if control.name in controls]
        if label_mapping:
            require_recognition(datamodule.task)
        self.residency, self.device, self.label_mapping = residency, device, label_mapping
        read_sent(through)
        self.through = list(through)
        self.metric = primary_metric(datamodule.task)
        self.colours: dict[str, Control] = {}  # model -> its best constant border on validation
        self.drifts: dict[tuple[str, str], Scores] = {}  # (split, model) -> how far `prompt` moves its features
        self.mapped: dict[tuple[str, str], dict[str, Scores]] = {}
        self.limits: dict[str, RowLimit] = {}  # model -> how many rows it takes at a time
        self.towers = TowerFeatures()
        self._order = {name: place for place, name in enumerate(order)}
        self._models = ReadAhead(keep=residency == "keep", beside=beside, load=load)
        self._gpus = GpuPool()

    def score(
        self, spec: ModelSpec, split: str, prompts: Mapping[str, Prompt], *, resident: Any = None
    ) -> dict[str, Scores]:
        """Records of one model: every control (the chosen constant only) and every prompt, by input name.

        resident: the model itself where it is already loaded (the source during training).
        """
        try:
            return self._score(spec, split, prompts, resident)
        finally:
            self._models.let_go()

    def _score(self, spec: ModelSpec, split: str, prompts: Mapping[str, Prompt], resident: Any) -> dict[str, Scores]:
        if split != "val" and "constant" in {c.name for c in self.controls} and spec.name not in self.colours:
            self._score(spec, "val", {}, resident)  # chooses the colour; stored, so at most once
        # Other splits score the colour chosen on val, never all 27: a best of test would be chosen by its answers.
        constants = self._finalists(spec, resident) if split == "val" else [self.colours.get(spec.name)]
        wanted = [c for c in self.controls if c.name != "constant" or c in constants]
        known = self._score_inputs(spec, split, self.sizes[split], wanted, prompts, resident)
        # Before any test row is scored, so that the strongest control is fixed without looking at test.
        if split == "val" and "constant" in {c.name for c in wanted}:
            self.colours[spec.name] = self._best_colour({c: known[c] for c in wanted if c.name == "constant"})
        chosen = {c.name: known[c] for c in wanted if c.name != "constant" or c == self.colours[spec.name]}
        # In the order of CONTROLS, whatever the store already had.
        records = {name: chosen[name] for name in CONTROLS if name in chosen} | {name: known[name] for name in prompts}
        if self.label_mapping and prompts:
            require_shared_candidates(self.datamodule.rows(split), self.datamodule.name)
            # The maps of these very prompts: the last validation may have been another one's.
            fitted = records if split == "val" else self._score(spec, "val", prompts, resident)
            self.mapped[split, spec.name] = {
                name: read_through(record, fit_mapping(fitted[name])) for name, record in records.items()
            }
        return records

    def score_all(
        self, specs: Sequence[ModelSpec], split: str, prompts: Mapping[str, Prompt]
    ) -> Iterator[tuple[ModelSpec, dict[str, Scores]]]:
        """`score` of each model, handed out in the order of `specs`, whatever the order in which they are loaded.

        From the call on, the first one may be read. With residency `process` as many are scored at a time as there
        are GPUs to spare.
        """
        gpus = other_gpus(self.device) if self.residency == "process" else []
        if len(gpus) > 1:
            return self._score_side_by_side(specs, split, prompts, gpus)
        queue = sorted(specs, key=lambda spec: self._order.get(spec.name, len(self._order)))
        if self.residency != "process":
            self._models.expect(queue, self.device)
        return self._score_in_turn(specs, queue, split, prompts)

    def _score_in_turn(
        self, specs: Sequence[ModelSpec], queue: Sequence[ModelSpec], split: str, prompts: Mapping[str, Prompt]
    ) -> Iterator[tuple[ModelSpec, dict[str, Scores]]]:
        found: dict[str, dict[str, Scores]] = {}
        waiting = list(specs)
        try:
            for spec in queue:
                found[spec.name] = self._score(spec, split, prompts, None)
                while waiting and waiting[0].name in found:
                    first = waiting.pop(0)
                    yield first, found[first.name]
        finally:
            self._models.stop()

    def _score_side_by_side(
        self, specs: Sequence[ModelSpec], split: str, prompts: Mapping[str, Prompt], gpus: Sequence[str]
    ) -> Iterator[tuple[ModelSpec, dict[str, Scores]]]:
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
        inputs = {name: (size, self._sent(make)) for name, (size, make) in inputs.items()}
        # Measured in the same visit: loading the model again would cost more than the two passes.
        if "prompt" in prompts and not is_served(spec.name):
            drift = self._drift(prompts["prompt"], split, n)
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
        drift = self._drift(prompt, split, DRIFT_ROWS)
        inputs = {"drift": (drift.image_size, drift)}
        try:
            record = gather_scores(self._run(spec, split, DRIFT_ROWS, inputs, None))["drift"]
        finally:
            self._models.let_go()
        self.drifts[split, spec.name] = record.with_units(self.datamodule.units(split))

    def _drift(self, prompt: Prompt, split: str, n: int | None) -> FeatureDrift:
        """What measures a prompt's drift on the first rows of a sub-sample, as many on every rank."""
        rows = self.datamodule.subset(split, n)[: DRIFT_ROWS * distributed_rank()[1]]
        return FeatureDrift(prompt, {row.id for row in rows})

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
        } | ({"through": self.through} if self.through else {})

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
        model = self._models.get(spec, self.device)
        with self.towers.lent_to(model):
            return score_inputs(model, self.datamodule, inputs, **where)

    def to_frames(self, spec: ModelSpec, names: Iterable[str], prompts: Mapping[str, Prompt]) -> dict[str, tuple]:
        """Input name -> (image size, function to frames): prompts, and controls with the colour already chosen."""
        known: dict[str, Any] = {control.name: control for control in self.controls if control.name != "constant"}
        known |= {"constant": self.colours.get(spec.name)} | dict(prompts)
        return {name: (known[name].image_size, self._sent(known[name])) for name in names}

    def _sent(self, make: Callable) -> Callable:
        return Sent(make, self.through) if self.through else make

    def release(self) -> None:
        """Let go of models kept loaded."""
        self._models.let_go(also_kept=True)
        self.towers.clear()
        free_memory()
