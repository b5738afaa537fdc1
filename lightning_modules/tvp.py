"""TVPModule: frozen source MLLMs, one learnable prompt, the task loss and the two transfer losses."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple, cast

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from lightning_modules.backoff import take_rows
from lightning_modules.draws import step_generator
from lightning_modules.features import encode_clean, fca_tokens
from lightning_modules.frame_changes import FrameChanges
from lightning_modules.gradients import SPSA, climbed, estimate_gradients_, total_norm
from lightning_modules.losses import fca_distances, tse_losses
from lightning_modules.optim import build_optimizer, build_schedule
from lightning_modules.prompts import Prompt
from lightning_modules.weight_noise import noisy_weights
from model_zoo.pool import POOL


class Losses(NamedTuple):
    """SUMS over a micro-batch, so that any split of the global batch adds up to the same loss.

    nats: negative log-likelihood of the answers. fca: feature distances. tse: minus the scaled cosines. anchor: feature
    distances of the anchors.
    """

    nats: Tensor
    fca: Tensor
    tse: Tensor
    anchor: Tensor


class TVPModule(L.LightningModule):
    """One update: g = d loss / d prompt with loss = sum(nats) / sum(tokens) + fca * mean + tse * mean + anchor * mean,
    over the GLOBAL batch (all ranks, all accumulated micro-batches), docs/method.md#losses.

    Args:
        prompt: what is learned; the only thing with gradients.
        load_sources: called once in `configure_model`, returns the frozen source MLLMs (several: an ensemble).
        load_anchors: called once if anchor != 0, returns frozen MLLMs that see the prompt and no answer: their visual
            tokens are kept where they are by a scale-free FCA (ours).
        load_clip: called once if tse != 0, returns a frozen `similarity(frames, captions)` scorer.
        clean_features: one `encode_clean` or `CachedFeatures` per source (default: all `encode_clean`).
        fca, tse, anchor: weights of the transfer losses. fca_relative: scale-free FCA (ours).
        optimizer, lr, momentum, schedule, warmup_steps: see `optim`.
        sources_reduction: `mean` or `sum` of the sources' task and FCA losses.
        accumulate: micro-batches a batch is cut into.
        total_epochs, total_steps: length of the schedules.
        average_last: N > 0 also keeps `average`, the mean of the first N prompts, then an exponential one that takes
            one part in N of each new prompt.
        frame_changes: what happens to prompted and clean frames in training (default: nothing).
        weight_noise: relative size of the noise on what the sources see with, new for every update; 0: none.
        sharpness: radius of the sharpness-aware step; 0: none.
        spsa: gradients from loss values alone; None: by backpropagation.
        seed: of what is drawn for an update.

    Attributes:
        average: a frozen Prompt, or None; part of every checkpoint.
        result: the prompt that is validated and exported: `average` where there is one, else `prompt`.
    """

    strict_loading = False

    def __init__(
        self,
        prompt: Prompt,
        load_sources: Callable[[], Sequence[nn.Module]],
        load_clip: Callable[[], Any] | None = None,
        *,
        load_anchors: Callable[[], Sequence[nn.Module]] | None = None,
        anchor: float = 0.0,
        clean_features: Sequence[Callable[[Any, Tensor, Sequence[str]], Tensor]] | None = None,
        fca: float = 0.0,
        tse: float = 0.0,
        fca_relative: bool = False,
        optimizer: str = "normalized",
        lr: float = 10.0,
        momentum: float = 0.0,
        schedule: str = "cosine_epoch",
        warmup_steps: int = 0,
        sources_reduction: str = "mean",
        accumulate: int = 1,
        total_epochs: int = 1,
        total_steps: int = 1,
        average_last: int = 0,
        frame_changes: FrameChanges | None = None,
        weight_noise: float = 0.0,
        sharpness: float = 0.0,
        spsa: SPSA | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.prompt = prompt
        self._load_sources, self._load_clip = load_sources, load_clip
        self._load_anchors, self.anchor = load_anchors, anchor
        self.sources: Any = None  # a ModuleList of MLLMs, once configured
        self.anchors: Any = nn.ModuleList()
        self.clip: Any = None
        self.clean_features = clean_features
        self.fca, self.tse, self.fca_relative = fca, tse, fca_relative
        self.optimizer_name, self.lr, self.momentum = optimizer, lr, momentum
        self.schedule, self.warmup_steps = schedule, warmup_steps
        self.sources_reduction, self.accumulate = sources_reduction, accumulate
        self.total_epochs, self.total_steps = total_epochs, total_steps
        self.average_last = average_last
        self.frame_changes = frame_changes or FrameChanges()
        self.weight_noise, self.sharpness, self.spsa, self.seed = weight_noise, sharpness, spsa, seed
        self.average: Prompt | None = copy.deepcopy(prompt).requires_grad_(False) if average_last else None

    @property
    def result(self) -> Prompt:
        return self.prompt if self.average is None else self.average

    def configure_model(self) -> None:
        """Load what is frozen, once, when a trainer needs it: building the module touches no weights."""
        if self.sources is None:
            self.sources = nn.ModuleList(self._load_sources()).requires_grad_(False)
            if self.anchor and self._load_anchors is not None:
                self.anchors = nn.ModuleList(self._load_anchors()).requires_grad_(False)
        if self._trainer is not None and self.trainer.strategy.root_device.type != "cpu":
            # Every time: the trainer takes the module to the CPU when it is done, and targets may be there still.
            for frozen in (self.sources, self.anchors):
                POOL.place_(frozen, self.trainer.strategy.root_device)
        if self.clip is None and self.tse and self._load_clip is not None:
            self.clip = self._load_clip().requires_grad_(False)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = build_optimizer(self.optimizer_name, self.prompt.parameters(), lr=self.lr, momentum=self.momentum)
        total = self.total_epochs if self.schedule == "cosine_epoch" else self.total_steps
        schedule = build_schedule(self.schedule, optimizer, total=total, warmup=self.warmup_steps)
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_train_start(self) -> None:
        self.prompt.project_()

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()  # the one there is
        totals = self._global_counts(batch)
        optimizer.zero_grad()
        with self._virtual_targets():
            logged = self._estimate(batch, *totals) if self.spsa else self._backward(batch, *totals)
            if self.sharpness:
                with climbed(self.learned, self._free(), self.sharpness):
                    optimizer.zero_grad()
                    self._backward(batch, *totals)
        gradient = total_norm([parameter.grad for parameter in self.learned if parameter.grad is not None])
        optimizer.step()
        self.prompt.project_()
        self._average()
        if self.schedule != "cosine_epoch":
            cast(LambdaLR, self.lr_schedulers()).step()
        self._log_step(self.trainer.strategy.reduce(logged, reduce_op="sum"), gradient, optimizer, int(totals[1]))

    @property
    def learned(self) -> list[nn.Parameter]:
        return list(self.prompt.parameters())

    def _free(self) -> list[Tensor]:
        """1 where a parameter of the prompt has something to learn: of pixels only those under the mask."""
        mask = self.prompt.mask
        return [mask if p.shape[-2:] == mask.shape[-2:] else torch.ones_like(p) for p in self.learned]

    def _backward(self, batch: Any, tokens: Tensor, samples: Tensor) -> Tensor:
        """Add the gradient of the global batch's loss; return this rank's share of (loss, task, fca, tse, anchor)."""
        logged = torch.zeros(5, device=self.device)
        for part in split_batch(batch, self.accumulate):
            values = self._values(part, tokens, samples)
            self.manual_backward(values[0] * self.trainer.world_size)  # DDP averages over ranks: this makes it a sum
            logged += torch.stack(values).detach()
        return logged

    def _estimate(self, batch: Any, tokens: Tensor, samples: Tensor) -> Tensor:
        """`_backward` without backward: every rank estimates the same gradient from the global batch's losses."""

        def losses() -> Tensor:
            parts = [torch.stack(self._values(p, tokens, samples)) for p in split_batch(batch, self.accumulate)]
            return self.trainer.strategy.reduce(torch.stack(parts).sum(0), reduce_op="sum")

        directions = step_generator(self.seed, self.global_step, "spsa")
        seen = estimate_gradients_(self.learned, self._free(), losses, cast(SPSA, self.spsa), directions)
        return seen / self.trainer.world_size

    def _values(self, part: Any, tokens: Tensor, samples: Tensor) -> tuple[Tensor, ...]:
        """Loss, task, FCA, TSE and the anchors' FCA of a micro-batch, as shares of the global batch's."""
        losses = self.losses(part)
        task, fca, tse = self._reduce(losses.nats / tokens), self._reduce(losses.fca / samples), losses.tse / samples
        loss = task + self.fca * fca + self.tse * tse
        anchor = losses.anchor / samples
        return loss + self.anchor * anchor if self.anchor else loss, task, fca, tse, anchor

    def _virtual_targets(self) -> Any:
        """The sources with other weights for this update, where `weight_noise` asks for them."""
        if not self.weight_noise:
            return nullcontext()
        draws = step_generator(self.seed, self.global_step, "weights", self.device)
        return noisy_weights(self.sources, self.weight_noise, draws)

    @torch.no_grad()
    def _average(self) -> None:
        """Take the prompt after update k = `global_step` into the average: its share is 1 / min(k, N)."""
        if self.average is not None:
            self.average.lerp_(self.prompt, 1 / min(max(self.global_step, 1), self.average_last))

    def losses(self, batch: Any) -> Losses:
        """Sums of a micro-batch, nats and fca per source: ((S,), (S,), (), ()). A model encodes each frame once."""
        change = self.frame_changes.at(self.global_step)
        frames = change(self.prompt(batch.images))
        clean = self.prompt.blank(batch.images)
        if self.fca or self.anchor:
            clean = change(clean)  # FCA compares frames that differ by the prompt alone
        nats, drift = [], []
        for source, encode in zip(self.sources, self.clean_features or [encode_clean] * len(self.sources), strict=True):
            visual = source.encode_image(frames, batch.questions)
            nats.append(source.answer_loss(frames, batch.questions, batch.answers, visual=visual)[0].sum())
            drift.append(self._drift(source, visual, clean, batch.questions, encode))
        similarities = self.clip.similarity(frames, batch.captions) if self.tse else frames.new_zeros(1)
        anchored = frames.new_zeros((), dtype=torch.float32)
        for anchor in self.anchors:
            tokens = fca_tokens(anchor, anchor.encode_image(frames, batch.questions))
            reference = encode_clean(anchor, clean, batch.questions)
            anchored = anchored + fca_distances(tokens, reference, relative=True).sum()
        anchored = anchored / max(1, len(self.anchors))
        return Losses(torch.stack(nats), torch.stack(drift), tse_losses(similarities).sum(), anchored)

    def _drift(self, source: Any, visual: Any, clean: Tensor, questions: Sequence[str], encode: Callable) -> Tensor:
        if not self.fca:
            return visual.tokens.new_zeros((), dtype=torch.float32)
        reference = encode(source, clean, questions)  # no graph
        return fca_distances(fca_tokens(source, visual), reference, relative=self.fca_relative).sum()

    def _reduce(self, per_source: Tensor) -> Tensor:
        return per_source.mean() if self.sources_reduction == "mean" else per_source.sum()

    def _global_counts(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Answer tokens per source and samples in the global batch, known before any forward pass."""
        counts = [source.answer_token_counts(batch.questions, batch.answers).sum() for source in self.sources]
        totals = torch.stack([*counts, torch.tensor(len(batch.answers))]).to(self.device)
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(totals)
        return totals[:-1], totals[-1]

    def _log_step(self, logged: Tensor, gradient: Tensor, optimizer: Any, samples: int) -> None:
        names = ("train/loss", "train/task", "train/fca", "train/tse", *(["train/anchor"] if self.anchor else []))
        values = dict(zip(names, logged.unbind(), strict=False))
        values |= {"train/grad_norm": gradient, "train/prompt_norm": self.prompt.delta.detach().norm()}
        values["train/lr"] = optimizer.param_groups[0]["lr"]
        self.log_dict(values, batch_size=samples, sync_dist=False)
        self.log("loss", logged[0], prog_bar=True, logger=False, batch_size=samples)

    def on_train_epoch_end(self) -> None:
        if self.schedule == "cosine_epoch":
            cast(LambdaLR, self.lr_schedulers()).step()

    def on_train_end(self) -> None:
        for encode in self.clean_features or ():
            if self.fca and hasattr(encode, "report"):
                self.print(encode.report())

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._log_loss("val/loss", batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._log_loss("test/loss", batch)

    def _log_loss(self, name: str, batch: Any) -> None:
        frames = self.result(batch.images)
        losses = [source.answer_loss(frames, batch.questions, batch.answers) for source in self.sources]
        loss = torch.stack([nats.sum() / tokens.sum() for nats, tokens in losses]).mean()
        self.log(name, loss, batch_size=len(batch.ids), sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Keep the prompt and its average only: kilobytes, never the frozen LLM."""
        state = checkpoint["state_dict"]
        kept = ("prompt.", "average.")
        checkpoint["state_dict"] = {key: value for key, value in state.items() if key.startswith(kept)}


def split_batch(batch: Any, parts: int) -> list[Any]:
    """Cut a Batch into at most `parts` consecutive micro-batches of near equal size."""
    if parts == 1:
        return [batch]
    size = -(-len(batch.ids) // parts)
    starts = range(0, len(batch.ids), size)
    return [take_rows(batch, start, size) for start in starts]
