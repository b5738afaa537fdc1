"""TransferCallback: at every validation epoch, what does the current prompt do to every target?"""

from __future__ import annotations

import copy
import gc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch

from lightning_modules.artefact import prompt_sha256
from lightning_modules.controls import CONTROLS, SCORER, Control, ControlStore, all_controls, write_scores
from lightning_modules.evaluation import ModelSpec, gather_scores, score_in_process, score_inputs
from lightning_modules.metrics import Scores, paired_gain, primary_metric, task_metrics
from lightning_modules.prompts import Prompt
from lightning_modules.records import ResultLog

RESIDENCIES = ("sequential", "keep", "process")


class TransferCallback(L.Callback):
    """Scores the source and every target on a fixed sub-sample, with the prompt and with every control.

    Controls are computed once and stored (`ControlStore`); each epoch repeats only the prompted half. Rows go to
    `results.jsonl` with fsync; metrics are logged as `val/<metric>/<mllm>`, `val/gain/<control>/<mllm>` and
    `val/gain/<control>/mean_select` (mean over targets of role `select`; held-out targets never enter it).
    Under DDP each rank scores its own share of the samples, each sample once. Sanity checks and partial validations
    (Lightning #19549: one batch after a mid-epoch resume) are never scored.

    Args:
        source: the module's first source, already resident; scored as role `source`.
        targets: what to load for scoring.
        log: where rows go. store: where control scores are kept.
        datamodule: rows, images and candidates.
        frame, pad: geometry of the controls.
        context: the row fields that are constant in the run (run seed method source official bounds).
        n, n_test: sizes of the fixed sub-samples (None: all).
        residency: `sequential` (load one target at a time), `keep`, or `process` (each in its own process).
        scores_folder: per-sample scores of the last scoring of each split go here as npz.
    """

    def __init__(
        self,
        source: ModelSpec,
        targets: Sequence[ModelSpec],
        log: ResultLog,
        store: ControlStore,
        datamodule: Any,
        *,
        frame: int,
        pad: int,
        context: dict,
        n: int | None = None,
        n_test: int | None = None,
        residency: str = "sequential",
        scores_folder: Path | None = None,
    ) -> None:
        if residency not in RESIDENCIES:
            raise ValueError(f"Unknown residency '{residency}'. Available: {', '.join(RESIDENCIES)}.")
        self.source, self.targets, self.results, self.store = source, list(targets), log, store
        self.datamodule, self.frame, self.pad, self.context = datamodule, frame, pad, context
        self.sizes = {"val": n, "test": n_test}
        self.residency, self.scores_folder = residency, scores_folder
        self.metric = primary_metric(datamodule.task)
        self.colour: dict[str, Control] = {}  # the constant border chosen for each model on validation
        self.extra_inputs: dict[str, Prompt] = {}  # e.g. png: further prompts scored on test
        self.latest: dict[str, dict[str, dict[str, Scores]]] = {}  # split -> mllm -> input -> record
        self._kept: dict[str, Any] = {}
        self._batches = 0

    # ---- when ------------------------------------------------------------------------------------------------------
    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._batches = 0

    def on_validation_batch_end(self, *_: Any, **__: Any) -> None:
        self._batches += 1

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        expected = sum(trainer.num_val_batches)
        if self._batches != expected:
            print(f"Transfer curve: skipped a partial validation ({self._batches} of {expected} batches).")
            return
        self._score_and_log(pl_module, "val")

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._score_and_log(pl_module, "test")

    def _score_and_log(self, module: L.LightningModule, split: str) -> None:
        trainer = module.trainer
        metrics = self.score_split(module, split, trainer.current_epoch, trainer.global_step)
        module.log_dict(metrics, sync_dist=trainer.world_size > 1)  # every rank holds the same gathered values

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._kept.clear()

    # ---- what ------------------------------------------------------------------------------------------------------
    def score_split(self, module: Any, split: str, epoch: int, step: int) -> dict[str, float]:
        """Score source and targets, append rows, return the metrics to log."""
        prompts = {"prompt": module.prompt, **(self.extra_inputs if split == "test" else {})}
        self.latest[split] = {}
        logged: dict[str, float] = {}
        for spec in (self.source, *self.targets):
            records = self._score_model(spec, module, split, prompts)
            self.latest[split][spec.name] = records
            logged |= self._summarise(spec, split, records)
            self._record(spec, split, records, prompts, epoch, step)
        return logged | self._mean_select(split, logged)

    def _score_model(
        self, spec: ModelSpec, module: Any, split: str, prompts: Mapping[str, Prompt]
    ) -> dict[str, Scores]:
        wanted = self._controls(spec, split)
        key = self._store_key(spec, split)
        known = {control: self.store.load(control, **key) for control in wanted}
        todo = _agree([control for control, scores in known.items() if scores is None])
        inputs = {name: (prompt.image_size, prompt) for name, prompt in prompts.items()}
        inputs |= {str(wanted.index(control)): (control.image_size, control) for control in todo}
        fresh = gather_scores(self._run(spec, module, split, inputs))
        for control in todo:
            known[control] = fresh[str(wanted.index(control))]
            if module.global_rank == 0:
                self.store.save(known[control], control, **key)
        if split == "val":
            self.colour[spec.name] = self._best_colour(known)
        chosen = {c.name: s for c, s in known.items() if c.name != "constant" or c == self.colour.get(spec.name)}
        return {name: chosen[name] for name in CONTROLS if name in chosen} | {name: fresh[name] for name in prompts}

    def _controls(self, spec: ModelSpec, split: str) -> list[Control]:
        """All of them on validation; on test only the constant colour that validation chose."""
        every = all_controls(self.frame, self.pad)
        if split == "val":
            return every
        if spec.name not in self.colour:
            self._choose_colour(spec)
        return [c for c in every if c.name != "constant" or c == self.colour.get(spec.name)]

    def _choose_colour(self, spec: ModelSpec) -> None:
        key = self._store_key(spec, "val")
        known = {c: self.store.load(c, **key) for c in all_controls(self.frame, self.pad)}
        if all(scores is not None for scores in known.values()):
            self.colour[spec.name] = self._best_colour(known)

    def _best_colour(self, known: Mapping[Control, Scores]) -> Control:
        constants = [control for control in known if control.name == "constant"]
        return max(constants, key=lambda control: task_metrics(self.datamodule.task, known[control])[self.metric].value)

    def _store_key(self, spec: ModelSpec, split: str) -> dict:
        return {
            "model": spec.fingerprint(), "mllm": spec.name, "official": spec.official, "dtype": spec.dtype,
            "data": self.datamodule.fingerprint(split, self.sizes[split]),
        }  # fmt: skip

    def _run(self, spec: ModelSpec, module: Any, split: str, inputs: dict) -> dict[str, Scores]:
        where = {"split": split, "n": self.sizes[split], "shard": (module.global_rank, module.trainer.world_size)}
        if spec is self.source:
            return score_inputs(module.sources[0], self.datamodule, inputs, **where)
        if self.residency == "process":
            alone = {
                name: (size, copy.deepcopy(to_frames).cpu() if isinstance(to_frames, Prompt) else to_frames)
                for name, (size, to_frames) in inputs.items()
            }
            plain = self.datamodule.with_image_size(self.datamodule.image_size)
            return score_in_process(
                spec, plain, alone, device=str(module.device), threads=torch.get_num_threads(), **where
            )
        model = self._kept.get(spec.name) or spec.load(module.device)
        if self.residency == "keep":
            self._kept[spec.name] = model
        scores = score_inputs(model, self.datamodule, inputs, **where)
        del model
        if self.residency == "sequential":
            _release_memory()
        return scores

    # ---- records ---------------------------------------------------------------------------------------------------
    def _summarise(self, spec: ModelSpec, split: str, records: Mapping[str, Scores]) -> dict[str, float]:
        values = {
            f"{split}/{name}/{spec.name}": estimate.value
            for name, estimate in task_metrics(self.datamodule.task, records["prompt"]).items()
        }
        for control in (name for name in CONTROLS if name in records):
            gain = paired_gain(self.metric, records["prompt"], records[control]).value
            values[f"{split}/gain/{control}/{spec.name}"] = gain
        return values

    def _mean_select(self, split: str, logged: Mapping[str, float]) -> dict[str, float]:
        chosen = [spec.name for spec in self.targets if spec.role == "select"]
        means = {}
        for control in CONTROLS if chosen else ():
            gains = [logged[key] for name in chosen if (key := f"{split}/gain/{control}/{name}") in logged]
            if len(gains) == len(chosen):
                means[f"{split}/gain/{control}/mean_select"] = sum(gains) / len(gains)
        return means

    def _record(
        self, spec: ModelSpec, split: str, records: Mapping, prompts: Mapping[str, Prompt], epoch: int, step: int
    ) -> None:
        if not _is_rank_zero():
            return
        digest = {name: prompt_sha256(prompt.delta) for name, prompt in prompts.items()}
        common = self.context | {
            "epoch": epoch, "step": step, "mllm": spec.name, "role": spec.role, "data": self.datamodule.name,
            "split": split, "group": "", "model_fp": spec.fingerprint(), "dtype": spec.dtype, "scorer": SCORER,
            "data_fp": self.datamodule.fingerprint(split, self.sizes[split]),
        }  # fmt: skip
        rows = []
        for name, record in records.items():
            kind = "control" if name in CONTROLS else split
            for metric, value in task_metrics(self.datamodule.task, record).items():
                own = {"kind": kind, "input": name, "prompt": digest.get(name), "metric": metric}
                rows.append(common | own | value._asdict())
            if self.scores_folder is not None:
                self.scores_folder.mkdir(parents=True, exist_ok=True)
                write_scores(self.scores_folder / f"{split}_{spec.name}_{name}.npz", record)
        self.results.append(rows)


def _is_rank_zero() -> bool:
    dist = torch.distributed
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


def _agree(value: Any) -> Any:
    """Rank 0's value on every rank: a cache entry may appear between two ranks' looks."""
    dist = torch.distributed
    if not (dist.is_available() and dist.is_initialized()):
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def _release_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
