"""TVPModule: the update, its splits, and what stays frozen."""

from __future__ import annotations

import lightning as L
import pytest
import torch
from support.tiny_models import tiny_mllm
from torch import nn
from torch.utils.data import DataLoader

from datamodules.batch import Batch
from lightning_modules.frame_changes import FrameChanges
from lightning_modules.gradients import SPSA
from lightning_modules.losses import fca_loss, tse_losses
from lightning_modules.prompts import PadPrompt
from lightning_modules.tvp import TVPModule, split_batch

FRAME, PAD = 32, 4
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training"),  # frozen models are meant to be
    pytest.mark.filterwarnings("ignore:You defined a `validation_step`"),  # these tests only train
]
ANSWERS = ["cat", "a red car", "do", "carpet"]


class ToyClip(nn.Module):
    """A differentiable stand-in with CLIP's interface: how bright the frame is, by caption length."""

    def similarity(self, frames, captions):
        return frames.mean((1, 2, 3)) * torch.tensor([float(len(c)) for c in captions])


def make_batch(n=4, seed=0):
    images = torch.rand(n, 3, FRAME - 2 * PAD, FRAME - 2 * PAD, generator=torch.Generator().manual_seed(seed))
    texts = [ANSWERS[i % 4] for i in range(n)]
    ids = [f"{seed}-{i}" for i in range(n)]
    return Batch(images, torch.zeros(n, dtype=torch.long), ["photo"] * n, texts, texts, ids, [""] * n)


def make_module(sources=("minigpt4",), bounds="unbounded", **options):
    prompt = PadPrompt(FRAME, PAD, bounds)
    return TVPModule(prompt, lambda: [tiny_mllm(name) for name in sources], ToyClip, **{"lr": 3.0, **options})


def fit(module, batches, **trainer):
    loader = DataLoader(batches, batch_size=None)
    L.Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu",
        enable_model_summary=False, limit_val_batches=0, **trainer,
    ).fit(module, loader)  # fmt: skip
    return module.prompt.delta.detach().clone()


def test_one_step_is_the_update_of_the_paper():
    batch, fca, tse = make_batch(), 0.3, 0.02
    module = make_module(fca=fca, tse=tse)
    start = torch.rand(3, FRAME, FRAME) * module.prompt.mask
    module.prompt.delta.data.copy_(start)
    after = fit(module, [batch])

    source, delta = tiny_mllm("minigpt4"), start.clone().requires_grad_()
    clean = nn.functional.pad(batch.images, [PAD] * 4)
    visual = source.encode_image(clean + delta, batch.questions)
    nats, tokens = source.answer_loss(clean + delta, batch.questions, batch.answers, visual=visual)
    loss = nats.sum() / tokens.sum() + fca * fca_loss(visual.tokens, source.encode_image(clean, batch.questions).tokens)
    loss = loss + tse * tse_losses(ToyClip().similarity(clean + delta, batch.captions)).mean()
    (g,) = torch.autograd.grad(loss, delta)
    expected = start - 3.0 * module.prompt.mask * g / (g.norm() + 1e-10)
    torch.testing.assert_close(after, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("options", [{}, {"fca": 0.3, "tse": 0.02}])
def test_accumulated_micro_batches_equal_the_big_batch(options):
    whole = fit(make_module(**options), [make_batch(), make_batch(seed=1)])
    parts = fit(make_module(**options, accumulate=3), [make_batch(), make_batch(seed=1)])
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=0)


def test_fca_does_not_touch_the_first_step_from_a_zero_prompt():
    with_fca, without = fit(make_module(fca=5.0), [make_batch()]), fit(make_module(), [make_batch()])
    assert torch.equal(with_fca, without)
    assert torch.isfinite(with_fca).all() and with_fca.abs().sum() > 0


def test_fca_pulls_later_steps_towards_the_clean_features():
    batches = [make_batch(seed=s) for s in range(4)]
    source, clean = tiny_mllm("minigpt4"), nn.functional.pad(batches[0].images, [PAD] * 4)

    def drift(delta):
        tokens = [source.encode_image(clean + d, batches[0].questions).tokens for d in (delta, 0 * delta)]
        return fca_loss(*tokens).item()

    assert drift(fit(make_module(fca=50.0), batches)) < drift(fit(make_module(), batches))


def anchored(*names, anchor=0.4, **options):
    return make_module(load_anchors=lambda: [tiny_mllm(name) for name in names], anchor=anchor, **options)


def test_anchors_add_their_scale_free_feature_distance_and_no_answer():
    batch, anchors = make_batch(), [tiny_mllm(name) for name in ("llava", "blip2")]
    start = torch.rand(3, FRAME, FRAME) * PadPrompt(FRAME, PAD, "unbounded").mask
    module = anchored("llava", "blip2")
    module.prompt.delta.data.copy_(start)
    after = fit(module, [batch])
    source, delta = tiny_mllm("minigpt4"), start.clone().requires_grad_()
    clean = nn.functional.pad(batch.images, [PAD] * 4)
    nats, tokens = source.answer_loss(clean + delta, batch.questions, batch.answers)
    loss = nats.sum() / tokens.sum()
    for model in anchors:
        seen = [model.encode_image(frames, batch.questions).tokens for frames in (clean + delta, clean)]
        loss = loss + 0.4 / 2 * fca_loss(*seen, relative=True)
    (g,) = torch.autograd.grad(loss, delta)
    expected = start - 3.0 * module.prompt.mask * g / (g.norm() + 1e-10)
    torch.testing.assert_close(after, expected, atol=1e-5, rtol=0)


def test_anchors_split_like_every_loss_and_without_weight_are_never_loaded():
    batches = [make_batch(), make_batch(seed=1)]
    torch.testing.assert_close(fit(anchored("llava", accumulate=3), batches), fit(anchored("llava"), batches),
                               atol=1e-5, rtol=0)  # fmt: skip
    module = make_module(load_anchors=lambda: pytest.fail("loaded"), anchor=0.0)
    assert torch.equal(fit(module, batches), fit(make_module(), batches)) and len(module.anchors) == 0


def test_image_bounds_hold_after_every_step():
    delta = fit(make_module(bounds="image", lr=50.0), [make_batch(), make_batch(seed=1)])
    assert delta.min() >= 0 and delta.max() <= 1 and delta.max() > 0


def test_several_sources_step_along_the_mean_or_sum_of_their_losses():
    names = ("minigpt4", "blip2")
    mean = fit(make_module(names, sources_reduction="mean"), [make_batch()])
    total = fit(make_module(names, sources_reduction="sum"), [make_batch()])
    torch.testing.assert_close(mean, total, atol=1e-5, rtol=0)  # one normalised step: the same direction
    assert not torch.allclose(mean, fit(make_module(("minigpt4",)), [make_batch()]), atol=1e-3)


def test_a_checkpoint_holds_the_prompt_only(tmp_path):
    module = make_module()
    trainer = L.Trainer(
        max_epochs=1, logger=False, enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
        accelerator="cpu", default_root_dir=tmp_path, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader([make_batch()], batch_size=None))
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    state = torch.load(tmp_path / "x.ckpt", weights_only=True)["state_dict"]
    assert set(state) == {"prompt.delta"}
    assert (tmp_path / "x.ckpt").stat().st_size < 100_000
    fresh = make_module()
    fresh.load_state_dict(state)
    assert torch.equal(fresh.prompt.delta, module.prompt.delta)


def test_sources_stay_frozen_and_in_eval_mode_whatever_lightning_asks():
    module = make_module()
    module.configure_model()
    module.train()
    assert not any(m.training for m in module.sources.modules() if m is not module.sources)
    assert [name for name, p in module.named_parameters() if p.requires_grad] == ["prompt.delta"]
    fit(module, [make_batch()])
    assert all(p.grad is None for p in module.sources.parameters())


def test_micro_batches_cover_a_batch_once():
    parts = split_batch(make_batch(7), 3)
    assert [key for part in parts for key in part.ids] == make_batch(7).ids
    assert torch.equal(torch.cat([part.images for part in parts]), make_batch(7).images)


# ---- averaging -------------------------------------------------------------------------------------------------------
class Deltas(L.Callback):
    """The prompt after every update."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, module, *_):
        self.seen.append(module.prompt.delta.detach().clone())


def test_the_average_is_the_mean_of_the_first_n_prompts_and_then_takes_one_part_in_n_of_each():
    module, deltas = make_module(average_last=3), Deltas()
    fit(module, [make_batch(seed=s) for s in range(5)], callbacks=[deltas])
    a, b, c, d, e = deltas.seen
    expected = (((a + b + c) / 3) * 2 / 3 + d / 3) * 2 / 3 + e / 3
    torch.testing.assert_close(module.result.delta.detach(), expected)
    assert not torch.allclose(module.result.delta, module.prompt.delta, atol=1e-3)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_the_average_of_a_constant_prompt_is_that_prompt_bit_for_bit(n):
    module = make_module(average_last=n, lr=0.0, bounds="image")
    module.prompt.init_("normal", seed=2)
    fit(module, [make_batch(seed=s) for s in range(4)])
    assert module.prompt.delta.any() and torch.equal(module.result.delta, module.prompt.delta)


def test_averaging_changes_no_update_and_is_off_by_default():
    batches = [make_batch(seed=s) for s in range(3)]
    plain = make_module()
    assert torch.equal(fit(make_module(average_last=2), batches), fit(plain, batches))
    assert plain.average is None and plain.result is plain.prompt


def test_validation_is_of_the_average():
    module, batch = make_module(average_last=2), make_batch()
    module.configure_model()
    module.average.init_("grey")
    logged = []
    module.log = lambda name, value, **_: logged.append(value)
    module.validation_step(batch, 0)
    frames = module.average(batch.images)
    nats, tokens = module.sources[0].answer_loss(frames, batch.questions, batch.answers)
    torch.testing.assert_close(logged[0], nats.sum() / tokens.sum())


# ---- how the gradient is made ----------------------------------------------------------------------------------------
LEARNING = {
    "through": lambda: {"frame_changes": FrameChanges(["resize", "jpeg"], seed=3)},
    "diversity": lambda: {"frame_changes": FrameChanges(shift=2, scale=0.2, jitter=0.2, seed=3)},
    "weight_noise": lambda: {"weight_noise": 0.1},
    "sharpness": lambda: {"sharpness": 0.5},
    "spsa": lambda: {"spsa": SPSA(0.05, 2)},
    "spsa under noise": lambda: {"spsa": SPSA(0.05, 2), "weight_noise": 0.1},
}


def started(**options):
    """A module whose prompt is not zero, so that every pixel may move."""
    module = make_module(**options)
    module.prompt.init_("normal", std=0.3, seed=5)
    return module


@pytest.mark.parametrize("name", LEARNING)
def test_each_way_of_learning_is_another_update_and_zero_strength_is_none(name):
    batches = [make_batch(), make_batch(seed=1)]
    plain = fit(started(fca=0.3), batches)
    off = {"frame_changes": FrameChanges(), "weight_noise": 0.0, "sharpness": 0.0}
    assert torch.equal(fit(started(fca=0.3, **off), batches), plain)
    other = fit(started(fca=0.3, **LEARNING[name]()), batches)
    assert torch.isfinite(other).all() and not torch.allclose(other, plain, atol=1e-3)
    assert not other[:, PAD:-PAD, PAD:-PAD].any()


@pytest.mark.parametrize("name", LEARNING)
def test_each_way_of_learning_is_the_same_whatever_the_split_into_micro_batches(name):
    batches = [make_batch(), make_batch(seed=1)]
    whole = fit(started(fca=0.3, tse=0.02, **LEARNING[name]()), batches)
    parts = fit(started(fca=0.3, tse=0.02, accumulate=3, **LEARNING[name]()), batches)
    torch.testing.assert_close(parts, whole, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", LEARNING)
def test_a_resumed_run_of_each_way_of_learning_is_the_uninterrupted_one(name, tmp_path):
    batches = [make_batch(seed=s) for s in range(2)]

    def trained(epochs, resumed=None):
        module = started(fca=0.3, total_epochs=2, **LEARNING[name]())
        trainer = L.Trainer(
            max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu",
            enable_model_summary=False, limit_val_batches=0, default_root_dir=tmp_path,
        )  # fmt: skip
        with torch.random.fork_rng():
            torch.manual_seed(epochs)  # nothing may be drawn from the global generator
            trainer.fit(module, DataLoader(batches, batch_size=None), ckpt_path=resumed, weights_only=bool(resumed))
        trainer.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return module.prompt.delta.detach().clone()

    whole = trained(2)
    half = trained(1)
    assert not torch.equal(half, whole) and torch.equal(trained(2, tmp_path / "1.ckpt"), whole)


@pytest.mark.parametrize("changes", [FrameChanges(["jpeg", "8bit"]), FrameChanges(["resize"], shift=2, scale=0.2)])
def test_fca_compares_frames_that_differ_by_the_prompt_alone(changes):
    """From a zero prompt a codec's loss is no drift, and gives no gradient of its own."""
    module = make_module(fca=5.0, frame_changes=changes)
    module.configure_model()
    assert module.losses(make_batch()).fca.sum() == 0
    without = make_module(frame_changes=changes)
    assert torch.equal(fit(module, [make_batch()]), fit(without, [make_batch()]))


def test_a_sharpness_aware_update_is_the_plain_one_s_gradient_taken_uphill():
    batch, rho = make_batch(), 0.7
    source, clean = tiny_mllm("minigpt4"), nn.functional.pad(batch.images, [PAD] * 4)

    def gradient(delta):
        delta = delta.clone().requires_grad_()
        nats, tokens = source.answer_loss(clean + delta, batch.questions, batch.answers)
        return torch.autograd.grad(nats.sum() / tokens.sum(), delta)[0]

    module = started(sharpness=rho)
    start, mask = module.prompt.delta.detach().clone(), module.prompt.mask
    uphill = gradient(start) * mask
    g = gradient(start + rho * uphill / uphill.norm())
    torch.testing.assert_close(fit(module, [batch]), start - 3.0 * mask * g / g.norm(), atol=1e-4, rtol=0)


def test_spsa_takes_no_gradient_of_any_model_and_lowers_the_loss_where_there_are_directions_enough(monkeypatch):
    batch, seen = make_batch(), []
    module = started(spsa=SPSA(0.02, 60), lr=1.0)
    module.configure_model()
    loss = type(module.sources[0]).answer_loss

    def watched(self, *args, **kwargs):
        seen.append(torch.is_grad_enabled())
        return loss(self, *args, **kwargs)

    def value():
        with torch.no_grad():
            return module.losses(batch).nats.sum().item()

    before = value()
    monkeypatch.setattr(type(module.sources[0]), "answer_loss", watched)
    monkeypatch.setattr(module, "manual_backward", lambda *_: pytest.fail("backward ran"))
    fit(module, [batch])
    assert seen == [False] * 120
    assert value() < before - 0.01


@pytest.mark.parametrize("options", [{"weight_noise": 0.1}, {"weight_noise": 0.1, "fca": 0.3, "sharpness": 0.5}])
def test_shared_weights_are_the_same_objects_and_bits_after_a_fit_with_noise_and_after_one_that_fails(options):
    module = make_module(("minigpt4", "blip2"), **options)
    module.configure_model()
    before = [(id(p), p.data_ptr(), p._version, p.clone()) for p in module.sources.parameters()]
    fit(module, [make_batch(), make_batch(seed=1)])
    monkeyed = make_batch(seed=2)._replace(answers=["cat"] * 3)  # one answer too few: the step raises
    with pytest.raises((ValueError, RuntimeError)):
        fit(module, [monkeyed])
    after = [(id(p), p.data_ptr(), p._version, p) for p in module.sources.parameters()]
    assert all(a[:3] == b[:3] and torch.equal(a[3], b[3]) for a, b in zip(before, after, strict=True))


def test_validation_sees_plain_frames_and_plain_weights():
    batch, logged = make_batch(), []
    for options in ({}, {"frame_changes": FrameChanges(["jpeg"], jitter=0.3), "weight_noise": 0.3}):
        module = started(**options)
        module.configure_model()
        module.log = lambda name, value, **_: logged.append(value)
        module.validation_step(batch, 0)
    assert torch.equal(*logged)
