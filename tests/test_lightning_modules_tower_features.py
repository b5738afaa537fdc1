"""Models that share a tower share its passes: same scores to the bit, each frame once, within a budget, never stale."""

from __future__ import annotations

import errno
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.tiny_models import QUESTIONS, tiny_images, tiny_mllm
from support.toy_data import Toy

from lightning_modules import tower_features
from lightning_modules.controls import ControlStore
from lightning_modules.evaluation import ModelSpec
from lightning_modules.prompts import PadPrompt
from lightning_modules.records import ResultLog
from lightning_modules.scorer import PromptScorer
from lightning_modules.tower_features import TowerFeatures, _mapped, tower_digest
from lightning_modules.transfer_callback import TransferCallback
from model_zoo.registry import load_mllm

FRAME, PAD, ROWS = 16, 2, 11
SHARING = ("minigpt4", "vpgtrans", "bliva", "instructblip")  # one ViT; BLIVA also reads the block before the last


def sharing_models(names=SHARING):
    """Tiny models with one tower's weights, everything else their own."""
    models = {name: tiny_mllm(name, seed=i) for i, name in enumerate(names)}
    first = next(iter(models.values()))
    for name, model in models.items():
        model.name = name
        for own, given in zip(model.tower_parts(), first.tower_parts(), strict=True):
            own.load_state_dict(given.state_dict())
    return models


class Given(ModelSpec):
    """A spec of a model that is already built."""

    def load(self, device):
        return self.options["model"]

    def fingerprint(self):
        return f"fp-{self.name}"


def make_prompt(value=0.5):
    prompt = PadPrompt(FRAME, PAD)
    prompt.delta.data.fill_(value)
    prompt.project_()
    return prompt


def make_scorer(folder, limit=2**30, **options):
    data = Toy(image_size=FRAME - 2 * PAD, count=ROWS)
    sizes = {"val": None, "test": None}
    scorer = PromptScorer(data, ControlStore(folder), **{"frame": FRAME, "pad": PAD, "sizes": sizes, **options})
    scorer.towers.memory.limit, scorer.towers.disk.limit = limit, 0
    return scorer


def scores_of(scorer, models, split="val", value=0.5):
    prompts = {"prompt": make_prompt(value)}
    specs = [Given(name, "heldout", options={"model": model}) for name, model in models.items()]
    return {
        spec.name: scorer.score(spec, split, prompts) | {"drift": scorer.drifts[split, spec.name]} for spec in specs
    }


@pytest.fixture
def passes(monkeypatch):
    """The pixels of each frame that a ViT tower really encoded."""
    seen = []
    for name in SHARING:
        kind = type(tiny_mllm(name))
        original = kind.run_tower

        def counting(self, pixels, original=original):
            seen.extend(frame.numpy().tobytes() for frame in pixels)
            return original(self, pixels)

        monkeypatch.setattr(kind, "run_tower", counting)
    return seen


def same(one, other):
    return all(np.array_equal(one[m][i].scores, other[m][i].scores) for m in one for i in one[m] | other[m])


def test_scores_are_the_same_to_the_bit_with_the_memory_on_off_and_too_small(tmp_path):
    models = sharing_models()
    off = scores_of(make_scorer(tmp_path / "off", limit=0), models)
    scorer = make_scorer(tmp_path / "on")
    assert same(scores_of(scorer, models), off) and scorer.towers.hits > scorer.towers.asked / 2
    small = make_scorer(tmp_path / "small", limit=100_000)
    assert same(scores_of(small, models), off) and 0 < small.towers.hits < scorer.towers.hits


def test_each_frame_is_encoded_once_for_all_models_of_one_tower(tmp_path, passes):
    scores_of(make_scorer(tmp_path, controls=("full", "black", "replicate")), sharing_models(("minigpt4", "vpgtrans")))
    assert (
        len(passes) == len(set(passes)) == 4 * ROWS
    )  # three controls and the prompt; the drift's frames are among them


def test_a_model_that_reads_patches_serves_those_that_do_not(tmp_path, passes):
    models = sharing_models(("bliva", "instructblip", "minigpt4"))
    scores_of(make_scorer(tmp_path, controls=("black",)), models)
    assert len(passes) == 2 * ROWS
    passes.clear()
    again = {name: models[name] for name in ("minigpt4", "bliva", "instructblip")}
    scores_of(make_scorer(tmp_path / "other order", controls=("black",)), again)
    assert len(passes) == 4 * ROWS  # BLIVA's second output was not kept by the first model


def test_another_prompt_or_tower_or_size_of_batch_is_encoded_anew(passes):
    models, towers, frames = sharing_models(), TowerFeatures(), tiny_images()
    with torch.no_grad():
        for model, images in (
            (models["minigpt4"], frames),
            (models["minigpt4"], frames + 0.001),
            (models["minigpt4"], frames[:2]),
            (tiny_mllm("minigpt4", seed=9), frames),
        ):
            passes.clear()
            with towers.lent_to(model):
                tokens = model.encode_image(images, QUESTIONS[: len(images)]).tokens
            assert len(passes) == len(images)
            assert torch.equal(tokens, model.encode_image(images, QUESTIONS[: len(images)]).tokens)
    assert towers.hits == 0


def test_a_training_step_never_reads_or_fills_the_memory():
    model, towers, frames = tiny_mllm("llava"), TowerFeatures(), tiny_images().requires_grad_()
    with towers.lent_to(model):
        model.encode_image(frames, QUESTIONS).tokens.sum().backward()
    assert frames.grad.abs().sum() > 0 and towers.asked == 0 and model.tower_memory is None


def test_the_budget_is_kept_and_what_the_present_visit_reads_stays():
    models, towers = sharing_models(("minigpt4", "vpgtrans")), TowerFeatures()
    batches = [tiny_images(seed=seed) for seed in range(6)]

    def visit(name):
        before = towers.hits
        with torch.no_grad(), towers.lent_to(models[name]):
            for images in batches:
                models[name].encode_image(images, QUESTIONS)
                assert towers.memory.used <= towers.memory.limit
        return towers.hits - before

    visit("minigpt4")
    size = towers.memory.used // 6
    towers.clear()
    towers.memory.limit, towers.disk.limit = 4 * size, 0
    assert [visit("minigpt4"), visit("vpgtrans")] == [0, 4]  # a plain least-recently-used memory would have none
    batches = [tiny_images(seed=seed) for seed in range(6, 9)]
    assert [visit("minigpt4"), visit("vpgtrans")] == [0, 3]  # older visits make room


def test_what_finds_no_room_in_memory_lies_in_files_that_leave_nothing_behind(tmp_path, monkeypatch, passes):
    monkeypatch.setenv("TVP_CACHE", str(tmp_path / "cache"))
    models = sharing_models(("minigpt4", "vpgtrans"))
    off = scores_of(make_scorer(tmp_path / "off", limit=0), models)
    scorer = make_scorer(tmp_path / "on", limit=1)
    scorer.towers.disk.limit = 2**30
    passes.clear()
    assert same(scores_of(scorer, models), off) and len(passes) == len(set(passes)) > 4 * ROWS
    assert scorer.towers.memory.used == 0 < scorer.towers.disk.used
    assert list((tmp_path / "cache" / "towers").iterdir()) == []  # the files have no names
    scorer.towers.clear()
    assert scorer.towers.disk.used == 0


def test_a_mapped_tensor_has_the_bits_and_the_layout_of_the_first(tmp_path):
    for part in (torch.randn(2, 5, 3), torch.randn(2, 3, 5).mT, torch.randn(2, 6, 3)[:, 1:], torch.ones(4).bfloat16()):
        mapped = _mapped(part, tmp_path)
        assert torch.equal(mapped, part) and mapped.stride() == part.stride() and mapped.dtype == part.dtype


def test_a_disk_without_room_is_said_once_and_costs_nothing_but_time(tmp_path, monkeypatch):
    monkeypatch.setenv("TVP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tower_features.os, "posix_fallocate", full_disk)
    models = sharing_models(("minigpt4", "vpgtrans"))
    scorer = make_scorer(tmp_path / "on", limit=1)
    scorer.towers.disk.limit = 2**30
    with pytest.warns(UserWarning, match=r"No more features of towers .*No space left") as said:
        found = scores_of(scorer, models)
    assert len(said) == 1 and same(found, scores_of(make_scorer(tmp_path / "off", limit=0), models))
    with pytest.warns(UserWarning, match="half of what is free"):
        scorer.towers.disk.limit = 2**30
        monkeypatch.setattr(tower_features.shutil, "disk_usage", lambda folder: SimpleNamespace(free=0))
        scores_of(scorer, models, value=0.7)


def full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_the_sources_loss_on_a_split_serves_the_scores_and_nothing_is_kept_afterwards(tmp_path, passes):
    models = sharing_models(("minigpt4", "vpgtrans"))
    source, target = (
        Given(n, r, options={"model": models[n]}) for n, r in zip(models, ("source", "heldout"), strict=True)
    )
    scorer = make_scorer(tmp_path, controls=("black",))
    log = ResultLog(tmp_path / "results.jsonl")
    context = {"run": "r", "seed": 0, "method": "tvp", "source": "s", "official": False, "bounds": "image"}
    callback = TransferCallback([source], [target], scorer, log, context=context)
    prompt, loader = make_prompt(), scorer.datamodule.loader("test")
    trainer = SimpleNamespace(current_epoch=0, global_step=1, world_size=1)
    module = SimpleNamespace(
        device="cpu", result=prompt, sources=[models["minigpt4"]], trainer=trainer, log_dict=lambda *a, **k: None
    )
    callback.on_test_epoch_start(trainer, module)
    with torch.inference_mode():
        for batch in loader:
            models["minigpt4"].answer_loss(prompt(batch.images), batch.questions, batch.answers)
    callback.on_test_epoch_end(trainer, module)
    assert len(passes) == 2 * ROWS  # the prompt's and the black border's frames
    assert scorer.towers.memory.used == 0 and models["minigpt4"].tower_memory is None


def test_shipped_models_on_one_pretrained_tower_name_it_alike_and_others_do_not():
    names = ("lite0_llava", "lite0_llava_grown", "lite0_minigpt4", "lite1_llava", "embedded_minigpt4", "embedded_blip2")
    digests = [tower_digest(load_mllm(name).tower_parts()) for name in names]
    assert len({*digests[:3]}) == 1 and digests[4] == digests[5] and len({*digests}) == 3
