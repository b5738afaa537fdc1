"""Speed switches: each gives the plain step's update, and nothing but the prompt ever gets a gradient."""

from __future__ import annotations

import pytest
import torch
from support.saved_bytes import SavedBytes
from support.tiny_models import TINY, tiny_mllm
from test_lightning_modules_tvp import ANSWERS, FRAME, PAD, ToyClip, fit, make_batch

from experiments.recipes import load_experiment
from lightning_modules.feature_cache import FeatureCache
from lightning_modules.features import CachedFeatures
from lightning_modules.prompts import PadPrompt
from lightning_modules.trainer_callbacks import (
    AtomicCheckpointIO,
    TF32Updates,
    newest_checkpoint,
    read_checkpoint,
    speed_callbacks,
)
from lightning_modules.tvp import TVPModule
from model_zoo.layer_options import checkpoint_layers_, compile_layers_, require_compiler

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step`"),
]
LOSSES = {"fca": 0.3, "tse": 0.02, "lr": 3.0}


def module_of(model, **options):
    return TVPModule(PadPrompt(FRAME, PAD, "unbounded"), lambda: [model], ToyClip, **LOSSES | options)


def batches():
    return [make_batch(), make_batch(seed=1)]


@pytest.mark.parametrize("name", TINY)
def test_every_switch_at_once_gives_the_plain_update(tmp_path, name):
    """Accumulation, checkpointing and cached features, from a zero prompt, with both transfer losses."""
    plain = fit(module_of(tiny_mllm(name)), batches())
    model = tiny_mllm(name)
    model = checkpoint_layers_(model) if name != "llava" else model  # its tiny tower has no stacked layers of its own
    for _ in range(2):
        clean = [CachedFeatures(FeatureCache(tmp_path), dict)]
        again = fit(module_of(model, accumulate=3, clean_features=clean), batches())
        torch.testing.assert_close(again, plain, atol=1e-4, rtol=0)


# ---- gradients -------------------------------------------------------------------------------------------------------
def leaves(node, found, seen):
    """Variables that backward from `node` would accumulate a gradient into."""
    if node is not None and node not in seen:
        seen.add(node)
        found |= {id(node.variable)} if hasattr(node, "variable") else set()
        for following, _ in node.next_functions:
            leaves(following, found, seen)
    return found


def losses_of(name, **options):
    module = module_of(tiny_mllm(name), **options)
    module.configure_model()
    module.prompt.delta.data.copy_(0.1 * torch.rand(3, FRAME, FRAME))
    return module, module.losses(make_batch())


@pytest.mark.parametrize("name", TINY)
def test_the_graph_ends_in_the_prompt_and_nowhere_else(name):
    module, losses = losses_of(name)
    total = losses.nats.sum() + losses.fca.sum() + losses.tse
    assert leaves(total.grad_fn, set(), set()) == {id(module.prompt.delta)}
    total.backward()
    assert [key for key, p in module.named_parameters() if p.requires_grad or p.grad is not None] == ["prompt.delta"]


@pytest.mark.parametrize("name", ["minigpt4", "blip2", "visualglm"])
def test_frozen_weights_keep_fewer_bytes_for_backward_than_trainable_ones(name):
    kept = []
    for trainable in (False, True):
        module = module_of(tiny_mllm(name))
        module.configure_model()
        module.sources.requires_grad_(trainable)
        with SavedBytes(module) as saved:
            module.losses(make_batch())
        kept.append(saved.total)
    assert kept[0] < 0.8 * kept[1]  # the inputs of every linear layer are not kept


def test_clean_features_add_no_byte_to_what_backward_keeps_of_the_vision_tower():
    kept = []
    for fca in (0.0, 0.3):
        module = module_of(tiny_mllm("minigpt4"), fca=fca)
        module.configure_model()
        with SavedBytes(module) as saved:
            losses = module.losses(make_batch())
        kept.append(saved.total)
        del losses
    width, tokens = 32, 4 * 4
    assert kept[1] - kept[0] <= 8 * 4 * width * tokens  # a few copies of (B, T, D): distances, no second tower


# ---- precision -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", TINY)
def test_bf16_mixed_trains_on_frozen_float32_weights_along_nearly_the_same_gradient(name):
    plain = fit(module_of(tiny_mllm(name), fca=0.0), [make_batch()])
    mixed = fit(module_of(tiny_mllm(name), fca=0.0), [make_batch()], precision="bf16-mixed")
    assert torch.cosine_similarity(plain.flatten(), mixed.flatten(), dim=0) > 0.98
    assert mixed.dtype == torch.float32 and not torch.equal(plain, mixed)


def test_bf16_mixed_keeps_copies_of_frozen_weights_and_bfloat16_weights_do_not():
    """Why the schema recommends source.dtype=bfloat16: autocast remembers casts of trainable weights only."""
    kept = {}
    for kind in ("mixed", "bfloat16"):
        model, frames = tiny_mllm("minigpt4"), torch.rand(1, 3, FRAME, FRAME, requires_grad=True)
        model = model.to(torch.bfloat16) if kind == "bfloat16" else model
        with SavedBytes(model) as saved, torch.autocast("cpu", torch.bfloat16, enabled=kind == "mixed"):
            model.answer_loss(frames, ["photo"], ANSWERS[:1])
        kept[kind] = saved.total
    weights = sum(2 * p.numel() for p in tiny_mllm("minigpt4").parameters() if p.ndim == 2)
    assert kept["mixed"] > kept["bfloat16"] + 0.5 * weights


def test_tf32_is_on_in_updates_only():
    seen, module = [], module_of(tiny_mllm("minigpt4"))
    module.losses = lambda batch: seen.append(torch.get_float32_matmul_precision()) or TVPModule.losses(module, batch)
    fit(module, batches(), callbacks=speed_callbacks(True))
    assert seen == ["high"] * 2 and torch.get_float32_matmul_precision() == "highest"
    callback = TF32Updates()
    callback.on_train_batch_start()
    callback.on_exception()
    assert torch.get_float32_matmul_precision() == "highest" and speed_callbacks(False) == []


# ---- torch.compile ---------------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*TensorFloat32 tensor cores")
def test_compiled_layers_give_the_plain_update_also_with_checkpointing(monkeypatch):
    """Inductor for real: minutes on a busy CPU."""
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
    plain = fit(module_of(tiny_mllm("minigpt4")), batches())
    for wrap in (lambda m: m, checkpoint_layers_):
        model = wrap(compile_layers_(tiny_mllm("minigpt4")))
        torch.testing.assert_close(fit(module_of(model), batches()), plain, atol=1e-4, rtol=0)


@pytest.fixture
def traced(monkeypatch):
    """torch.compile with the `eager` backend: what is traced, without a compiler; names of the classes compiled."""
    from model_zoo import layer_options as compiling

    kinds, original = [], torch.compile
    compiling._compiled.cache_clear()
    monkeypatch.setattr(torch, "compile", lambda f: kinds.append(f.__qualname__) or original(f, backend="eager"))
    yield kinds
    compiling._compiled.cache_clear()


@pytest.mark.parametrize("name", ["minigpt4", "instructblip", "blip2", "blip2_opt", "bliva", "visualglm"])
def test_traced_layers_give_the_plain_update_and_scores_never_use_them(traced, name):
    from support.tiny_models import CANDIDATES, QUESTIONS, tiny_images

    plain, model = fit(module_of(tiny_mllm(name)), batches()), compile_layers_(tiny_mllm(name))
    with torch.inference_mode():
        scores = model.score(tiny_images(), QUESTIONS, CANDIDATES)
        assert not traced and torch.equal(scores, tiny_mllm(name).score(tiny_images(), QUESTIONS, CANDIDATES))
    torch.testing.assert_close(fit(module_of(model), batches()), plain, atol=1e-4, rtol=0)
    assert 0 < len(traced) <= 4  # one compilation a kind of layer, not one a layer
    assert model.state_dict().keys() == tiny_mllm(name).state_dict().keys()


def test_without_a_compiler_the_error_says_what_is_missing(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match=r"needs a C\+\+ compiler on a CPU. Looked for g\+\+.*train.compile=false"):
        require_compiler()
    with pytest.raises(ValueError, match=r"no stacked layers to compile. Set train.compile=false"):
        compile_layers_(torch.nn.Linear(2, 2))


# ---- recipes ---------------------------------------------------------------------------------------------------------
def test_keys_reach_the_specs_the_trainer_and_the_cache(tmp_path, monkeypatch):
    from experiments.run.build import RunParts, build_clean_features

    monkeypatch.setenv("TVP_CACHE", str(tmp_path))
    words = {"train.compile": "true", "train.feature_cache": "float16", "train.feature_cache_gib": "0.5"}
    config = load_experiment([("exp", "smoke"), *words.items()])
    (spec,), (clean,) = RunParts(config).sources, build_clean_features(RunParts(config))
    assert spec.compile and clean.cache.dtype == torch.float16 and clean.cache.limit == 2**29
    assert clean.cache.folder == tmp_path / "features"
    for off in (("train.feature_cache", "off"), ("method", "evp"), ("method.fca", "0")):
        config = load_experiment([("exp", "smoke"), *words.items(), off])
        assert build_clean_features(RunParts(config)) is None
    for pair in (("train.feature_cache", "int8"), ("train.feature_cache_gib", "0")):
        with pytest.raises(ValueError, match=r"int8|feature_cache_gib > 0"):
            load_experiment([("exp", "smoke"), pair])


def checkpoint(step):
    return {"state_dict": {"prompt.delta": torch.zeros(3)}, "epoch": 0, "global_step": step, "loops": {}}


def saved(folder, *steps):
    for step in steps:
        AtomicCheckpointIO().save_checkpoint(checkpoint(step), folder / "last.ckpt")
    return folder


def test_two_checkpoints_are_kept_and_the_newest_is_resumed(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    saved(tmp_path, 1, 2, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "last.previous.ckpt"]
    assert read_checkpoint(newest_checkpoint(tmp_path))["global_step"] == 3
    assert read_checkpoint(tmp_path / "last.previous.ckpt")["global_step"] == 2


@pytest.mark.parametrize("cut", [0, 1, 50, 400])
def test_a_damaged_checkpoint_is_named_set_aside_and_the_one_before_taken(cut, tmp_path, capsys):
    last = saved(tmp_path, 1, 2) / "last.ckpt"
    last.write_bytes(last.read_bytes()[:cut])
    assert newest_checkpoint(tmp_path).name == "last.previous.ckpt"
    assert f"'{last}' is damaged" in capsys.readouterr().out and (tmp_path / "last.ckpt.damaged").is_file()
    saved(tmp_path, 3)
    assert read_checkpoint(tmp_path / "last.previous.ckpt")["global_step"] == 1


def test_checkpoints_that_are_all_damaged_are_all_named(tmp_path):
    saved(tmp_path, 1, 2)
    (tmp_path / "last.ckpt").write_bytes(b"")
    torch.save({"weights": 1}, tmp_path / "last.previous.ckpt")
    with pytest.raises(ValueError, match=r"last.ckpt' is damaged .*previous.ckpt' is damaged \(it lacks.*Remove"):
        newest_checkpoint(tmp_path)
