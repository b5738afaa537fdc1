"""TransferCallback: at every validation epoch, what does the current prompt do to every target?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any

import lightning as L

from lightning_modules.controls import write_scores
from lightning_modules.evaluation import ModelSpec
from lightning_modules.metrics import Scores
from lightning_modules.prompts import Prompt
from lightning_modules.ranks import is_rank_zero
from lightning_modules.records import ResultLog
from lightning_modules.result_rows import score_rows, summarise
from lightning_modules.scorer import PromptScorer
from lightning_modules.vocabulary import CONTROLS, file_part


class TransferCallback(L.Callback):
    """Scores every source and every target with the prompt and every control, at validation epochs and at test.

    Rows go to `results.jsonl` with fsync; metrics are logged as `val/<metric>/<mllm>`, `val/gain/<control>/<mllm>` and
    `val/gain/<control>/mean_select` (mean over targets of role `select`; held-out targets never enter it).
    Sanity checks and partial validations (Lightning #19549: one batch after a mid-epoch resume) are never scored.

    Args:
        sources: the module's sources in their order, already resident; scored as role `source`.
        targets: what to load for scoring.
        scorer: how models are scored, on which samples.
        log: where rows go.
        context: the row fields that are constant in the run (run seed method source official bounds).
        scores_folder: per-sample scores of the last scoring of each split go here as npz.
        png: whether `all` models score `test_prompts`, or the sources (`source`) only.
        curves: whether held-out targets are scored at validations too, and not on test alone.
        drift_of: a target whose features' drift is measured at every validation, scored there or not.
    """

    def __init__(
        self,
        sources: Sequence[ModelSpec],
        targets: Sequence[ModelSpec],
        scorer: PromptScorer,
        log: ResultLog,
        *,
        context: dict,
        scores_folder: Path | None = None,
        png: str = "all",
        curves: bool = True,
        drift_of: str | None = None,
    ) -> None:
        self.sources, self.targets, self.scorer, self.results = list(sources), list(targets), scorer, log
        self.context, self.scores_folder, self.png, self.curves = context, scores_folder, png, curves
        self.drift_of = drift_of
        self.test_prompts: dict[str, Prompt] = {}  # further prompts scored on test, e.g. `png`
        self.latest: dict[str, dict[str, dict[str, Scores]]] = {}  # split -> mllm -> input -> record
        self.chosen: tuple[int, int] | None = None  # (epoch, step) of the prompt that is tested, where not the current
        self._batches = 0
        self._lent = ExitStack()  # the towers' memory, to the sources, while a split is read

    @property
    def models(self) -> list[ModelSpec]:
        """All that is scored, the sources first."""
        return [*self.sources, *self.targets]

    # ---- when ------------------------------------------------------------------------------------------------------
    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._batches = 0
        self._lend_towers(pl_module)

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._lend_towers(pl_module)

    def on_validation_batch_end(self, *_: Any, **__: Any) -> None:
        self._batches += 1

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        expected = sum(trainer.num_val_batches)
        if self._batches == expected and not trainer.sanity_checking:
            self._score_and_log(pl_module, "val")
        elif not trainer.sanity_checking:
            print(f"Transfer curve: skipped a partial validation ({self._batches} of {expected} batches).")
        self._take_back_towers()

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._score_and_log(pl_module, "test")
        self._take_back_towers()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._take_back_towers()
        if stage == "test":  # after a fit, models that are kept are wanted once more
            self.scorer.release()

    def _lend_towers(self, module: Any) -> None:
        """Let the sources' loss on the split, which comes first, leave its frames' features for the scores."""
        self._lent.close()
        for source in module.sources or ():
            self._lent.enter_context(self.scorer.towers.lent_to(source))

    def _take_back_towers(self) -> None:
        self._lent.close()
        self.scorer.towers.clear()  # the next split or prompt has other frames, and training needs the memory

    # ---- what ------------------------------------------------------------------------------------------------------
    def _score_and_log(self, module: Any, split: str) -> None:
        trainer = module.trainer
        current = (trainer.current_epoch, trainer.global_step)
        metrics = self.score_split(module, split, *(self.chosen or current if split == "test" else current))
        module.log_dict(metrics, sync_dist=trainer.world_size > 1)  # every rank holds the same gathered values

    def score_split(self, module: Any, split: str, epoch: int, step: int) -> dict[str, float]:
        """Score sources and targets, append rows, return the metrics to log."""
        self.scorer.device = module.device
        learned = {"prompt": module.result}
        prompts = learned | (self.test_prompts if split == "test" else {})
        self.latest[split] = {}
        logged: dict[str, float] = {}
        own = (
            (spec, self.scorer.score(spec, split, prompts, resident=model))
            for spec, model in zip(self.sources, module.sources, strict=True)
        )
        of_targets = prompts if self.png == "all" else learned
        targets = [t for t in self.targets if split == "test" or self.curves or t.role == "select"]
        for spec, records in chain(own, self.scorer.score_all(targets, split, of_targets)):
            self.latest[split][spec.name] = records
            logged |= summarise(self.scorer, spec.name, split, records)
            if is_rank_zero():
                context = self.context | {"epoch": epoch, "step": step}
                self.results.append(score_rows(self.scorer, spec, split, records, prompts, context))
                self._keep_scores(spec, split, records)
        for spec in self.targets:
            if split == "val" and spec.name == self.drift_of and spec not in targets:
                self.scorer.measure_drift(spec, split, module.result)
        return logged | self._mean_select(split, logged)

    def _mean_select(self, split: str, logged: Mapping[str, float]) -> dict[str, float]:
        chosen = [spec.name for spec in self.targets if spec.role == "select"]
        means = {}
        for control in CONTROLS if chosen else ():
            gains = [logged[key] for name in chosen if (key := f"{split}/gain/{control}/{name}") in logged]
            if len(gains) == len(chosen):
                means[f"{split}/gain/{control}/mean_select"] = sum(gains) / len(gains)
        return means

    def _keep_scores(self, spec: ModelSpec, split: str, records: Mapping[str, Scores]) -> None:
        if self.scores_folder is not None:
            self.scores_folder.mkdir(parents=True, exist_ok=True)
            for name, record in records.items():
                write_scores(self.scores_folder / f"{split}_{file_part(spec.name)}_{name}.npz", record)
