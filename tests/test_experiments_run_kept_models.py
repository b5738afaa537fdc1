"""What runs of one worker keep loaded: the next loads what is new, has room, and gives a fresh process's bits."""

from __future__ import annotations

import gc
import shutil
from collections import Counter
from pathlib import Path
from weakref import ref

import pytest
import torch
from support.tiny_models import tiny_images

import experiments.run.kept_models as kept_models
import experiments.run.memory_plan as plan
from experiments.recipes import load_experiment
from experiments.run.build import RunParts, _load_clip
from experiments.run.ensure import NamedRun, _start_worker, ensure_all, ensure_run
from experiments.run.kept_models import keep_models, kept_bytes, load_kept, make_room
from experiments.run.memory_plan import SPARE, check_memory, memory_plan
from lightning_modules.evaluation import ModelSpec
from lightning_modules.prompts import Prompt
from lightning_modules.records import read_rows
from model_zoo.embedded import build
from model_zoo.embedded.config import embedded_files
from model_zoo.memory.free import Room

SOURCE, TARGET = ModelSpec("embedded_minigpt4", "source"), ModelSpec("embedded_blip2", "heldout")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:.*ModelCheckpoint with manual optimization"),
]


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """How often each model is loaded."""
    count, real = Counter(), ModelSpec.load

    def counted(spec: ModelSpec, device: object):
        count[spec.name] += 1
        return real(spec, device)

    monkeypatch.setattr(ModelSpec, "load", counted)
    return count


def test_outside_nothing_is_kept(loads: Counter) -> None:
    assert load_kept(SOURCE) is not load_kept(SOURCE)
    assert loads == {"embedded_minigpt4": 2} and not kept_models._models


def test_the_same_model_is_loaded_once(loads: Counter) -> None:
    with keep_models():
        assert load_kept(SOURCE) is load_kept(SOURCE) and load_kept(TARGET) is load_kept(TARGET)
        select = ModelSpec("embedded_blip2", "select")
        assert load_kept(select) is load_kept(TARGET)
    assert loads == {"embedded_minigpt4": 1, "embedded_blip2": 1}


@pytest.mark.parametrize(
    "other",
    [
        {"role": "heldout"},
        {"dtype": "bfloat16"},
        {"checkpointing": True},
        {"options": {"scoring": "naive"}},
    ],
    ids=str,
)
def test_what_differs_in_any_respect_is_another_model(other: dict) -> None:
    with keep_models():
        one, two = load_kept(SOURCE), load_kept(ModelSpec(**{"name": SOURCE.name, "role": "source"} | other))
        assert one is not two and len(kept_models._models) == 2


def test_a_compiled_model_is_not_kept(loads: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model_zoo.layer_options.require_compiler", lambda: None)
    with keep_models():
        load_kept(ModelSpec(SOURCE.name, "source", compile=True))
        assert not kept_models._models


def test_a_model_that_a_trainer_has_cast_is_loaded_anew(loads: Counter) -> None:
    with keep_models():
        first = load_kept(SOURCE)
        images, texts = tiny_images(2, 64), ["What is this?"] * 2
        before = first.score(images, texts, ["cat", "dog"])
        first.to(torch.bfloat16)
        assert torch.equal(load_kept(SOURCE).score(images, texts, ["cat", "dog"]), before)
    assert loads[SOURCE.name] == 2


def test_a_model_handed_out_in_a_validation_still_passes_gradients_on() -> None:
    with keep_models(), torch.inference_mode():
        load_kept(TARGET)
        model = load_kept(TARGET)
    assert not any(parameter.is_inference() for parameter in model.parameters())
    frames = tiny_images(2, 64).requires_grad_()
    nats, _ = model.answer_loss(frames, ["What is this?"] * 2, ["cat", "dog"])
    assert torch.autograd.grad(nats.sum(), frames)[0].abs().max() > 0


def test_a_changed_file_is_loaded_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    prints = iter("aab")
    monkeypatch.setattr(ModelSpec, "fingerprint", lambda spec: next(prints))
    with keep_models():
        one, same, other = load_kept(SOURCE), load_kept(SOURCE), load_kept(SOURCE)
    assert one is same is not other


def test_at_the_end_all_are_let_go() -> None:
    with keep_models():
        with keep_models():
            held = ref(load_kept(SOURCE))
        assert held() is not None
    gc.collect()
    assert held() is None


def test_a_worker_reads_of_its_next_source_only_what_the_last_one_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: Counter = Counter()
    real = build.load_tensors
    monkeypatch.setattr(build, "load_tensors", lambda path: (reads.update([path]), real(path))[1])
    with keep_models():
        for name in ("web_minigpt4", "web_blip2"):
            load_kept(ModelSpec(name, "source"))
    assert reads[embedded_files("web_blip2")[0]] == 1 and reads[embedded_files("web_blip2")[1]] == 1


def test_two_runs_have_one_clip() -> None:
    config = load_experiment([("exp", "smoke")])
    with keep_models():
        assert _load_clip(config) is _load_clip(config)
    assert _load_clip(config) is not _load_clip(config)


# ---- room -----------------------------------------------------------------------------------------------------------
def smoke(**words: object) -> RunParts:
    pairs = {"exp": "smoke", "targets.select": "[]", "targets.heldout": "[embedded_blip2]"} | words
    return RunParts(load_experiment([(key, str(value)) for key, value in pairs.items()]))


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch):
    """Sets the bytes that are free on this machine beside what is kept."""

    def set_free(found: int | None) -> None:
        for name in ("free_ram", "free_room"):
            monkeypatch.setattr(plan, name, lambda *device: Room(found, "of RAM"))

    return set_free


def test_kept_weights_are_counted_once_and_as_free(free) -> None:
    with keep_models():
        models = load_kept(SOURCE), load_kept(TARGET)
        places = {p.data_ptr(): p.nbytes for model in models for p in model.parameters()}
        assert kept_bytes("cpu") == sum(places.values()) < sum(p.nbytes for m in models for p in m.parameters())
        assert kept_bytes("cuda") == 0
        parts = smoke(**{"targets.residency": "auto"})
        room = int(memory_plan(parts).device / SPARE) - kept_bytes("cpu") // 2
        free(room)
        assert check_memory(parts).residency == "keep"
        assert load_kept(TARGET) is models[1] and load_kept(SOURCE) is models[0]
    assert check_memory(smoke(**{"targets.residency": "auto"})).residency == "sequential"


@pytest.mark.parametrize(("room", "stay"), [(2**40, 3), (0, 2), (None, 2)])
def test_models_of_other_runs_stay_only_where_the_next_run_fits_beside_them(free, room: int | None, stay: int) -> None:
    with keep_models():
        parts = smoke(**{"targets.residency": "keep"})
        for spec in (*parts.models, ModelSpec("embedded_llava", "heldout")):
            load_kept(spec)
        free(room)
        check_memory(parts)
        assert len(kept_models._models) == stay


def test_targets_go_where_the_next_run_has_no_room_to_keep_them(free) -> None:
    with keep_models():
        parts = smoke(**{"targets.residency": "sequential"})
        source, *_ = [load_kept(spec) for spec in parts.models]
        free(0)
        check_memory(parts)
        assert [model for model, _ in kept_models._models.values()] == [source]


def test_what_is_on_the_device_already_is_room_for_the_run_that_takes_it_over() -> None:
    with keep_models():
        load_kept(SOURCE), load_kept(TARGET)
        make_room([SOURCE], "cpu", kept_bytes("cpu", [kept_models._key(SOURCE)]), 0)
        assert len(kept_models._models) == 2
        make_room([SOURCE], "cpu", kept_bytes("cpu", [kept_models._key(SOURCE)]) + 1, 0)
        assert len(kept_models._models) == 1


# ---- runs -----------------------------------------------------------------------------------------------------------
WORDS = [
    ("exp", "smoke"), ("targets.select", "[embedded_instructblip]"), ("targets.heldout", "[embedded_blip2]"),
    ("targets.residency", "keep"), ("targets.n", "8"), ("data.n_train", "8"), ("data.n_test", "8"),
]  # fmt: skip
CELLS = [
    NamedRun(f"{source}_{seed}", [*WORDS, ("source.name", source), ("seed", str(seed))])
    for source, seed in (("embedded_minigpt4", 0), ("embedded_minigpt4", 1), ("embedded_llava", 0))
]


def made(folder: Path) -> tuple:
    """The prompt's bits, all rows but their time, and the scores of every sample."""
    rows = [{k: v for k, v in row.items() if k != "time"} for row in read_rows(folder / "results.jsonl")]
    scores = {path.name: path.read_bytes() for path in sorted((folder / "scores").iterdir())}
    return Prompt.load(folder / "prompt").delta.numpy().tobytes(), rows, scores


@pytest.mark.slow
def test_cells_after_the_first_load_nothing_they_have_and_give_the_bytes_of_fresh_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loads: Counter
) -> None:
    monkeypatch.setenv("TVP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parent.parent))
    counts = []
    with keep_models():
        for cell in CELLS:
            ensure_run(cell, tmp_path / "kept")
            counts.append(dict(loads))
            loads.clear()
    first, *others = counts
    assert first == dict.fromkeys(("embedded_minigpt4", "embedded_instructblip", "embedded_blip2"), 1)
    assert others == [{}, {"embedded_llava": 1}]
    shutil.rmtree(tmp_path / "cache")  # controls are scored there too
    for cell in CELLS:  # each in a process of its own
        ensure_all([cell], tmp_path / "fresh")
        assert made(tmp_path / "fresh" / cell.name) == made(tmp_path / "kept" / cell.name)


def test_the_processes_of_many_runs_keep_models_too(loads: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_models, "_keeping", 0)
    monkeypatch.setattr(kept_models, "_models", {})
    threads = torch.get_num_threads()
    _start_worker()
    torch.set_num_threads(threads)
    gc.collect()
    assert load_kept(SOURCE) is load_kept(SOURCE) and loads[SOURCE.name] == 1
