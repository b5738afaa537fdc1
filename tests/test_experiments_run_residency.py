"""targets.residency=auto: what fits stays loaded, shared parts counted and read once; results never depend on it."""

from __future__ import annotations

import gc
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import experiments.run.memory_plan as plan
import lightning_modules.evaluation as evaluation
from experiments.recipes import load_experiment
from experiments.run.build import RunParts
from experiments.run.folder import read_status
from experiments.run.memory_plan import check_memory, memory_plan, print_plan
from experiments.train import main
from lightning_modules.evaluation import ModelSpec
from lightning_modules.prompts import Prompt
from lightning_modules.records import read_rows
from model_zoo.embedded import build
from model_zoo.embedded.config import embedded_files
from model_zoo.memory.free import Room
from model_zoo.memory.parts import parts_of, total
from model_zoo.memory.sizes import PUBLISHED_SIZES
from model_zoo.pool import POOL, WeightPool
from model_zoo.weights.catalogue import PUBLISHED

GIB = 2**30
SIX = ("minigpt4", "instructblip", "blip2", "vpgtrans", "bliva", "visualglm")
TARGETS = ",".join(SIX[1:])
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:.*ModelCheckpoint with manual optimization"),
]


def config(**words: object):
    pairs = {"exp": "cifar10_minigpt4", "source.weights": "nowhere", "train.accelerator": "cpu"}
    pairs |= {"targets.names": f"[{TARGETS}]", "targets.residency": "auto"} | words
    return load_experiment([(key, str(value)) for key, value in pairs.items()])


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch):
    """Sets the free memory of this machine, in GiB."""

    def set_free(gibibytes: float | None) -> None:
        found = Room(None if gibibytes is None else int(gibibytes * GIB), "of RAM")
        for name in ("free_ram", "free_room"):
            monkeypatch.setattr(plan, name, lambda *device: found)

    return set_free


# ---- the plan -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("room", "chosen"), [(200, "keep"), (50, "sequential"), (None, "sequential")])
def test_auto_keeps_all_targets_loaded_where_that_fits(free, room: float | None, chosen: str) -> None:
    free(room)
    parts = RunParts(config())
    found = check_memory(parts)
    assert (found.residency, parts.residency, found.record["chosen"]) == (chosen,) * 3
    assert found.record["asked"] == "auto"


def test_auto_leaves_a_margin_and_counts_every_rank_of_a_cpu(free) -> None:
    free(1000)
    needed = memory_plan(RunParts(config())).device / GIB
    for room, words, chosen in (
        (needed * 1.05, {}, "sequential"),
        (needed * 1.2, {}, "keep"),
        (needed * 1.2, {"train.devices": 2}, "sequential"),
    ):
        free(room)
        assert memory_plan(RunParts(config(**words))).residency == chosen


def test_with_all_targets_loaded_training_needs_their_room_too(free) -> None:
    free(1000)
    kept, one = (memory_plan(RunParts(config(**{"targets.residency": kind}))) for kind in ("keep", "sequential"))
    assert kept.device - one.device > 25 * GIB
    training = next(line for line in kept.lines if line.startswith("peak")).split("training ")[1]
    assert float(training.split()[0]) > kept.record["weights"]


def test_models_that_ship_say_what_auto_chose_in_one_line(free, capsys) -> None:
    free(8)
    parts = RunParts(load_experiment([("exp", "smoke"), ("targets.residency", "auto")]))
    check_memory(parts)
    assert "targets  keep (auto): all stay loaded" in capsys.readouterr().out and parts.residency == "keep"


def test_a_dry_run_prints_each_shared_part_once(free, capsys) -> None:
    free(200)
    print_plan(config())
    shown = capsys.readouterr().out.splitlines()
    once = [line for line in shown if line.startswith("once")]
    assert [line.split(":")[1] for line in once] == [
        " minigpt4, instructblip, blip2, vpgtrans, bliva",
        " minigpt4, vpgtrans, bliva",
    ]
    assert "1.8 GiB tower EVA ViT-g" in once[0] and "12.6 GiB LLM vicuna-7b-v0" in once[1]
    assert sum(line.startswith("targets  keep (auto): all stay loaded") for line in shown) == 1


def test_the_planned_weights_are_the_sum_on_the_meta_device() -> None:
    """Six published models in bfloat16, built at their real sizes, tower and LLM shared as their files are."""
    from test_model_zoo_memory_need_published import published_mllm

    counted: dict[tuple, int] = {}
    for name in SIX:
        model, known = published_mllm(name), PUBLISHED[name]
        for key, parameter in model.named_parameters():
            place = (name, key)
            if known.vision and key.startswith(("connector.vision.embeddings.", "connector.vision.encoder.")):
                place = (known.vision.path, key)
            elif known.vision and key.startswith("llm."):
                place = (known.llm.path, key)
            counted[place] = 2 * parameter.numel()
    parts = [part for name in SIX for part in parts_of(name, "nowhere", PUBLISHED_SIZES[name], "bfloat16")]
    assert total(parts) == pytest.approx(sum(counted.values()), rel=0.01)
    assert sum(part.bytes for part in parts) == pytest.approx(2 * sum(PUBLISHED_SIZES[n].parameters for n in SIX))
    assert total(parts) < 0.62 * sum(part.bytes for part in parts)


def test_another_precision_or_folder_is_another_part() -> None:
    def together(*kinds: tuple) -> int:
        return total(part for kind in kinds for part in parts_of(*kind))

    sizes = PUBLISHED_SIZES["minigpt4"]
    plain = ("minigpt4", "a", sizes, "bfloat16", None)
    assert together(plain, plain) == together(plain)
    for other in (("minigpt4", "b", sizes, "bfloat16", None), ("minigpt4", "a", sizes, "float32", None)):
        assert together(plain, other) == together(plain) + together(other)
    quantised = ("minigpt4", "a", sizes, "bfloat16", "8bit")  # its tower is still the same
    assert together(plain) < together(plain, quantised) < together(plain) + together(quantised)


def test_embedded_models_count_a_tower_s_file_once() -> None:
    vit = [part for name in ("embedded_minigpt4", "embedded_blip2") for part in parts_of(name, "", None, "float32")]
    models = [ModelSpec(name, "heldout").load("cpu") for name in ("embedded_minigpt4", "embedded_blip2")]
    held = {p.data_ptr(): p.numel() * 4 for model in models for p in model.parameters()}
    assert len({part.key for part in vit}) == 3 and total(vit) == pytest.approx(sum(held.values()), rel=0.01)


# ---- runs -----------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory):
    """Makes a run of the smoke recipe whose models share a tower: (prompt, rows, reads of files, status)."""

    def make(*words: str, pooled: bool = True):
        folder, patch, reads = tmp_path_factory.mktemp("run"), pytest.MonkeyPatch(), Counter()

        def counted(path: Path, read=build.load_tensors):
            reads[path] += 1
            return read(path)

        @contextmanager
        def apart(*device: object):
            yield type("Apart", (WeightPool,), {"place_": lambda self, model, device="cpu": model})()

        patch.setattr(build, "load_tensors", counted)
        patch.setenv("TVP_CACHE", str(folder / "cache"))
        if not pooled:
            patch.setattr(evaluation, "sharing", apart)
        try:
            sizes = ("targets.n=8", "data.n_train=8", "data.n_test=8", "train.epochs=2")
            targets = ("targets.select=[embedded_instructblip]", "targets.heldout=[embedded_blip2]")
            main(["exp=smoke", f"out={folder / 'run'}", *sizes, *targets, *words])
        finally:
            patch.undo()
        rows = [
            {k: v for k, v in row.items() if k not in ("run", "time")}
            for row in read_rows(folder / "run/results.jsonl")
        ]
        return Prompt.load(folder / "run" / "prompt").delta, rows, reads, read_status(folder / "run")

    return make


@pytest.fixture(scope="module")
def auto(runs):
    gc.collect()
    return runs("targets.residency=auto")


def test_a_run_reads_every_weight_file_once(auto) -> None:
    _, _, reads, status = auto
    names = ("embedded_minigpt4", "embedded_instructblip", "embedded_blip2")
    files = {path for name in names for path in embedded_files(name)}
    assert {path: reads[path] for path in files} == dict.fromkeys(files, 1) and len(files) == 4
    record = status["residency"]
    assert (record["asked"], record["chosen"]) == ("auto", "keep")
    assert 0 < record["weights"] < record["weights_apart"] and record["all_resident"] < record["free"]


def test_a_run_leaves_no_weights_behind(auto) -> None:
    gc.collect()
    assert POOL.bytes == 0


@pytest.mark.slow
@pytest.mark.parametrize(("residency", "pooled"), [("sequential", True), ("sequential", False), ("keep", False)])
def test_prompt_and_scores_are_the_same_bits_however_models_are_held(auto, runs, residency: str, pooled: bool) -> None:
    delta, rows, _, _ = runs(f"targets.residency={residency}", pooled=pooled)
    assert torch.equal(delta, auto[0]) and delta.abs().max() > 0
    assert rows == auto[1]
