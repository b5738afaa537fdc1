"""The bench: its naive side computes what ours does, its rows are complete, its counts are right. Nothing is timed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from experiments.bench import __main__ as bench
from experiments.bench.gpu import (
    NO_GPU,
    device_peak,
    flops,
    gpu_calls,
    llm_tokens,
    resident_line,
    resident_models,
    resident_row,
)
from experiments.bench.hub import CANDIDATES, HUB, hub_task, own_scores, tiny_hub_model
from experiments.bench.measure import FIELDS, TOLERANCE, measure, rank_group, train_group
from experiments.bench.models import (
    ARCHITECTURES,
    MICRO,
    bench_inputs,
    bench_names,
    build_bench_clip,
    build_bench_model,
)
from experiments.bench.naive import fresh_cache, naive_scores
from experiments.bench.peak_memory import rss_row
from experiments.bench.table import bench_text
from experiments.bench.targets import Stored, targets_row
from experiments.bench.tasks import PATHS
from lightning_modules.tower_features import TowerFeatures
from model_zoo.cache_argument import cache_argument, cache_of

TRAINED = [path for path in PATHS if path != "rank"]
ONCE = {"vision": 1, "llm": 1}


@pytest.fixture(scope="module")
def clip():
    return build_bench_clip(MICRO)


@pytest.fixture(params=ARCHITECTURES)
def model(request):
    return build_bench_model(request.param, MICRO)


def frames_of(inputs):
    return F.pad(inputs.images, [MICRO.pad] * 4)


@pytest.mark.parametrize("n", [2, 10, 45])
def test_the_naive_protocol_ranks_as_ours(model, n):
    inputs = bench_inputs(3, MICRO)
    ours = model.score(frames_of(inputs), inputs.questions, bench_names(n))
    naive = naive_scores(model, frames_of(inputs), bench_names(n))
    assert ours.shape == naive.shape == (3, n)
    assert ours.std(0).max() > 1e-3, "the pictures must matter"
    torch.testing.assert_close(ours, naive, atol=1e-5, rtol=0)


def test_the_naive_step_has_the_gradient_of_ours(model, clip, tmp_path):
    tasks = train_group(model, clip, TRAINED, 2, MICRO, tmp_path)
    assert [task.path for task in tasks] == TRAINED
    assert tasks[1].naive is tasks[2].naive  # one naive step for both, timed once
    naive = {side: side() for side in dict.fromkeys(task.naive for task in tasks)}
    for task in tasks:
        loss, gradient = task.ours()
        assert gradient.abs().max() > 0 and task.difference((loss, gradient), naive[task.naive]) <= TOLERANCE


def test_fca_and_tse_reach_the_naive_gradient(clip, tmp_path):
    plain, both, _ = train_group(build_bench_model("minigpt4", MICRO), clip, TRAINED, 2, MICRO, tmp_path)
    assert plain.difference(plain.ours(), both.naive()) > 1e-3


def test_only_the_naive_clip_has_weight_gradients(clip, tmp_path):
    task = train_group(build_bench_model("minigpt4", MICRO), clip, ["train_fca_tse"], 2, MICRO, tmp_path)[0]
    task.naive.gradient()
    assert all(parameter.grad is not None for parameter in task.naive.clip.parameters())
    task.ours(), task.floor()
    frozen = [*clip.parameters(), *task.naive.model.parameters()]
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in frozen)


@pytest.mark.slow
def test_forward_calls_are_counted(clip, tmp_path):
    rows = {}
    for name in ("minigpt4", "blip2_t5", "visualglm"):
        model = build_bench_model(name, MICRO)
        for group in (rank_group(model, 2, MICRO), train_group(model, clip, TRAINED, 2, MICRO, tmp_path)):
            rows |= {(name, row["path"], row["candidates"]): row["forwards"] for row in measure(model, group, 1)}
    assert rows["minigpt4", "rank", 2] == {"ours": ONCE, "naive": {"vision": 1, "llm": 3}}
    assert rows["minigpt4", "rank", 100] == {"ours": ONCE, "naive": {"vision": 1, "llm": 101}}
    assert rows["blip2_t5", "rank", 10] == {"ours": {"vision": 1, "llm": 2}, "naive": {"vision": 1, "llm": 20}}
    assert rows["visualglm", "rank", 10] == {"ours": ONCE, "naive": {"vision": 10, "llm": 10}}
    assert rows["visualglm", "rank", 45] == {"ours": ONCE, "naive": None}
    assert rows["minigpt4", "train_plain", None] == {"ours": ONCE, "naive": ONCE}
    three = {"vision": 3, "llm": 1}
    assert rows["minigpt4", "train_fca_tse", None] == {"ours": {"vision": 2, "llm": 1}, "naive": three}
    assert rows["minigpt4", "train_fca_tse_cached", None] == {"ours": ONCE, "naive": three}


def test_a_cache_given_to_one_class_is_not_changed_for_the_next():
    llm = build_bench_model("minigpt4", MICRO).llm
    cache = cache_of(llm(inputs_embeds=torch.randn(1, 5, 32), use_cache=True))
    llm(inputs_embeds=torch.randn(1, 3, 32), use_cache=True, **cache_argument(llm, fresh_cache(cache)))
    assert cache.get_seq_length() == 5


def test_a_naive_side_that_computes_something_else_is_not_timed():
    model = build_bench_model("minigpt4", MICRO)
    task = rank_group(model, 2, MICRO)[0]
    wrong = task._replace(naive=lambda: task.naive() + 1e-3)
    with pytest.raises(RuntimeError, match=r"rank 2: ours and the naive protocol differ by 1\.0e-03"):
        list(measure(model, [wrong], 1))


@pytest.mark.parametrize("family", HUB)
def test_tiny_models_of_the_hub_rank_as_their_own_forward_with_one_pass_for_all_candidates(family):
    model = tiny_hub_model(family)
    task = hub_task(model, 2, 10)
    torch.testing.assert_close(task.ours(), task.naive(), atol=1e-5, rtol=0)
    assert task.ours().std(0).max() > 1e-3, "the pictures must matter"
    (row,) = measure(model, [task], 1)
    assert row["forwards"] == {"ours": ONCE, "naive": {"vision": 20, "llm": 20}}


def test_the_image_processor_runs_once_a_batch_and_once_a_picture_size_not_once_a_question():
    model, calls = tiny_hub_model("smolvlm"), []
    preprocess = model.images.preprocess
    model.images.preprocess = lambda *args, **kwargs: calls.append(1) or preprocess(*args, **kwargs)
    questions, frames = [f"is it {word}?" for word in ("a", "b", "c", "d")], torch.rand(4, 3, 40, 40)
    first = model.score(frames, questions, ["no", "yes"])
    assert len(calls) == 2, "the batch, and a blank picture of its size"
    model.score(frames, [f"{question} now" for question in questions], ["no", "yes"])
    assert len(calls) == 3
    model.score(torch.rand(4, 3, 44, 44), questions, ["no", "yes"])
    assert len(calls) == 5
    torch.testing.assert_close(first, own_scores(model, frames, questions, ["no", "yes"]), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_a_whole_run_has_every_row_and_every_field(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("experiments.bench.command.rss_row", lambda name, **_: RSS | {"architecture": name})
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    out = tmp_path / "new" / "bench.json"
    assert bench.main([f"out={out}", "repeats=1", "batch=2"], size="MICRO") == 0
    result = json.loads(out.read_text())
    assert list(result) == ["device", "threads", "torch", "rows", "rss", "targets"]
    assert result["device"].startswith("cpu: ") and result["torch"] == torch.__version__
    expected = [(name, path, n) for name in ARCHITECTURES for path, counts in PATHS.items() for n in counts]
    expected += [(f"hub_{family}", "rank", CANDIDATES) for family in HUB]
    assert [(row["architecture"], row["path"], row["candidates"]) for row in result["rows"]] == expected
    for row in result["rows"]:
        check_row(row)
    printed = capsys.readouterr()
    assert out.with_suffix(".txt").read_text() in printed.out and printed.out.endswith(f"{NO_GPU}\n")
    assert "[49/54] visualglm train_fca_tse_cached" in printed.err and "[rss] bliva" in printed.err
    assert sorted(path.name for path in out.parent.iterdir()) == ["bench.json", "bench.txt"]


RSS = {"candidates": 100, "batch": 2, "prefix_bytes": 2**30, "packed_bytes": 2**30, "ratio": 1.0}


def check_row(row):
    assert tuple(row) == FIELDS
    untimed = row["architecture"] == "visualglm" and row["candidates"] in (45, 100)
    assert (row["batch"], row["repeats"]) == (2, 1)
    assert row["ours_s"] > 0 and row["floor_s"] > 0
    assert row["ratio_floor"] == pytest.approx(row["ours_s"] / row["floor_s"])
    if untimed:
        assert row["naive_s"] is row["ratio_naive"] is row["forwards"]["naive"] is None
    else:
        assert row["ratio_naive"] == pytest.approx(row["naive_s"] / row["ours_s"])


@pytest.mark.parametrize("only", ["train_plain", "instructblip"])
def test_only_leaves_the_rest_out(only, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.bench.command.rss_row", lambda name, **_: RSS | {"architecture": name})
    out = tmp_path / "bench.json"
    bench.main([f"out={out}", "repeats=1", f"only={only}"], size="MICRO")
    result = json.loads(out.read_text())
    assert len(result["rows"]) == 7
    assert {only} == {row["path" if only == "train_plain" else "architecture"] for row in result["rows"]}
    assert [row["architecture"] for row in result.get("rss", [])] == ([only] if only in ARCHITECTURES else [])


def test_six_models_are_read_once_and_score_the_same_bits_resident(tmp_path, capsys):
    out = tmp_path / "bench.json"
    bench.main([f"out={out}", "repeats=1", "batch=2", "only=targets"], size="MICRO")
    result = json.loads(out.read_text())
    row = result["targets"]
    # Two towers, four LLMs, and what is left of each model; apart every model has three files.
    assert result["rows"] == [] and (row["files"], row["reads_an_epoch"]) == (12, 18)
    assert row["ratio"] == pytest.approx(row["auto_s"] / row["apart_s"]) and row["ratio_bytes"] < 0.7
    assert (
        "12 files read once" in capsys.readouterr().out and "18 in every epoch" in out.with_suffix(".txt").read_text()
    )


def test_a_resident_model_that_differs_in_a_bit_is_refused(monkeypatch):
    load = Stored.load

    def other(self, reads, *, shared):
        model = load(self, reads, shared=shared)
        if shared and self.model.name == "bliva":
            self.parameters["connector.projection.bias"].data = self.parameters["connector.projection.bias"].data + 1
        return model

    monkeypatch.setattr(Stored, "load", other)
    with pytest.raises(RuntimeError, match="Scores differ between models that share weights"):
        targets_row(batch=2, repeats=1, size=MICRO)


def test_a_frame_that_passes_a_tower_twice_is_refused(monkeypatch):
    monkeypatch.setattr(TowerFeatures, "_keep", lambda self, key, features: None)
    with pytest.raises(RuntimeError, match=r"2 frames passed the towers as {'eva': 10, 'own': 2}. Expected each once"):
        targets_row(batch=2, repeats=1, size=MICRO)


def test_wrong_options_are_refused_before_any_work():
    with pytest.raises(ValueError, match=r"Unknown only='minigpt'\. Did you mean 'minigpt4'"):
        bench.main(["only=minigpt"])
    with pytest.raises(ValueError, match="repeats >= 1"):
        bench.main(["repeats=0"])


def test_slow_naive_sides_are_timed_once(monkeypatch):
    monkeypatch.setattr("experiments.bench.measure.PATIENCE", 0.0)
    model, passes = build_bench_model("minigpt4", MICRO), []
    task = rank_group(model, 2, MICRO)[0]
    counting = task._replace(naive=lambda: [passes.append(1), task.naive()][1])
    assert [row["repeats"] for row in measure(model, [counting], 3)] == [1]
    assert len(passes) == 1


def test_the_table_has_a_line_for_each_row():
    task_row = dict.fromkeys(FIELDS, 1.0) | {"architecture": "bliva", "path": "train_fca_tse_cached"}
    task_row |= {"candidates": None, "naive_s": None, "ratio_naive": None, "forwards": {"ours": ONCE, "naive": None}}
    text = bench_text([task_row], [RSS | {"architecture": "bliva"}])
    assert "train_fca_tse_cached" in text and "1/1, -" in text and max(map(len, text.splitlines())) <= 120


@pytest.mark.slow
def test_peak_memory_is_measured_in_processes_of_its_own():
    ballast = torch.zeros(2**28)  # a gigabyte here must not be counted there
    row = rss_row("minigpt4", batch=1, candidates=10, size="MICRO")
    assert 2**27 < row["prefix_bytes"] < 2**30 + 2**29 and 0.5 < row["ratio"] < 2
    assert ballast.sum() == 0


def test_the_gpu_variant_says_when_there_is_none(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert bench.main(["only=gpu"]) == 0
    assert capsys.readouterr().out == f"{NO_GPU}\n"


def test_flops_agree_with_hand_arithmetic():
    llm = build_bench_model("minigpt4", MICRO).llm
    (d, layers, _, mlp), length = MICRO.llm, 7
    weights = 4 * d * d + 3 * d * mlp  # q, k, v, o and the three of the gated feed-forward
    attention = 2 * length * length * d  # scores, and values
    with torch.no_grad():
        trunk = flops(lambda: llm.model(inputs_embeds=torch.randn(1, length, d), use_cache=False))
        head = flops(lambda: llm.lm_head(torch.randn(1, 3, d)))
    assert trunk == 2 * layers * (length * weights + attention)
    assert head == 2 * 3 * d * MICRO.vocab


def test_tokens_through_the_llm_are_counted():
    model, inputs = build_bench_model("minigpt4", MICRO), bench_inputs(2, MICRO)
    before_and_after = 1 + 2 + 2 + 7  # BOS, `<Img` `>`, `</Im` `g>`, seven pieces of the question
    with llm_tokens(model) as tokens:
        model.score(frames_of(inputs), inputs.questions, ["no", "yes"])
    assert tokens == [2 * (before_and_after + MICRO.queries)]


def test_the_share_of_peak_is_known_for_named_devices_only():
    assert device_peak("NVIDIA H200") == 989 and device_peak("NVIDIA H100 PCIe") == 756
    assert device_peak("Some Card") is None


@pytest.mark.slow
def test_the_gpu_variant_needs_only_torch_and_transformers():
    """Its passes run on the CPU at a tiny size in a process where our other requirements cannot be imported."""
    code = """
import sys
for name in BLOCKED: sys.modules[name] = None
from experiments.bench import __main__ as bench
from experiments.bench.gpu import flops, gpu_calls, resident_line, resident_row
from experiments.bench.models import ARCHITECTURES, MICRO, bench_inputs, build_bench_model
import torch
torch.cuda.is_available = lambda: False
bench.main(["only=gpu"])
model = build_bench_model("instructblip", MICRO)
print(*[path for path, _, call in gpu_calls(model, bench_inputs(2, MICRO), MICRO) if flops(call) > 0])
row = resident_row(frames=2, repeats=1, sizes=dict.fromkeys(ARCHITECTURES, MICRO), device="cpu", dtype=torch.float32)
print(resident_line(row).split(":")[0])
"""
    blocked = ["lightning", "open_clip", "torchvision", "torchmetrics", "wandb", "omegaconf", "rich", "scipy", "PIL"]
    code = code.replace("BLOCKED", repr(blocked))
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == [NO_GPU, "rank rank train_fca", "6 models resident, 2 frames each"]


def test_every_gpu_pass_runs_for_every_architecture(model):
    calls = gpu_calls(model, bench_inputs(2, MICRO), MICRO)
    assert [(path, n) for path, n, _ in calls] == [("rank", 10), ("rank", 100), ("train_fca", None)]
    for _, _, call in calls:
        call()


SIZES = dict.fromkeys(ARCHITECTURES, MICRO)


def test_six_resident_models_hold_eva_and_vicuna_once():
    models = resident_models(SIZES, "cpu", torch.float32)
    towers, llms, rest = (
        {tuple(p.data_ptr() for p in part(model).parameters()) for model in models.values()}
        for part in (lambda m: m.connector.vision.encoder, lambda m: m.llm, lambda m: m.connector.projection)
    )
    assert (len(towers), len(llms), len(rest)) == (2, 4, 6)


def test_an_epoch_over_six_resident_models_is_measured_with_a_tower_pass_for_several():
    row = resident_row(frames=5, batch=2, repeats=1, sizes=SIZES, device="cpu", dtype=torch.float32)
    assert (row["models"], row["frames"], row["batch"], row["candidates"]) == (6, 5, 2, 10)
    assert (row["tower_passes"], row["tower_asked"]) == (
        2 * 3,
        6 * 3,
    )  # EVA and a tower of its own; what BLIVA reads beside is known after the first round
    assert row["once_bytes"] < row["apart_bytes"] and row["ours_s"] > 0 and row["tflops_per_s"] > 0
    told = resident_line(row | {"share_of_peak": 0.4})
    assert "6 models resident, 5 frames each" in told and "40% of peak" in told and "6 tower passes for 18" in told


def test_a_gpu_s_run_measures_every_row_and_the_resident_models(monkeypatch, tmp_path, capsys):
    """On a CPU in the place of the GPU, at a tiny size."""
    from experiments.bench import gpu

    for name, value in {"is_available": True, "get_device_name": "NVIDIA H200", "max_memory_allocated": 2**30}.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    for name in ("reset_peak_memory_stats", "synchronize", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    built = gpu.build_bench_model
    monkeypatch.setattr(gpu, "build_bench_model", lambda name, size, **_: built(name, MICRO))
    monkeypatch.setattr(gpu, "PUBLISHED_SHAPES", SIZES)
    monkeypatch.setattr(gpu, "resident_row", lambda **how: resident_row(**how, frames=4, sizes=SIZES, device="cpu"))
    monkeypatch.setattr(gpu, "ARCHITECTURES", ("minigpt4",))
    assert bench.main([f"out={tmp_path / 'gpu.json'}", "only=gpu", "batch=2", "repeats=1"]) == 0
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert result["device"] == "NVIDIA H200" and [row["path"] for row in result["rows"]] == [
        "rank",
        "rank",
        "train_fca",
    ]
    for row in result["rows"]:
        assert row["tokens_per_s"] > 0 and row["share_of_peak"] == pytest.approx(row["tflops_per_s"] / 989)
    assert result["targets"]["frames"] == 4 and "6 models resident" in capsys.readouterr().out
