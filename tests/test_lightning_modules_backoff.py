"""Scoring under little memory: the batch is halved, the same rows are tried again, the result is the same."""

from __future__ import annotations

import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.tiny_models import tiny_mllm
from support.toy_data import Toy
from test_lightning_modules_scorer import FRAME, PAD, Spec, make_prompt, make_scorer

from lightning_modules import ranks, scorer
from lightning_modules.backoff import RowLimit, in_pieces, is_out_of_memory
from lightning_modules.controls import Control, ControlStore, templates_digest
from lightning_modules.evaluation import _see_only, score_batches, score_inputs

BLACK = {"black": (FRAME - 2 * PAD, Control("black", FRAME, PAD))}
ERRORS = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    "python": MemoryError(),
    "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: 99 bytes."),
}


class Small(torch.nn.Module):
    """A tiny model whose memory takes `most` images; notes how many it was given each time."""

    def __init__(self, most, error="cuda"):
        super().__init__()
        self.inner, self.most, self.error, self.calls = tiny_mllm("minigpt4"), most, ERRORS[error], []
        self.name, self.device = "small", torch.device("cpu")

    def score(self, frames, questions, candidates):
        self.calls.append(len(frames))
        if len(frames) > self.most:
            raise self.error
        return self.inner.score(frames, questions, candidates)


def toy(**options):
    return Toy(image_size=FRAME - 2 * PAD, count=21, **{"eval_batch_size": 21, **options})


def scored(model, limit=None, data=None):
    return score_inputs(model, data or toy(), BLACK, split="val", n=None, limit=limit)["black"]


@pytest.mark.parametrize(("error", "most"), [*zip(ERRORS, [1, 4, 20], strict=True)])
def test_scores_ids_and_order_are_those_of_enough_memory(most, error, capsys):
    plain, small, limit = scored(Small(99)), Small(most, error), RowLimit()
    tight = scored(small, limit)
    assert tight.ids == plain.ids and len(set(tight.ids)) == 21  # no row twice, none lost
    np.testing.assert_allclose(tight.scores, plain.scores, atol=1e-5)
    assert np.array_equal(tight.labels, plain.labels) and tight.groups == plain.groups
    assert (
        0 < limit.rows <= most and "out of memory with 21 images at a time; going on with 10" in capsys.readouterr().out
    )


def test_what_was_found_is_remembered_for_later_batches_and_passes():
    small, limit = Small(5), RowLimit()
    scored(small, limit)
    assert small.calls == [21, 10, 5, 5, 5, 5, 1] and limit.rows == 5
    small.calls.clear()
    scored(small, limit)
    assert small.calls == [5, 5, 5, 5, 1]


def test_the_scorer_remembers_a_limit_per_model(tmp_path, monkeypatch):
    seen = []

    def watch(mllm, *args, limit, **where):
        limit.rows = limit.rows or 3
        seen.append((mllm.name, limit.rows))
        return score_inputs(mllm, *args, limit=limit, **where)

    monkeypatch.setattr(scorer, "score_inputs", watch)
    own = make_scorer(tmp_path, controls=("black",))
    for name in ("tiny_minigpt4", "tiny_blip2", "tiny_minigpt4"):
        own.score(Spec(name, "select"), "val", {"prompt": make_prompt()})
    assert {key: limit.rows for key, limit in own.limits.items()} == {
        "tiny_minigpt4 float32": 3,
        "tiny_blip2 float32": 3,
    }
    assert len(seen) == 3


def test_rows_of_their_own_candidates_are_cut_with_their_images():
    class Own(Toy):
        candidates = None

        def build_rows(self, split):
            return [row._replace(candidates=["a", "b", "c", "a b"][: 3 + i % 2], label=i % 3)
                    for i, row in enumerate(super().build_rows(split))]  # fmt: skip

    data = Own(image_size=FRAME - 2 * PAD, count=9, eval_batch_size=9)
    plain, tight = scored(Small(99), data=data), scored(Small(1), data=data)
    assert plain.ids == tight.ids and plain.scores.shape == tight.scores.shape == (9, 4)
    np.testing.assert_allclose(tight.scores, plain.scores, atol=1e-5)


def test_one_image_that_does_not_fit_is_an_error_with_numbers():
    message = (
        r"'small' ran out of memory with one image of 12 px .* weights take .* [KM]iB, .* are free .*targets\.dtype"
    )
    with pytest.raises(MemoryError, match=message):
        scored(Small(0))


def test_other_errors_pass_through_and_do_not_shrink_anything():
    def broken(batch):
        raise RuntimeError("shapes cannot be multiplied")

    limit = RowLimit()
    batch = next(iter(toy().loader("val")))
    with pytest.raises(RuntimeError, match="shapes cannot"):
        in_pieces(batch, broken, limit, SimpleNamespace(name="x"))
    assert limit.rows is None and not is_out_of_memory(ValueError("allocate memory"))


def test_every_input_of_a_batch_backs_off_on_its_own():
    small = Small(10)
    inputs = {name: Control(name, FRAME, PAD) for name in ("black", "replicate")}
    result = score_batches(small, toy().loader("val"), inputs, ["a", "b", "c"])
    assert result["black"].ids == result["replicate"].ids and small.calls == [21, 10, 10, 1, 10, 10, 1]


# ---- the key of stored controls --------------------------------------------------------------------------------------
def test_stored_controls_know_templates_options_and_the_data_set_s_name(tmp_path, monkeypatch):
    from model_zoo import templates

    own, spec = make_scorer(tmp_path), Spec("tiny_minigpt4", "source")
    before = own.store_key(spec, "val", 7)
    assert {"model", "mllm", "options", "official", "dtype", "templates", "data", "data_name"} | {
        "code",
        "libraries",
    } == set(before)
    for name, other in (("code_version", "another"), ("library_versions", {"torch": "0"})):
        with monkeypatch.context() as patch:
            patch.setattr(f"lightning_modules.scorer.{name}", lambda other=other: other)
            assert own.store_key(spec, "val", 7) != before
    assert own.store_key(Spec("tiny_minigpt4", "source", options={"scoring": "naive"}), "val", 7) != before
    changed = templates.TEMPLATES | {"llava": templates.Template(cls="{question}?")}
    digest = templates_digest()
    monkeypatch.setattr(templates, "TEMPLATES", changed)
    assert templates_digest() != digest and own.store_key(spec, "val", 7) != before
    monkeypatch.setattr(own.datamodule, "name", "another")
    store, control = ControlStore(tmp_path), Control("black", FRAME, PAD)
    assert store.path(control, **own.store_key(spec, "val", 7)) != store.path(control, **before)


# ---- a GPU each ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("visible", "device", "expected"), [
    (None, "cuda:0", ["1", "2"]), ("5,3,7", "cuda:1", ["5", "7"]), ("5,3,7", "cuda", ["3", "7"]), (None, "cpu", []),
])  # fmt: skip
def test_processes_get_the_gpus_beside_the_one_that_trains(monkeypatch, visible, device, expected):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert ranks.other_gpus(device) == expected


def test_targets_in_processes_run_side_by_side_each_on_its_own_gpu(tmp_path, monkeypatch):
    import threading

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # loaders would pin memory
    together, seen = threading.Barrier(2, timeout=30), {}

    def alone(spec, data, inputs, *, gpu, device, threads, limit, **where):
        seen[spec.name] = (gpu, device)
        together.wait()  # only passes while both run
        return score_inputs(spec.load("cpu"), data, inputs, **where)

    monkeypatch.setattr(scorer, "score_in_process", alone)
    own = make_scorer(tmp_path, controls=("black",), residency="process", device="cuda:0")
    specs = [Spec("tiny_minigpt4", "select"), Spec("tiny_blip2", "select")]
    results = list(own.score_all(specs, "val", {"prompt": make_prompt()}))
    assert [spec.name for spec, _ in results] == ["tiny_minigpt4", "tiny_blip2"]  # in order, whoever was first
    assert sorted(seen.values()) == [("1", "cuda:0"), ("2", "cuda:0")]
    one_by_one = make_scorer(tmp_path / "b", controls=("black",))
    for spec, records in results:
        again = one_by_one.score(spec, "val", {"prompt": make_prompt()})
        assert all((again[name].scores == records[name].scores).all() for name in again)


def test_a_fresh_process_sees_only_its_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    _see_only(None)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"
    _see_only("1")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
