"""targets.residency=auto: what fits stays loaded, shared parts counted and read once; results never depend on it."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from support.pool_off import pool_off, pool_off_below
from support.sweep_engines import results, tiny_sweep

import experiments.run.memory_plan as plan
from experiments.recipes import load_experiment
from experiments.run.build import RunParts
from experiments.run.folder import read_status
from experiments.run.memory_plan import check_memory, memory_plan, print_plan, resident_lines
from experiments.sweep import worker
from experiments.train import main
from lightning_modules.evaluation import ModelSpec
from lightning_modules.prompts import Prompt
from lightning_modules.records import read_rows
from lightning_modules.tvp import TVPModule
from model_zoo.embedded import build
from model_zoo.embedded.config import embedded_files
from model_zoo.memory.free import Room
from model_zoo.memory.parts import parts_of, total
from model_zoo.memory.sizes import PUBLISHED_SIZES
from model_zoo.pool import POOL
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
    run = RunParts(config(method="evp"))  # no CLIP; a dry run and a sweep print the same sum
    *_, last = resident_lines([run, run])
    printed = (float(last.split()[1]), memory_plan(run).record["weights"])
    assert printed == pytest.approx((sum(counted.values()) / GIB,) * 2, rel=0.01) and last.endswith("as bfloat16")


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


def test_auto_reads_ahead_where_two_fit_in_an_order_that_no_free_memory_changes(free, capsys) -> None:
    names = {"exp": "cifar10_instructblip", "targets.names": "[minigpt4,blip2,vpgtrans,visualglm,bliva]"}
    order = ["minigpt4", "vpgtrans", "bliva", "blip2", "visualglm"]  # three in a row around one Vicuna
    free(1000)
    whole = memory_plan(RunParts(config(**names)))
    one = memory_plan(RunParts(config(**names, **{"targets.residency": "sequential"})))
    plans = {}
    for room in (one.device / 2, one.device, whole.device):
        free(room / GIB)
        parts = RunParts(config(**names, **{"train.memory_check": "warn"}))
        plans[room] = found = check_memory(parts)
        assert (found.residency, parts.order, parts.beside) == ("sequential", order, found.beside)
    tight, some, most = plans.values()
    assert (tight.record["ahead"], most.record["ahead"]) == ([], order) and some.device <= one.device
    assert one.device < most.device < whole.device and whole.order == order
    assert most.record["read_at_every_scoring"] < tight.record["read_at_every_scoring"] - 2 * 12
    shown = capsys.readouterr().out
    assert f"order    {', '.join(order)}; read while the one before is scored: {', '.join(order)};" in shown
    assert f"order    {', '.join(order)}; read while the one before is scored: none;" in shown


def test_sequential_and_keep_load_as_they_are_told_to(free) -> None:
    free(1000)
    for residency in ("sequential", "keep"):
        found = memory_plan(RunParts(config(**{"targets.residency": residency})))
        assert (found.order, found.beside, found.record["ahead"]) == (list(SIX[1:]), [], [])


# ---- runs -----------------------------------------------------------------------------------------------------------
class Made(NamedTuple):
    """What a run left: the prompt's bits, its rows but for their time, the scores of every sample."""

    delta: torch.Tensor
    rows: list[dict]
    scores: dict[str, bytes]

    @classmethod
    def read(cls, folder: Path) -> Made:
        rows = [
            {k: v for k, v in row.items() if k not in ("run", "time")} for row in read_rows(folder / "results.jsonl")
        ]
        scores = {path.name: path.read_bytes() for path in sorted((folder / "scores").iterdir())}
        return cls(Prompt.load(folder / "prompt").delta, rows, scores)

    def of_test(self) -> tuple:
        """What is final. Roles differ where a target is held out here and steers there."""
        rows = [{k: v for k, v in row.items() if k != "role"} for row in self.rows if row["split"] == "test"]
        return rows, {name: data for name, data in self.scores.items() if name.startswith("test")}


class Killed(BaseException):
    pass


SHAPE = ("targets.n=8", "data.n_train=8", "data.n_test=8", "train.epochs=2")
TARGETS_ON_VIT = ("targets.select=[embedded_instructblip]", "targets.heldout=[embedded_blip2]")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory):
    """Makes a run of the smoke recipe whose models share a tower: (what it left, reads of files, status).

    pooled: with the pool of weights. cut: killed in the second epoch and continued. ahead: one at a time, the next one
    read in the background.
    """

    def make(*words: str, pooled: bool = True, cut: bool = False, ahead: bool = False):
        folder, patch, reads = tmp_path_factory.mktemp("run"), pytest.MonkeyPatch(), Counter()
        gc.collect()  # of the last run's models, whose weights would not be read again
        words = ("exp=smoke", f"out={folder / 'run'}", *SHAPE, *TARGETS_ON_VIT, *words)

        def counted(path: Path, read=build.load_tensors):
            reads[path] += 1
            return read(path)

        def kill(module: TVPModule) -> None:
            if module.current_epoch == 1:
                raise Killed

        with patch.context() as patched:
            patched.setattr(build, "load_tensors", counted)
            patched.setenv("TVP_CACHE", str(folder / "cache"))
            if not pooled:
                pool_off(patched.setattr)
            if ahead:  # as where two fit, but not all
                beside = [("", "embedded_blip2"), ("embedded_blip2", "embedded_instructblip")]
                chosen = {"residency": "sequential", "beside": beside, "order": [name for _, name in beside]}
                patched.setattr(plan, "memory_plan", lambda parts: memory_plan(parts)._replace(**chosen))
            if cut:
                with patched.context() as until, pytest.raises(Killed):
                    until.setattr(TVPModule, "on_train_epoch_start", kill, raising=False)
                    main([*words, "train.checkpoint_every=1"])
                words = (f"resume={folder / 'run'}",)
            main(list(words))
        return Made.read(folder / "run"), reads, read_status(folder / "run")

    return make


@pytest.fixture(scope="module")
def auto(runs):
    return runs("targets.residency=auto")


@pytest.mark.slow
def test_a_run_reads_every_weight_file_once(auto) -> None:
    _, reads, status = auto
    names = ("embedded_minigpt4", "embedded_instructblip", "embedded_blip2")
    files = {path for name in names for path in embedded_files(name)}
    assert {path: reads[path] for path in files} == dict.fromkeys(files, 1) and len(files) == 4
    record = status["residency"]
    assert (record["asked"], record["chosen"]) == ("auto", "keep")
    assert 0 < record["weights"] < record["weights_apart"] and record["all_resident"] < record["free"]


@pytest.mark.slow
def test_a_run_leaves_no_weights_behind(auto) -> None:
    gc.collect()
    assert POOL.bytes == 0


def same(made: Made, other: Made) -> bool:
    return torch.equal(made.delta, other.delta) and made.rows == other.rows and made.scores == other.scores


@pytest.mark.slow
@pytest.mark.parametrize(("residency", "ahead"), [("sequential", False), ("keep", False), ("auto", True)])
@pytest.mark.parametrize("pooled", [True, False])
def test_prompt_and_scores_are_the_same_bits_however_models_are_held(
    auto, runs, residency: str, ahead: bool, pooled: bool
) -> None:
    made, reads, _ = runs(f"targets.residency={residency}", pooled=pooled, ahead=ahead)
    assert auto[0].delta.abs().max() > 0 and len(auto[0].scores) > 20
    assert same(made, auto[0])
    assert (reads.total() == auto[1].total()) == (pooled and residency == "keep")


@pytest.mark.slow
def test_a_process_for_each_target_gives_the_same_bits(auto, runs) -> None:
    """Both are held out, so that no process is started for a validation."""
    words = ("targets.select=[]", "targets.heldout=[embedded_instructblip,embedded_blip2]", "targets.curves=false")
    made, _, _ = runs("targets.residency=process", *words)
    assert torch.equal(made.delta, auto[0].delta) and made.of_test() == auto[0].of_test()


@pytest.mark.slow
@pytest.mark.parametrize("pooled", [True, False])
def test_a_run_that_was_killed_and_continued_gives_the_same_bits(auto, runs, pooled: bool) -> None:
    made, _, _ = runs("targets.residency=auto", pooled=pooled, cut=True)
    assert torch.equal(made.delta, auto[0].delta) and made.of_test() == auto[0].of_test()


@pytest.mark.slow
def test_two_ranks_give_the_same_bits_without_the_pool(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parent.parent
    words = ["exp=smoke", *SHAPE[:3], "train.epochs=1", "targets.select=[]", "targets.heldout=[embedded_blip2]"]
    words += [
        "targets.residency=auto",
        "train.accelerator=cpu",
        "train.devices=2",
        "train.strategy=ddp",
        "train.batch_size=4",
    ]
    found = []
    for name, path in (("pooled", str(root)), ("apart", pool_off_below(tmp_path))):
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "TVP_CACHE": str(tmp_path / name)}
        args = [sys.executable, "-m", "experiments.train", *words, f"out={tmp_path / 'run' / name}"]
        done = subprocess.run(args, env=env, cwd=root, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        found.append(Made.read(tmp_path / "run" / name))
    assert same(*found) and found[0].delta.abs().max() > 0


@pytest.mark.slow
def test_two_workers_without_the_pool_give_the_matrix_of_one_that_keeps_its_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for name, workers in (("one", 1), ("two", 2)):
        monkeypatch.setenv("TVP_CACHE", str(tmp_path / "cache" / name))
        folder, cells, plan = tiny_sweep(tmp_path / name, "evp,tvp")
        with monkeypatch.context() as patched:
            if workers == 2:
                pool_off(patched.setattr)
            done = [worker.work(folder.path, plan, f"w{i}", limit=len(cells) // workers) for i in range(workers)]
        assert done == [len(cells) // workers] * workers
        found.append(results(folder, cells))
    assert found[0] == found[1]


def test_without_the_pool_models_hold_their_own_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    pool_off(monkeypatch.setattr)
    one, two = (ModelSpec(name, "heldout").load("cpu") for name in ("embedded_minigpt4", "embedded_blip2"))
    assert not {p.data_ptr() for p in one.parameters()} & {p.data_ptr() for p in two.parameters()}
